"""Sets of items that something other than a table knows: the vectors, a grouping, the map. One line in SETS each."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from django.utils.translation import gettext as _
from numpy.typing import NDArray

from annotator.errors import InvalidFilter, WinnowError
from annotator.models import Project
from annotator.queries.groups import group_items
from annotator.queries.map import items_inside
from annotator.queries.selecting import Selection
from annotator.queries.vectors import Vectors, vectors

Ids = NDArray[np.int64]
# As in ml_worker/acquisition: two images nearer than this part of the pool's radius are near copies.
NEAR_COPY = 0.2
SAMPLE = 50_000


def wanted_items(project: Project, chosen: Selection) -> Ids | None:
    """The items that every set asked for has in common, int64; None where none is asked for. Raises InvalidFilter."""
    found: Ids | None = None
    for name, members in SETS.items():
        if not getattr(chosen, name):
            continue
        try:
            ids = members(project, chosen)
        except InvalidFilter:
            raise
        except WinnowError as error:
            raise InvalidFilter(error.message, fields={name: error.message}) from error
        found = ids if found is None else found[np.isin(found, ids)]
    return found


def embedded(project: Project, name: str) -> Vectors:
    """The project's vectors. Raises InvalidFilter in the name of the word that needs them."""
    known = vectors(project)
    if known is None:
        why = _("Which images are alike is not known before the images are embedded.")
        raise InvalidFilter(why, fields={name: why})
    return known


def _group(project: Project, chosen: Selection) -> Ids:
    job, dot, number = chosen.group.partition(".")
    if not dot or not all(word.isascii() and word.isdigit() and len(word) <= 18 for word in (job, number)):
        why = _("%(word)s is no group, such as 12.3: the job and the group's number.") % {"word": chosen.group}
        raise InvalidFilter(why, fields={"group": why})
    return group_items(project, int(job), int(number))


def _near_copies(project: Project, chosen: Selection) -> Ids:
    known = embedded(project, "near")
    if not known.neighbours.shape[1]:
        return np.empty(0, np.int64)
    return known.item_ids[np.asarray(known.distances[:, 0]) <= near_copy_radius(known)]


def near_copy_radius(known: Vectors) -> float:
    """The distance below which two of these items are near copies."""
    return _radius(known.folder)


@lru_cache(maxsize=8)
def _radius(folder: Path) -> float:
    embeddings = np.load(folder / "embeddings.npy", mmap_mode="r", allow_pickle=False)
    rows = np.linspace(0, len(embeddings) - 1, min(len(embeddings), SAMPLE)).astype(np.int64)
    spread = np.asarray(embeddings[rows], np.float32).var(axis=0).sum() if len(rows) else 0.0
    return NEAR_COPY * float(np.sqrt(spread))


SETS: dict[str, Callable[[Project, Selection], Ids]] = {
    "group": _group,
    "inside": lambda project, chosen: items_inside(project, chosen.inside),
    "near": _near_copies,
}
