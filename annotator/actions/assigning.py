"""Many images get a class at once, from a grid in which somebody saw them: groups of look-alikes, or a selection.

What that makes of an answer depends on what the images were. Open ones: the person's own answers, chosen by a person.
Those that fit no class, or one of a class that is split: somebody answered them before, and still says what they said;
the person who sees them now decides, and a decision outweighs what others said without putting words in their mouth.
Random checks and test images are never among them: who sees an image beside its look-alikes does not measure anything.
"""

import uuid as uuids
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from annotator import jobs, queries
from annotator.actions import certifying, classes, labeling, rounds, training
from annotator.actions.class_changes import copied, hold_classes, merged_into, naming
from annotator.actions.proposing import lock_proposals
from annotator.errors import Conflict, InvalidClass, NotAllowed, NotFound
from annotator.models import (
    Annotation,
    AuditEvent,
    Certificate,
    Item,
    Job,
    LabelClass,
    Project,
    Proposal,
    QueueEntry,
    Round,
    RoundCheck,
    Split,
)

ASSIGNED, TAKEN_BACK = "gave images a class", "took images back from a class"
AT_ONCE = 500


@dataclass(frozen=True)
class LeftAlone:
    """An image that was left as it is, and why."""

    item_id: int
    why: str


@dataclass
class Assigned:
    """What became of a screenful. ``event_id`` takes it back."""

    label_class: LabelClass
    event_id: int
    given: int = 0
    asked_again: int = 0
    left: list[LeftAlone] = field(default_factory=list)


@transaction.atomic
def assign_images(
    *,
    project: Project,
    actor: User,
    of: str,
    item_ids: Iterable[int],
    class_id: int | None = None,
    name: str = "",
    may_add: bool = False,
    ask_checks_again: bool = False,
) -> Assigned:
    """Give these images to a class, by id or by name; a name that there is none of makes a new one where ``may_add``.

    of: what they are now, as queries.grouped_class reads it. ask_checks_again: for images of a class, whether the
    random checks that were answered with it are asked anew, since each may be of either class now. Images that are no
    more what they were, that somebody is answering, and random checks are left alone and reported; Conflict when that
    leaves none, and nothing is made then. Raises InvalidClass, NotFound, NotAllowed for a new class.

    Locks the classes, the project's row for a new class, the items, and the proposals where a class is split.
    """
    hold_classes(project)
    wanted = list(dict.fromkeys(item_ids))
    if not wanted or len(wanted) > AT_ONCE:
        raise InvalidClass(
            _("%(n)s images were ticked; tick 1 to %(most)s") % {"n": f"{len(wanted):,}", "most": AT_ONCE}
        )
    source = queries.grouped_class(project, of)
    target, is_new = _target(project, actor, class_id, name, may_add)
    if target == source:
        raise Conflict(_("these images are of the class %(name)s already; choose another") % {"name": target.name})
    items = {
        item.pk: item
        for item in Item.objects.select_for_update(no_key=True).filter(project=project, pk__in=wanted).order_by("pk")
    }
    if missing := [pk for pk in wanted if pk not in items]:
        raise NotFound(_("there is no image %(id)s in this project") % {"id": missing[0]})
    left = _left_alone(project, actor, of, items)
    if len(left) == len(wanted):
        raise Conflict(_("nothing was changed: %(why)s") % {"why": left[0].why})
    event = classes.note(
        project.pk, actor, ASSIGNED, **{"class": target.pk, "name": target.name, "new": is_new, "of": of}
    )
    if source is not None:
        event.detail["from_name"] = source.name
    alone = {each.item_id for each in left}
    given = [_give(item, actor, of, target, event) for item in items.values() if item.pk not in alone]
    Proposal.objects.filter(item__in=[each.item_id for each in given], state__in=Proposal.UNDECIDED).update(
        state=Proposal.State.WITHDRAWN
    )
    event.detail |= {"count": len(given), "annotations": [each.pk for each in given], "asked_again": 0}
    if source is not None:
        event.detail["asked_again"] = _ask_again(project, source, event) if ask_checks_again else 0
        _promise_no_more(project, source, actor)
    event.save(update_fields=["detail"])
    if source is not None or is_new:
        jobs.enqueue(project, Job.Kind.REFIT)
    else:
        training.refit_when_due(project=project)
    return Assigned(target, event.pk, len(given), event.detail["asked_again"], left)


