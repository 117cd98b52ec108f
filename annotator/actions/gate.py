"""Where accepting unseen stands, for whoever shows it. Nothing here writes."""

from dataclasses import dataclass
from typing import Any

from annotator import queries
from annotator.actions import round_checks, rounds
from annotator.actions.certifying import DRAW_AT_MOST, GIVEN_BACK, accepted_unseen, standing_certificates
from annotator.models import AuditEvent, Certificate, Item, Look, Project, ProjectSettings, Proposal, Split


@dataclass(frozen=True)
class GivenBack:
    """Labels that were accepted unseen and are not any more: how many, how many of them still wait, when and why."""

    count: int
    waiting: int
    why: str
    at: Any


def given_back(project: Project) -> GivenBack | None:
    """The newest withdrawal, while any of its labels waits for a person. Two queries."""
    waiting = Proposal.objects.filter(project=project, state=Proposal.State.PENDING, certificate__isnull=False).count()
    event = AuditEvent.objects.filter(project=project, verb=GIVEN_BACK).first() if waiting else None
    if event is None:
        return None
    return GivenBack(event.detail["count"], waiting, event.detail["why"], event.at)


@dataclass(frozen=True)
class Gate:
    """Where accepting unseen stands. accepted, review, asking: open images of the pool in the three bands; checking:
    those of the running round, in none of them. round: how far that is; offer: what the next may be about, or
    why_none.

    missing: random checks still wanted before the next look can certify anything, None while no model says; next_at:
    how many answered ones the next look waits for, None when no error is left. waiting: checks not answered yet.
    is_of_old_settings: the newest model worked these out for another target, certainty or kind of threshold.
    """

    settings: ProjectSettings
    certificates: list[Certificate]
    look: Look | None
    accepted: int
    review: int
    asking: int
    answers: int
    missing: int | None
    next_at: int | None
    waiting: int
    given_back: GivenBack | None
    checking: int = 0
    round: round_checks.Progress | None = None
    offer: rounds.Offer | None = None
    why_none: str = ""
    is_of_old_settings: bool = False

    @property
    def is_out_of_reach(self) -> bool:
        """Whether the next look waits for more random checks than are left to answer."""
        return self.next_at is not None and self.next_at - self.answers > self.waiting

    @property
    def is_impossible(self) -> bool:
        """Whether there are not as many images as a certificate lacks random checks."""
        there = self.accepted + self.review + self.asking + self.checking
        return self.missing is not None and self.missing > self.waiting + there

    @property
    def by_hand(self) -> int:
        """Images still to be labelled, where a certificate costs as many answers as labelling them; 0 where not."""
        still_open = self.review + self.asking + self.checking
        return still_open if self.missing is not None and self.missing >= still_open else 0

    @property
    def is_short(self) -> bool:
        """Whether the random checks there are cannot be enough."""
        return self.missing is not None and self.missing > self.waiting

    @property
    def promised(self) -> int:
        """Images the standing certificates speak for."""
        return sum(each.rest for each in self.certificates)

    @property
    def to_draw(self) -> int:
        """Checks to draw, so that there are enough; at most half of what is open."""
        lacking = (self.missing or 0) - self.waiting
        there = self.accepted + self.review + self.asking + self.checking
        return max(0, min(lacking, there // 2, DRAW_AT_MOST))


def gate_of(project: Project) -> Gate:
    """Some fifteen small queries."""
    counts = queries.pool_counts(project)
    model = queries.current_model(project)
    said = (model.metrics.get("gate") if model else None) or {}
    still_open, accepted = counts[Split.POOL][Item.State.OPEN], accepted_unseen(project).count()
    review = Proposal.objects.filter(project=project, state=Proposal.State.PENDING).count()
    going = round_checks.progress(project)
    checking = min(going.round.size - going.answered, still_open - accepted) if going else 0
    offer, why_none = rounds.offer(project)
    chosen = project.settings
    now = [chosen.target_precision, chosen.certificate_confidence, chosen.threshold_per_class]
    return Gate(
        settings=project.settings,
        certificates=list(standing_certificates(project)),
        look=Look.objects.filter(project=project).first(),
        accepted=accepted,
        review=review,
        asking=max(0, still_open - accepted - review - checking),
        answers=said.get("answers", 0),
        missing=said.get("missing"),
        next_at=said.get("next_at"),
        waiting=counts[Split.AUDIT][Item.State.OPEN],
        given_back=given_back(project),
        checking=checking,
        round=going,
        offer=offer,
        why_none=why_none,
        is_of_old_settings=said.get("asked", now) != now,
    )
