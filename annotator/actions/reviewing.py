"""Decisions on proposals: a screenful in one transaction, each one recorded as an answer of the reviewer."""

import uuid as uuids
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from annotator import queries, task_types
from annotator.actions import class_changes, flagging, labeling, proposing, training
from annotator.errors import InvalidAnnotation, NotFound
from annotator.models import Annotation, AuditEvent, Item, Project, Proposal, QueueEntry, Split
from annotator.wording import within

# A withdrawn proposal may still be decided: it only means a newer model says otherwise, and a person outranks both.
# So may one that was accepted unseen: somebody looks now.
DECIDABLE = (*Proposal.UNDECIDED, Proposal.State.WITHDRAWN)
DECISIONS_AT_MOST = 1000
# What is done to a screenful is one event, of proposals or of labels (actions/checking.py); so is its undo.
REVIEWED, CHECKED, TAKEN_BACK = "reviewed proposals", "checked labels", "took back a review"
UNDOABLE = (REVIEWED, CHECKED)


@dataclass(frozen=True)
class Conflicting:
    """A proposal that was left as it is, and why."""

    proposal_id: int
    why: str


@dataclass
class Decision:
    """What became of a screenful. ``event_id`` undoes it."""

    accepted: int = 0
    rejected: int = 0
    corrected: int = 0
    conflicts: list[Conflicting] = field(default_factory=list)
    event_id: int | None = None


@dataclass(frozen=True)
class Settled:
    """A proposal, what is said of it, and the value where that is another one."""

    proposal: Proposal
    verdict: str
    value: Any


@transaction.atomic
def decide(
    *,
    project: Project,
    reviewer: User,
    accepted: list[int] | None = None,
    rejected: list[int] | None = None,
    corrected: dict[int, Any] | None = None,
    place: str = "",
) -> Decision:
    """Accept, reject and correct proposals by id. ``corrected`` maps a proposal to what the task type's clean takes.

    Every decision becomes an annotation of the reviewer that settles the proposal: a label when accepted or
    corrected, a rejection ("not this") otherwise, whose item stays open and goes back to the queue. Proposals whose
    item somebody has answered or holds meanwhile are left alone and reported. Sending the same decision again counts
    the same and writes nothing. place: the address it was decided at, for an undo to lead back to. Locks the items,
    then the project's proposals.
    """
    class_changes.hold_classes(project)
    verdicts = _verdicts(project, accepted or [], rejected or [], corrected or {})
    proposals = {
        proposal.pk: proposal for proposal in Proposal.objects.filter(project=project, pk__in=verdicts).order_by("pk")
    }
    if missing := sorted(set(verdicts) - set(proposals)):
        raise NotFound(
            _("there is no proposal %(missing)s in this project; reload the page") % {"missing": missing[0]}
        )
    item_ids = [proposal.item_id for proposal in proposals.values()]
    items = {
        item.pk: item for item in Item.objects.select_for_update(no_key=True).filter(pk__in=item_ids).order_by("pk")
    }
    proposing.lock_proposals(project)
    # Read again, now that nobody else can change them.
    proposals = {proposal.pk: proposal for proposal in Proposal.objects.filter(pk__in=verdicts).order_by("pk")}
    archived = dict(project.classes.filter(is_archived=True).values_list("pk", "name"))
    holders = _holders(item_ids, reviewer)
    decision = Decision()
    written: list[int] = []
    waiting = list(proposals.values())
    while waiting:
        # An image is decided once at a time: what was said of another proposal of it depends on the first.
        first = {proposal.item_id: proposal for proposal in reversed(waiting)}
        waiting = [proposal for proposal in waiting if first[proposal.item_id] is not proposal]
        settled: list[Settled] = []
        for proposal in sorted(first.values(), key=lambda each: each.pk):
            verdict, value = verdicts[proposal.pk]
            why = _obstacle(proposal, items[proposal.item_id], holders, archived, verdict, reviewer)
            if why is not None:
                decision.conflicts.append(Conflicting(proposal.pk, why))
                continue
            if proposal.state in DECIDABLE:
                settled.append(Settled(proposal, verdict, value))
            setattr(decision, verdict, getattr(decision, verdict) + 1)
        written += _settle(settled, items, reviewer)
    if written:
        event = AuditEvent.objects.create(
            project=project,
            actor=reviewer,
            verb=REVIEWED,
            detail={
                "annotations": written,
                "accepted": decision.accepted,
                "rejected": decision.rejected,
                "corrected": decision.corrected,
                "place": place,
            },
        )
        decision.event_id = event.pk
        training.refit_when_due(project=project)
    return decision