def _target(project: Project, actor: User, class_id: int | None, name: str, may_add: bool) -> tuple[LabelClass, bool]:
    """The open class, and whether it is new. One that was merged means the other; an archived one comes back."""
    name = " ".join(name.split())
    if class_id is None and not name:
        raise InvalidClass(_("choose a class, or type the name of a new one"))
    wanted = project.classes.filter(pk=class_id) if class_id is not None else project.classes.filter(name__iexact=name)
    found = wanted.first()
    if found is None and class_id is not None:
        raise NotFound(_("there is no class %(id)s in this project; reload the page") % {"id": class_id})
    if found is not None and found.merged_into_id is not None:
        found = LabelClass.objects.get(pk=merged_into(project)[found.pk])
    if found is not None and not found.is_archived:
        return found, False
    if not may_add:
        raise NotAllowed(
            _("only an owner adds classes or brings them back; there is no open class called %(name)s")
            % {"name": found.name if found else name}
        )
    if found is not None:
        return classes.archive_class(label_class=found, actor=actor, archived=False), False
    return classes.add_class(project=project, actor=actor, name=name), True


def _left_alone(project: Project, actor: User, of: str, items: dict[int, Item]) -> list[LeftAlone]:
    still = set(queries.groupable_items(project, of).filter(pk__in=items).values_list("pk", flat=True))
    held = QueueEntry.objects.filter(item__in=items, leased_until__gt=timezone.now(), leased_by__isnull=False)
    holders = {
        entry.item_id: str(entry.leased_by)
        for entry in held.exclude(leased_by_id=actor.pk).select_related("leased_by")
    }
    left = []
    for item in items.values():
        if item.split != Split.POOL:
            left.append(LeftAlone(item.pk, _("it is a random check or test image, answered without others in sight")))
        elif item.pk not in still:
            left.append(LeftAlone(item.pk, _("somebody answered this image meanwhile")))
        elif item.pk in holders:
            left.append(LeftAlone(item.pk, _("%(who)s is answering this image right now") % {"who": holders[item.pk]}))
    return left


def _give(item: Item, actor: User, of: str, target: LabelClass, event: AuditEvent) -> Annotation:
    is_open = of == queries.OPEN_IMAGES
    answer = Annotation.objects.create(
        uuid=uuids.uuid4(),
        project_id=item.project_id,
        item=item,
        annotator_id=actor.pk,
        kind=Annotation.Kind.LABEL,
        value=naming(target.project, target.pk),
        reason_code=QueueEntry.Reason.CHOSEN if is_open else Annotation.DECISION,
        reason_data={"was": of.partition(":")[0], "event": event.pk},
        supersedes=queries.current_annotation(item, actor),
    )
    labeling.close_item(item)
    return answer


def answered_checks(project: Project, label_class: LabelClass) -> Any:
    """The random checks whose current answers name this class."""
    named = Annotation.objects.filter(
        project=project,
        kind=Annotation.Kind.LABEL,
        value=naming(project, label_class.pk),
        superseded_by__isnull=True,
        item__split=Split.AUDIT,
    )
    return Item.objects.filter(pk__in=named.values("item_id"))


def _ask_again(project: Project, source: LabelClass, event: AuditEvent) -> int:
    """Make every random check that was answered with this class open again; how many there were.

    Each answer is retracted, in the name of whoever gave it, by the event: what it said was true of a class that is
    not the same any more.
    """
    checks = answered_checks(project, source).select_for_update(no_key=True).order_by("pk")
    reopened = list(checks)
    for item in reopened:
        for answer in queries.current_annotations(item):
            if answer.value == naming(project, source.pk):
                Annotation.objects.create(
                    uuid=uuids.uuid4(),
                    project=project,
                    item=item,
                    annotator_id=answer.annotator_id,
                    kind=Annotation.Kind.RETRACTION,
                    moved_by=event,
                    supersedes=answer,
                )
        labeling.close_item(item, after_undo=True)
    return len(reopened)


