"""What the map shows at each place, to somebody: labels, what the model says, and what became of the image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from annotator import task_types
from annotator.models import Annotation, Item, LabelClass, Project, Proposal, Split
from annotator.queries.map import image_map
from annotator.queries.predictions import predictions
from annotator.queries.reasons import asked_blind as asked_again

# How a state is written; what is accepted unseen is open to the database and a state of its own to people.
ACCEPTED, CHECK = "accepted", "check"
STATES = (Item.State.OPEN, Item.State.LABELLED, Item.State.NONE_OF_THESE, Item.State.SKIPPED, ACCEPTED, CHECK)
# Drawn at most, taken at random from a larger map: more points than pixels show nothing more.
DRAWN_AT_MOST = 200_000


@dataclass(frozen=True, eq=False)
class Points:
    """n places that may be seen. item_ids: int64 (n,), ascending; places: float32 (n, 2); labels, said: int64 (n,)
    places in ``classes`` from 1, 0 for none; confidence: float32 (n,), 0 where nothing is said; states: int64 (n,)
    places in STATES. hidden: open random checks, drawn nowhere; later: images imported since, which have no place yet.
    """

    item_ids: NDArray[np.int64]
    places: NDArray[np.float32]
    labels: NDArray[np.int64]
    said: NDArray[np.int64]
    confidence: NDArray[np.float32]
    states: NDArray[np.int64]
    classes: list[LabelClass]
    model_number: int | None
    hidden: int
    later: int
    left_out: int


def points(project: Project, *, may_see_checks: bool, asked_blind: NDArray[np.int64]) -> Points:
    """What somebody may see of the map, which is there. Eight queries, two of them over all items and labels.

    Test images are nowhere on it, nor are random checks nobody has answered: their place among the others would be a
    hint. Answered ones are seen by those who review, with their label and never with what the model says. Nor is that
    said of what a certificate accepted or of ``asked_blind``, what a running round sets aside: people are asked about
    those without a hint. An image that has an answer and is asked about again blind shows neither that nor what the
    model says, only that it was labelled.
    """
    drawn = image_map(project)
    assert drawn is not None
    columns = np.array(
        [
            (pk, split == Split.AUDIT, split == Split.TEST, STATES.index(state))
            for pk, split, state in Item.objects.filter(project=project)
            .order_by("pk")
            .values_list("pk", "split", "state")
            .iterator(chunk_size=20_000)
        ],
        np.int64,
    ).reshape(-1, 4)
    rows = np.searchsorted(drawn.item_ids, columns[:, 0]).clip(max=max(0, len(drawn.item_ids) - 1))
    is_there = drawn.item_ids[rows] == columns[:, 0] if len(drawn.item_ids) else np.zeros(len(columns), bool)
    is_check, is_test, is_open = columns[:, 1] == 1, columns[:, 2] == 1, columns[:, 3] == 0
    seen = is_there & ~is_test & ~(is_check & (is_open | (not may_see_checks)))
    left_out = 0
    if seen.sum() > DRAWN_AT_MOST:
        kept = np.random.default_rng(project.pk).choice(np.flatnonzero(seen), DRAWN_AT_MOST, replace=False)
        left_out = int(seen.sum()) - DRAWN_AT_MOST
        seen = np.zeros(len(columns), bool)
        seen[kept] = True
    item_ids, states = columns[seen, 0], columns[seen, 3]
    unseen = Proposal.objects.filter(project=project, state=Proposal.State.AUTO_ACCEPTED)
    accepted = np.isin(item_ids, np.fromiter(unseen.values_list("item_id", flat=True), np.int64))
    states = np.where(is_check[seen], STATES.index(CHECK), np.where(accepted, STATES.index(ACCEPTED), states))
    is_again = np.isin(item_ids, np.fromiter(asked_again(project), np.int64))
    # Skipped, or of no class: that is an answer too.
    other_answers = [STATES.index(Item.State.NONE_OF_THESE), STATES.index(Item.State.SKIPPED)]
    is_told = is_again & np.isin(states, other_answers)
    states = np.where(is_told, STATES.index(Item.State.LABELLED), states)
    classes = list(project.classes.all())
    place_of = {each.pk: place for place, each in enumerate(classes, start=1)}
    is_blind = accepted | is_check[seen] | is_again | np.isin(item_ids, asked_blind)
    said, confidence, number = _said(project, item_ids, place_of, is_blind)
    return Points(
        item_ids=item_ids,
        places=np.asarray(drawn.places[rows[seen]], np.float32),
        labels=np.where(is_again, 0, _labels(project, item_ids, place_of)),
        said=said,
        confidence=confidence,
        states=states,
        classes=classes,
        model_number=number,
        hidden=int((is_there & is_check & is_open).sum()),
        later=int((~is_there & ~is_test).sum()),
        left_out=left_out,
    )


def _labels(project: Project, item_ids: NDArray[np.int64], place_of: dict[int, int]) -> NDArray[np.int64]:
    """The class of each item's newest current label. One query."""
    task_type = task_types.get(project.task_type)
    given = Annotation.objects.filter(project=project, kind=Annotation.Kind.LABEL, superseded_by__isnull=True)
    # The database picks the newest of each: ten answers to an image would be ten times as many values to read here.
    newest_first = given.order_by("item_id", "-id").distinct("item_id")
    rows = newest_first.values_list("item_id", "value").iterator(chunk_size=20_000)
    newest = {item_id: place_of.get(task_type.class_ids(value or {})[0], 0) for item_id, value in rows}
    return np.fromiter((newest.get(item_id, 0) for item_id in item_ids.tolist()), np.int64, len(item_ids))


def _said(
    project: Project, item_ids: NDArray[np.int64], place_of: dict[int, int], is_blind: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float32], int | None]:
    known = predictions(project)
    said, confidence = np.zeros(len(item_ids), np.int64), np.zeros(len(item_ids), np.float32)
    if known is None or not len(known.item_ids):
        return said, confidence, None
    rows = np.searchsorted(known.item_ids, item_ids).clip(max=len(known.item_ids) - 1)
    shows = (known.item_ids[rows] == item_ids) & ~is_blind
    best = known.best[rows[shows]]
    said[shows] = [place_of.get(class_id, 0) for class_id in best.tolist()]
    confidence[shows] = known.confidence[rows[shows]]
    return said, confidence, known.model.number