def _verdicts(
    project: Project, accepted: list[int], rejected: list[int], corrected: dict[int, Any]
) -> dict[int, tuple[str, Any]]:
    task_type = task_types.get(project.task_type)
    merged = class_changes.merged_into(project)  # while the page was open
    class_ids = [label_class.pk for label_class in queries.open_classes(project)] + list(merged)
    verdicts: dict[int, tuple[str, Any]] = dict.fromkeys(accepted, ("accepted", None))
    verdicts |= dict.fromkeys(rejected, ("rejected", None))
    for pk, raw in corrected.items():
        verdicts[pk] = ("corrected", task_type.with_classes(task_type.clean(raw, class_ids), merged))
    if len(verdicts) != len(accepted) + len(rejected) + len(corrected):
        raise InvalidAnnotation(_("a proposal was named twice; say accept, reject or correct, once for each"))
    if not verdicts:
        raise InvalidAnnotation(_("nothing was decided; name at least one proposal"))
    if len(verdicts) > DECISIONS_AT_MOST:
        raise InvalidAnnotation(
            _("%(n)s decisions at once; send at most %(decisions_at_most)s")
            % {"n": len(verdicts), "decisions_at_most": DECISIONS_AT_MOST}
        )
    return verdicts


def _holders(item_ids: list[int], reviewer: User) -> dict[int, str]:
    held = QueueEntry.objects.filter(item_id__in=item_ids, leased_until__gt=timezone.now(), leased_by__isnull=False)
    return {
        entry.item_id: str(entry.leased_by)
        for entry in held.exclude(leased_by_id=reviewer.pk).select_related("leased_by")
    }


def _obstacle(
    proposal: Proposal,
    item: Item,
    holders: dict[int, str],
    archived: dict[int, str],
    verdict: str,
    reviewer: User,
) -> str | None:
    """Why this proposal cannot be decided now, or None. ``archived``: the names of the archived classes, by id."""
    if proposal.state == verdict and proposal.decided_by_id == reviewer.pk:
        return None
    if proposal.state not in DECIDABLE:
        return _("it was %(state)s meanwhile") % {"state": within(proposal.get_state_display())}
    if item.state != Item.State.OPEN:
        return _("somebody answered this image meanwhile")
    if item.split == Split.AUDIT:
        return _("this image became a random check meanwhile; those are answered without a proposal in sight")
    if item.pk in holders:
        return _("%(holders)s is answering this image right now") % {"holders": holders[item.pk]}
    if verdict == "accepted" and proposal.label_class_id in archived:
        return _("the class %(archived)s is archived; choose another one") % {
            "archived": repr(archived[proposal.label_class_id])
        }
    return None


def _settle(settled: list[Settled], items: dict[int, Item], reviewer: User) -> list[int]:
    """Write these decisions, one for each item; the ids of their annotations. A correction to the proposed class is an
    acceptance. Ten queries or so for all of them together."""
    item_ids = [each.proposal.item_id for each in settled]
    mine = Annotation.objects.filter(item_id__in=item_ids, annotator_id=reviewer.pk, superseded_by__isnull=True)
    before = {annotation.item_id: annotation for annotation in mine}
    now, states = timezone.now(), {}
    for each in settled:
        is_same = each.verdict == "corrected" and each.value == each.proposal.value
        states[each.proposal.pk] = "accepted" if is_same else each.verdict
    annotations = Annotation.objects.bulk_create(
        Annotation(
            uuid=uuids.uuid4(),
            project_id=each.proposal.project_id,
            item_id=each.proposal.item_id,
            annotator=reviewer,
            kind=Annotation.Kind.REJECTION if each.verdict == "rejected" else Annotation.Kind.LABEL,
            value=each.value if states[each.proposal.pk] == "corrected" else each.proposal.value,
            suggestion_shown=True,
            supersedes=before.get(each.proposal.item_id),
            settles=each.proposal,
        )
        for each in settled
    )
    for state in set(states.values()):
        decided = Proposal.objects.filter(pk__in=[pk for pk, other in states.items() if other == state])
        decided.update(state=state, decided_by=reviewer, decided_at=now)
    others = Proposal.objects.filter(item_id__in=item_ids, state__in=Proposal.UNDECIDED)
    others.update(state=Proposal.State.WITHDRAWN)
    labeling.close_items([items[item_id] for item_id in item_ids])
    return [annotation.pk for annotation in annotations]


