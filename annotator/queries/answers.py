"""What people hold, what they said, and what an image is labelled by that."""

import json
from collections import Counter
from typing import Any

from django.contrib.auth.models import User
from django.db.models import Count, QuerySet
from django.utils import timezone

from annotator import task_types
from annotator.models import (
    Annotation,
    Item,
    LabelClass,
    Project,
    QueueEntry,
    Split,
)
from annotator.queries.reasons import ASKED_AGAIN


def open_classes(project: Project) -> list[LabelClass]:
    """The classes people may choose, in their order."""
    return list(project.classes.filter(is_archived=False))


def held_entries(project: Project, user: User) -> QuerySet[QueueEntry]:
    """What this person holds now, in rank order, with the items."""
    return (
        QueueEntry.objects.select_related("item")
        .filter(project=project, leased_by_id=user.pk, leased_until__gt=timezone.now())
        .order_by("rank", "id")
    )


def other_holders(project: Project, user: User) -> list[QueueEntry]:
    """What others hold now: for telling somebody who finds the queue empty."""
    held = QueueEntry.objects.select_related("leased_by").filter(project=project, leased_until__gt=timezone.now())
    return list(held.exclude(leased_by_id=user.pk).exclude(leased_by__isnull=True).order_by("leased_until")[:50])


def current_annotation(item: Item, user: User) -> Annotation | None:
    """The end of this person's chain of answers to the item (it may be a retraction), or None."""
    return Annotation.objects.filter(item=item, annotator_id=user.pk, superseded_by__isnull=True).first()


def current_annotations(item: Item) -> list[Annotation]:
    """The current answers of everybody to the item, retractions left out, oldest first."""
    chain_ends = Annotation.objects.filter(item=item, superseded_by__isnull=True)
    return list(chain_ends.exclude(kind=Annotation.Kind.RETRACTION).order_by("id"))


def counted_answers(current: list[Annotation]) -> list[Annotation]:
    """Of the current answers to one item those that say what it is: people's, or, without any, imported labels.

    Where two or more views of it have equally many people behind them and the newest was given as a blind check of a
    suspected label, that one alone counts: model and checker then speak against the first answer, or the checker
    looked again, knowing that one of the two may be a slip, and the first person did not. A second opinion is no such
    check. Nothing spoke against the first answer, so the two stay level until somebody else decides. What a reviewer
    decided outweighs everything, the newest decision where there are several.
    """
    naming = (Annotation.Kind.LABEL, Annotation.Kind.NONE_OF_THESE)
    people = [each for each in current if each.kind in naming and each.source == Annotation.Source.PERSON]
    if not people:
        return [each for each in current if each.kind == Annotation.Kind.LABEL]
    decisions = [each for each in people if each.reason_code == Annotation.DECISION]
    if decisions:
        return [max(decisions, key=lambda each: (each.created_at, each.pk))]
    views = Counter(json.dumps([each.kind, each.value], sort_keys=True) for each in people).most_common(2)
    if len(views) == 2 and views[0][1] == views[1][1]:
        # By the time it was given: what an undo brought back is as old as it was.
        newest = max(people, key=lambda each: (each.created_at, each.pk))
        if newest.reason_code == QueueEntry.Reason.SUSPECT:
            return [newest]
    return people


def settled_value(task_type: Any, current: list[Annotation]) -> dict[str, Any] | None:
    """What these current answers to one item settle on, or None: most say none of these, or nothing has a majority."""
    return _settled(task_type, counted_answers(current))[0]


def is_disputed(task_type: Any, current: list[Annotation]) -> bool:
    """Whether people answered an item differently and neither side has more of them."""
    value, is_none = _settled(task_type, counted := counted_answers(current))
    return bool(counted) and value is None and not is_none


def _settled(task_type: Any, counted: list[Annotation]) -> tuple[dict[str, Any] | None, bool]:
    """The value, and whether it is none of the classes instead."""
    labels = [each.value for each in counted if each.kind == Annotation.Kind.LABEL]
    against = len(counted) - len(labels)
    value: dict[str, Any] | None = task_type.consensus(labels)
    agree = 0 if value is None else sum(task_type.agreement(each, value) >= 0.5 for each in labels)
    if agree > against:
        return value, False
    return None, against > max(Counter(json.dumps(each, sort_keys=True) for each in labels).values(), default=0)


def pool_counts(project: Project) -> dict[str, dict[str, int]]:
    """Items by split and state; every split and state is there, 0 included."""
    counts: dict[str, dict[str, int]] = {split: dict.fromkeys(Item.State.values, 0) for split in Split.values}
    for row in Item.objects.filter(project=project).values("split", "state").annotate(n=Count("pk")).order_by():
        counts[row["split"]][row["state"]] = row["n"]
    return counts


def class_balance(project: Project) -> list[tuple[LabelClass, int]]:
    """Labelled items by class over pool and audit, open classes in their order, archived ones with labels after them.

    Three queries. An item that people answered differently counts once, as what it is settled on, or not at all.
    """
    labels = Annotation.objects.filter(
        project=project, kind=Annotation.Kind.LABEL, superseded_by__isnull=True
    ).exclude(item__split=Split.TEST)
    task_type = task_types.get(project.task_type)
    counts: Counter[int] = Counter()
    for row in labels.values("value").annotate(n=Count("item", distinct=True)).order_by():
        for class_id in task_type.class_ids(row["value"] or {}):
            counts[class_id] += row["n"]
    for given in _answered_differently(project).values():
        values = [each.value or {} for each in given if each.kind == Annotation.Kind.LABEL]
        for named in {json.dumps(each): each for each in values}.values():
            counts.subtract(task_type.class_ids(named))
        value = settled_value(task_type, given)
        counts.update(task_type.class_ids(value) if value else [])
    classes = sorted(project.classes.all(), key=lambda each: (each.is_archived, each.position, each.pk))
    return [(each, counts[each.pk]) for each in classes if not each.is_archived or counts[each.pk]]


def _answered_differently(project: Project) -> dict[int, list[Annotation]]:
    """The current answers to items outside the test set that do not all say the same, by item."""
    current = Annotation.objects.filter(project=project, superseded_by__isnull=True).exclude(item__split=Split.TEST)
    again = current.filter(reason_code__in=[*ASKED_AGAIN, Annotation.DECISION])
    naming = current.filter(
        kind__in=[Annotation.Kind.LABEL, Annotation.Kind.NONE_OF_THESE], item__in=again.values("item")
    )
    says = (
        naming.order_by()
        .values("item")
        .annotate(n=Count("pk"), labels=Count("value"), said=Count("value", distinct=True))
    )
    differently = [row["item"] for row in says if row["said"] > 1 or (row["labels"] and row["labels"] < row["n"])]
    answers: dict[int, list[Annotation]] = {item_id: [] for item_id in differently}
    for annotation in naming.filter(item__in=differently).order_by("id"):
        answers[annotation.item_id].append(annotation)
    return answers
