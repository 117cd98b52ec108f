"""What the pages say of accepting unseen: the panel of the dashboard, and a certificate in words."""

import math
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from annotator.access import OWN, REVIEW, allows
from annotator.actions import certifying, rounds, shares
from annotator.actions.gate import Gate, gate_of
from annotator.charts import Part
from annotator.models import Certificate, Look, Membership, Project, QueueEntry, Round
from annotator.wording import percent, promised, thousands

LOOKS_SHOWN = 12


@dataclass(frozen=True)
class LookRow:
    """A look as the table shows it. ``certified``: images it spoke for; ``ended``: why it does no more."""

    look: Look
    certified: int
    ended: str


def panel(membership: Membership) -> dict[str, Any]:
    """The context of templates/certifying.html. Some twenty queries."""
    project = membership.project
    gate = gate_of(project)
    return {
        "gate": gate,
        "bands": bands(gate),
        "promises": [promise(each) for each in gate.certificates],
        "looks": look_rows(project),
        "may_own": allows(membership.role, OWN),
        "may_review": allows(membership.role, REVIEW),
        "target": promised(gate.settings.target_precision),
        "certainty": promised(gate.settings.certificate_confidence),
        "lower": promised(gate.look.preview["target"]) if gate.look and gate.look.preview else "",
        "draw_at_most": certifying.DRAW_AT_MOST,
        "offered": offered(project, gate.offer) if gate.offer else None,
        "last_round": Round.objects.filter(project=project).exclude(state=Round.State.RUNNING).first(),
    }


@dataclass(frozen=True)
class Offered:
    """A region for a round, in words. ``cost``: what it takes with one error, with two, and so on. ``share``: of the
    answers, what its checks get while it runs; ``answers``: so many until it is judged first, None without a share."""

    where: str
    first: int
    cost: list[tuple[str, int]]
    chance: str
    share: str
    answers: int | None
    lower: str
    lower_at: int | None


def offered(project: Project, offer: rounds.Offer) -> Offered:
    """What a round would be about and cost. At most one query."""
    named = project.classes.filter(pk=offer.class_id).first() if offer.class_id is not None else None
    share = shares.shares(project.settings, is_round_running=True)[QueueEntry.Reason.AUTOMATIC]
    words = (_("one error"), _("two"), _("three"), _("four"), _("five"), _("six"))
    return Offered(
        where=named.name if named else "",
        first=offer.cost[0],
        cost=list(zip(words, offer.cost[1:], strict=False)),
        chance=percent(offer.chance),
        share=percent(share),
        answers=math.ceil(offer.cost[0] / share) if share > 0 else None,
        lower=promised(offer.lower["target"]) if offer.lower else "",
        lower_at=offer.lower.get("at"),
    )


def bands(gate: Gate) -> list[Part]:
    """The open images of the pool, by what becomes of them."""
    return [
        Part(_("Accepted unseen"), gate.accepted, "accepted"),
        Part(_("Proposed for review"), gate.review, "review"),
        Part(_("Kept for asking"), gate.asking, "open"),
    ] + [Part(_("In the running round"), gate.checking, "none_of_these")] * (gate.checking > 0)


def promise(certificate: Certificate) -> str:
    """What a certificate says, as a sentence."""
    errors = ngettext("%(n)s error", "%(n)s errors", certificate.errors) % {"n": thousands(certificate.errors)}
    words = {
        "confidence": promised(certificate.confidence),
        "target": promised(certificate.target),
        "images": thousands(certificate.rest),
        "named": certificate.label_class.name if certificate.label_class else "",
        "errors": errors,
        "checks": thousands(certificate.n),
        "number": certificate.round.number if certificate.round else 0,
    }
    # Whole sentences, each of them: pieces cannot be put together in every language.
    if certificate.round and certificate.label_class:
        said = _(
            "With %(confidence)s confidence at least %(target)s of the %(images)s images of round %(number)s, which"
            " the model was surest of as %(named)s, are right: %(errors)s in %(checks)s random checks among them."
        )
    elif certificate.round:
        said = _(
            "With %(confidence)s confidence at least %(target)s of the %(images)s images of round %(number)s, which"
            " the model was surest of, are right: %(errors)s in %(checks)s random checks among them."
        )
    elif certificate.label_class:
        said = _(
            "With %(confidence)s confidence at least %(target)s of the %(images)s images the model is surest of as"
            " %(named)s are right: %(errors)s in %(checks)s random checks."
        )
    else:
        said = _(
            "With %(confidence)s confidence at least %(target)s of the %(images)s images the model is surest of are"
            " right: %(errors)s in %(checks)s random checks."
        )
    return said % words


def look_rows(project: Project) -> list[LookRow]:
    """The newest looks, newest first. Two queries."""
    looks = Look.objects.filter(project=project).select_related("model_version").prefetch_related("certificates")
    return [
        LookRow(
            each,
            sum(given.rest for given in each.certificates.all()),
            next((given.ended_why for given in each.certificates.all() if given.ended_at), ""),
        )
        for each in looks[:LOOKS_SHOWN]
    ]
