"""What the vectors say of a screenful: which labelled images are like it, and how to lay look-alikes side by side."""

import numpy as np
from numpy.typing import NDArray

from annotator import task_types
from annotator.models import Annotation, Project, Split
from annotator.queries.vectors import Vectors

# So many of the nearest labelled images vote, of so many labels at most, the newest.
VOTERS, LABELS_AT_MOST = 5, 5_000
Ids = NDArray[np.int64]


def neighbour_votes(project: Project, known: Vectors, item_ids: Ids) -> Ids:
    """The class that more than half of the labelled images nearest to each item are of, int64 (N,); 0: no such class.

    Random checks have no vote: it would tell what they were answered. One query, and N distances to each label.
    """
    voters, classes = _labelled(project, known)
    said = np.zeros(len(item_ids), np.int64)
    if not len(voters):
        return said
    places = {int(known.item_ids[row]): row for row in known.rows(item_ids)}
    at = np.array([index for index, pk in enumerate(item_ids.tolist()) if pk in places], np.int64)
    rows = np.array([places[pk] for pk in item_ids[at].tolist()], np.int64)
    if not len(rows):
        return said
    ours, theirs = np.asarray(known.embeddings[rows]), np.asarray(known.embeddings[voters])
    far = (theirs**2).sum(axis=1)[None, :] - 2 * ours @ theirs.T
    far[rows[:, None] == voters[None, :]] = np.inf  # an image has no vote on itself
    count = min(VOTERS, len(voters))
    nearest = np.argpartition(far, count - 1, axis=1)[:, :count]
    ballots = np.where(np.isinf(np.take_along_axis(far, nearest, 1)), 0, classes[nearest])
    for index, votes in zip(at, ballots, strict=True):
        named, times = np.unique(votes[votes > 0], return_counts=True)
        if len(named) and times.max() * 2 > count:
            said[index] = named[times.argmax()]
    return said


def _labelled(project: Project, known: Vectors) -> tuple[Ids, Ids]:
    """Rows of the newest labelled pool images, and their classes."""
    current = Annotation.objects.filter(project=project, kind=Annotation.Kind.LABEL, superseded_by__isnull=True)
    newest = current.filter(item__split=Split.POOL).order_by("-id").values_list("item_id", "value")[:LABELS_AT_MOST]
    class_ids = task_types.get(project.task_type).class_ids
    by_item = {item_id: named[0] for item_id, value in reversed(newest) if (named := class_ids(value or {}))}
    rows = known.rows(list(by_item))
    return rows, np.array([by_item[int(pk)] for pk in known.item_ids[rows]], np.int64)


def side_by_side(known: Vectors, item_ids: Ids) -> list[int]:
    """Places 0..N-1 in an order in which neighbours are alike; those without a vector come last, as they were.

    From the item farthest from all others on, always the nearest that is left: N x N distances, for a screenful.
    """
    rows = {int(known.item_ids[row]): row for row in known.rows(item_ids)}
    there = [index for index, pk in enumerate(item_ids.tolist()) if pk in rows]
    without = [index for index in range(len(item_ids)) if index not in set(there)]
    if len(there) < 3:
        return there + without
    vectors = np.asarray(known.embeddings[[rows[int(item_ids[index])] for index in there]], np.float32)
    squares = (vectors**2).sum(axis=1)
    far = squares[:, None] + squares[None, :] - 2 * vectors @ vectors.T
    now = int(far.sum(axis=1).argmax())
    order = [now]
    far[:, now] = np.inf
    for _step in range(len(there) - 1):
        now = int(far[now].argmin())
        order.append(now)
        far[:, now] = np.inf
    return [there[index] for index in order] + without