def _promise_no_more(project: Project, source: LabelClass, actor: User) -> None:
    """What is accepted unseen as this class, or certified of it, was promised of the class as it was."""
    lock_proposals(project)
    why = f"the class {source.name} was split"
    unseen = certifying.accepted_unseen(project).filter(label_class=source)
    about = Q(label_class=source) | Q(pk__in=unseen.values("certificate"))
    touched: list[Certificate] = list(certifying.standing_certificates(project).filter(about))
    certifying.give_back(touched, why=why, actor=actor)
    checks = RoundCheck.objects.filter(round__state=Round.State.RUNNING, predicted=source)
    for drawn in Round.objects.filter(
        Q(label_class=source) | Q(pk__in=checks.values("round")), project=project, state=Round.State.RUNNING
    ):
        rounds.fail_round(drawn=drawn, why=why)


# --- taking it back -------------------------------------------------------------------------------------------------


@transaction.atomic
def take_assignment_back(*, project: Project, actor: User, event_id: int, is_owner: bool = False) -> int:
    """Undo one screenful as one act; how many images it took back. What was changed since stays as it is.

    Random checks that were asked anew because of it have their answers again, unless they have new ones. A class that
    was made for it, and that nothing names any more, is archived. Who gave the images takes them back, or an owner.
    Raises NotFound, NotAllowed, Conflict for one that was taken back already. Locks the classes, the project's row,
    the items.
    """
    hold_classes(project)
    classes.lock_project(project.pk)
    event = AuditEvent.objects.filter(project=project, verb=ASSIGNED, pk=event_id).first()
    if event is None:
        raise NotFound(_("there is no such change %(id)s in this project") % {"id": event_id})
    if event.actor_id != actor.pk and not is_owner:
        raise NotAllowed(_("somebody else did this; they take it back themselves, or an owner does"))
    if AuditEvent.objects.filter(project=project, verb=TAKEN_BACK, detail__event=event.pk).exists():
        raise Conflict(_("this was taken back already; nothing was changed"))
    given = Annotation.objects.filter(pk__in=event.detail["annotations"])
    times = dict(given.values_list("item_id", "created_at"))
    asked = Annotation.objects.filter(moved_by=event, kind=Annotation.Kind.RETRACTION, superseded_by__isnull=True)
    both = Q(pk__in=list(times)) | Q(pk__in=asked.values("item_id"))
    items = {item.pk: item for item in Item.objects.select_for_update(no_key=True).filter(both).order_by("pk")}
    undone = 0
    for answer in Annotation.objects.filter(
        item__in=list(times), annotator_id=event.actor_id, superseded_by__isnull=True
    ).order_by("item_id"):
        # By its time: one that was moved by a merge since has another id.
        if answer.kind == Annotation.Kind.LABEL and answer.created_at == times[answer.item_id]:
            labeling.take_back(answer, items[answer.item_id], uuids.uuid4())
            undone += 1
    answered_again = 0
    for retraction in asked.select_related("supersedes").order_by("item_id", "pk"):
        assert retraction.supersedes is not None
        copied(retraction.supersedes, behind=retraction)
        labeling.close_item(items[retraction.item_id], after_undo=True)
        answered_again += 1
    label_class = LabelClass.objects.get(pk=event.detail["class"])
    detail = {"event": event.pk, "class": label_class.pk, "name": label_class.name, "count": undone}
    classes.note(project.pk, actor, TAKEN_BACK, **detail)
    is_named = Annotation.objects.filter(
        project=project, value=naming(project, label_class.pk), superseded_by__isnull=True
    ).exists()
    if event.detail["new"] and not is_named and not label_class.is_archived:
        classes.archive_class(label_class=label_class, actor=actor, archived=True)
    jobs.enqueue(project, Job.Kind.REFIT)
    return undone + answered_again
