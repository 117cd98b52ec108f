"""Where a certification round stands: its checks, in the order drawn, and what people said. Nothing here writes.

A check is answered by a person's label, whoever gave it and for whatever reason it was asked: which images are checked
was settled by the draw. An answer given with the model's word in view, and one that came with a file, count where the
model is wrong and as an error where they agree with it. Skipped, disputed, or none of the classes: the model is wrong.
"""

import math
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.db.models import Exists, OuterRef
from numpy.typing import NDArray

from annotator import queries, task_types
from annotator.actions.shares import shares
from annotator.models import Annotation, Item, Project, QueueEntry, Round, RoundCheck

RIGHT, WRONG, UNANSWERED = 1, 0, -1


@dataclass(frozen=True)
class Progress:
    """A running round. answered, errors: of all its checks. next_at: how many of the first must be answered before it
    is judged next; missing: those of them that are not; at_most: checks in all; left: images it would let through
    then."""

    round: Round
    answered: int
    errors: int
    next_at: int
    missing: int
    at_most: int
    left: int

    @property
    def share(self) -> float:
        """Of the answers, what the checks of automatic labels get."""
        return shares(self.round.project.settings, is_round_running=True)[QueueEntry.Reason.AUTOMATIC]

    @property
    def answers_until(self) -> int | None:
        """Answers, all in all, until it is judged; None where its checks get no share of them."""
        return math.ceil(self.missing / self.share) if self.share > 0 else None


def running(project: Project) -> Round | None:
    """The round that is going on."""
    open_rounds = Round.objects.filter(project=project, state=Round.State.RUNNING)
    return open_rounds.select_related("label_class", "model_version", "project").first()


def is_check() -> Exists:
    """Of items: whether a running round draws on them as checks. It alone asks them, without a hint."""
    return Exists(RoundCheck.objects.filter(item=OuterRef("pk"), round__state=Round.State.RUNNING))


def round_file(drawn: Round) -> Path:
    """The region of a round, frozen: item_ids, class_ids, confidences, all (M,)."""
    return Path(settings.ARTIFACT_ROOT) / str(drawn.project_id) / f"round-{drawn.pk}.npz"


def arrays_in(path: Path) -> dict[str, NDArray[Any]]:
    """What such a file holds; nothing where it is gone or damaged, as by a full disk."""
    try:
        with path.open("rb") as file, np.load(file) as kept:
            return {name: kept[name] for name in kept.files}
    except (OSError, EOFError, KeyError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile, zlib.error):
        return {}


def frozen(drawn: Round) -> dict[str, NDArray[Any]]:
    """The region of a round as its file has it; nothing where that is gone, damaged, or not of this size."""
    arrays = arrays_in(round_file(drawn))
    is_whole = all(len(arrays.get(name, ())) == drawn.size for name in ("item_ids", "class_ids", "confidences"))
    return arrays if is_whole else {}


def set_aside(project: Project) -> NDArray[np.int64]:
    """The item ids that the running round speaks of; empty without one, or where its file is gone. One query."""
    going = running(project)
    return np.asarray(frozen(going).get("item_ids", ()) if going else (), np.int64)


def said(project: Project, predicted: dict[int, int]) -> dict[int, int]:
    """RIGHT, WRONG or UNANSWERED, for each of these items. predicted: item id -> class id. One query."""
    current = Annotation.objects.filter(
        project=project,
        item__in=predicted,
        superseded_by__isnull=True,
        kind__in=[Annotation.Kind.LABEL, Annotation.Kind.NONE_OF_THESE, Annotation.Kind.SKIP],
    )
    by_item: dict[int, list[Annotation]] = defaultdict(list)
    for annotation in current.order_by("id"):
        by_item[annotation.item_id].append(annotation)
    task_type = task_types.get(project.task_type)
    return {
        item_id: _judged(task_type, class_id, by_item[item_id]) if item_id in by_item else UNANSWERED
        for item_id, class_id in predicted.items()
    }


def said_at_worst(project: Project, predicted: dict[int, int]) -> dict[int, int]:
    """As `said`, but for those whose answers were all taken back the worst of them. At most two queries.

    UNANSWERED: nobody ever answered. Otherwise taking a wrong answer back would make up for it.
    """
    answers = said(project, predicted)
    taken_back = [item_id for item_id, answer in answers.items() if answer == UNANSWERED]
    kinds = [Annotation.Kind.LABEL, Annotation.Kind.NONE_OF_THESE, Annotation.Kind.SKIP]
    task_type = task_types.get(project.task_type)
    for each in Annotation.objects.filter(project=project, item__in=taken_back, kind__in=kinds) if taken_back else ():
        if answers[each.item_id] != WRONG:
            answers[each.item_id] = _judged(task_type, predicted[each.item_id], [each])
    return answers


def _judged(task_type: object, class_id: int, given: list[Annotation]) -> int:
    # A reviewer who decides has seen the answers: that can make it wrong, and never right.
    asked = [each for each in given if each.reason_code != Annotation.DECISION]
    for value in (queries.settled_value(task_type, given), queries.settled_value(task_type, asked)):
        if value is None or class_id not in task_type.class_ids(value):  # type: ignore[attr-defined]
            return WRONG
    blind = (
        each.source == Annotation.Source.PERSON and not each.suggestion_shown and each.settles_id is None
        for each in asked
    )
    return RIGHT if all(blind) else WRONG


def said_in_order(drawn: Round) -> list[int]:
    """As `said`, of every check of a round in the order drawn. Two queries."""
    checks = RoundCheck.objects.filter(round=drawn).order_by("position").values_list("item_id", "predicted_id")
    predicted = dict(checks)
    answers = said(drawn.project, predicted)
    return [answers[item_id] for item_id in predicted]


def progress(project: Project) -> Progress | None:
    """How far the running round has come; None without one. Three queries."""
    going = running(project)
    if going is None:
        return None
    answers = said_in_order(going)
    next_at = next_stage(going.stages, answers)
    return Progress(
        round=going,
        answered=sum(each != UNANSWERED for each in answers),
        errors=answers.count(WRONG),
        next_at=next_at,
        missing=answers[:next_at].count(UNANSWERED),
        at_most=len(answers),
        left=going.size - next_at,
    )


def next_stage(stages: Iterable[tuple[int, int, float]], answers: list[int]) -> int:
    """The checks after which the round is judged next: the first stage that is not answered and whose errors are not
    used up; the last one when there is none."""
    at = 0
    for at, errors, _ in stages:
        if UNANSWERED in answers[:at] and answers[:at].count(WRONG) <= errors:
            return at
    return at


def checks_due(project: Project, count: int) -> list[int]:
    """The items of the running round to be asked next, in the order drawn, at most so many; empty without a round.

    Of those the next stage waits for alone: what lies behind it may never have to be asked. Four queries.
    """
    going = running(project)
    if going is None:
        return []
    answers = said_in_order(going)
    first = RoundCheck.objects.filter(round=going, position__lt=next_stage(going.stages, answers))
    waiting = first.filter(item__state=Item.State.OPEN).order_by("position")
    return list(waiting.values_list("item_id", flat=True)[:count])


def are_answered(project: Project) -> bool:
    """Whether a round is going on and nobody has to be asked before it is judged."""
    now = progress(project)
    return now is not None and not now.missing