def decision_before(*, project: Project, reviewer: User, event_id: int) -> AuditEvent | None:
    """This reviewer's last screenful before that one which still counts. Two queries."""
    taken_back = AuditEvent.objects.filter(project=project, actor=reviewer, verb=TAKEN_BACK)
    decided = AuditEvent.objects.filter(project=project, actor=reviewer, verb__in=UNDOABLE, pk__lt=event_id)
    return decided.exclude(pk__in=list(taken_back.values_list("detail__event", flat=True))).order_by("-pk").first()


@transaction.atomic
def undo_decision(*, project: Project, reviewer: User, event_id: int) -> int:
    """Take back a screenful this reviewer decided; how many decisions that was. Doing it twice takes back nothing.

    Each decision is superseded by a retraction, behind which an earlier decision of this reviewer on the same item
    counts again. A label that was doubted loses its flag. Its proposal is pending again if the item is open, has no
    newer one, and the class is in use.
    Locks the items, then the project's proposals.
    """
    class_changes.hold_classes(project)
    event = AuditEvent.objects.filter(project=project, actor=reviewer, verb__in=UNDOABLE, pk=event_id).first()
    if event is None:
        raise NotFound(_("there is no decision %(event_id)s of yours in this project") % {"event_id": event_id})
    decided = set(Annotation.objects.filter(pk__in=event.detail["annotations"]).values_list("item_id", "created_at"))
    items = {
        item.pk: item
        for item in Item.objects.select_for_update(no_key=True)
        .filter(pk__in=[item_id for item_id, _ in decided])
        .order_by("pk")
    }
    proposing.lock_proposals(project)
    undone = 0
    for annotation in _current(items, reviewer):
        # By its time: a decision that was replaced and brought back has another id.
        if (annotation.item_id, annotation.created_at) not in decided:
            continue
        labeling.take_back(annotation, items[annotation.item_id], uuids.uuid4())
        if annotation.settles is not None:
            _put_up_again(annotation.settles, items[annotation.item_id])
        undone += 1
    for flag_id in event.detail.get("flags", []):
        undone += flagging.lower_flag(project=project, flag_id=flag_id, actor=reviewer)
    if undone:
        AuditEvent.objects.create(
            project=project,
            actor=reviewer,
            verb=TAKEN_BACK,
            detail={"event": event_id, "undone": undone},
        )
    return undone


def _current(items: Iterable[int], reviewer: User) -> list[Annotation]:
    """What this reviewer's chains of answers to these items end with, with the proposals they settle."""
    ends = Annotation.objects.filter(item_id__in=items, annotator_id=reviewer.pk, superseded_by__isnull=True)
    return list(ends.select_related("settles__label_class").order_by("item_id"))


def _put_up_again(proposal: Proposal, item: Item) -> None:
    is_wanted = item.state == Item.State.OPEN and not (proposal.label_class and proposal.label_class.is_archived)
    newer = Proposal.objects.filter(item=item, state__in=Proposal.UNDECIDED).exists()
    proposal.state = _state_before(proposal) if is_wanted and not newer else Proposal.State.WITHDRAWN
    proposal.decided_by = None
    proposal.decided_at = None
    proposal.save(update_fields=["state", "decided_by", "decided_at"])


def _state_before(proposal: Proposal) -> str:
    """Accepted unseen again where its certificate still is what labels are accepted under, pending otherwise."""
    certificate = proposal.certificate
    is_unseen = certificate is not None and certificate.accepted_at is not None
    return Proposal.State.AUTO_ACCEPTED if is_unseen else Proposal.State.PENDING
