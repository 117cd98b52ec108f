"""The map of the pool as the pages read it: where each image lies, and what lies inside a polygon.

The worker draws it (ml_worker/mapping.py); a place has two coordinates within 0..1, and so has a polygon's corner.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from django.conf import settings
from django.utils.translation import gettext as _
from numpy.typing import NDArray

from annotator.errors import InvalidSettings
from annotator.models import Project
from annotator.queries.learning import current_embedding
from annotator.wording import thousands

MAP_FILE = "map.npy"
CORNERS_AT_MOST = 200
Polygon = Sequence[tuple[float, float]]
_CORNER = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,12})?),([0-9]{1,3}(?:\.[0-9]{1,12})?)")
_BLOCK = 65_536


@dataclass(frozen=True, eq=False)
class ImageMap:
    """The places of N items. folder: of the embedding it shows. item_ids: int64 (N,), ascending; places: float32
    (N, 2) within 0..1, x to the right and y upwards, mapped from disk."""

    folder: str
    item_ids: NDArray[np.int64]
    places: NDArray[np.float32]


def image_map(project: Project) -> ImageMap | None:
    """The map of the project's newest embedding; None before it is drawn. One query."""
    embedding = current_embedding(project)
    if embedding is None:
        return None
    try:
        return _load(embedding.result["folder"], str(settings.ARTIFACT_ROOT))
    except FileNotFoundError:  # not drawn yet, or replaced this moment
        return None


@lru_cache(maxsize=8)
def _load(folder: str, root: str) -> ImageMap:
    read = [
        np.load(Path(root) / folder / name, mmap_mode="r", allow_pickle=False) for name in ("item_ids.npy", MAP_FILE)
    ]
    return ImageMap(folder, *read)


def polygon(text: str) -> list[tuple[float, float]]:
    """The corners of ``0.1,0.2;0.5,0.2;0.5,0.6``. Raises InvalidSettings, saying what is wrong with it."""
    parts = text.split(";") if len(text) <= 40 * CORNERS_AT_MOST else ["too long"] * (CORNERS_AT_MOST + 1)
    if len(parts) > CORNERS_AT_MOST:
        raise InvalidSettings(
            _("a part of the map has at most %(corners_at_most)s corners; draw a simpler one")
            % {"corners_at_most": CORNERS_AT_MOST}
        )
    corners = []
    for part in parts:
        found = _CORNER.fullmatch(part)
        if found is None:
            raise InvalidSettings(
                _("%(part)s is not a corner on the map, such as 0.25,0.5") % {"part": repr(part[:40])}
            )
        corners.append((float(found[1]), float(found[2])))
    check_polygon(corners)
    return corners


def check_polygon(corners: Polygon) -> None:
    """Raises InvalidSettings unless these are the corners of a polygon on the map that has an inside."""
    if not 3 <= len(corners) <= CORNERS_AT_MOST:
        raise InvalidSettings(
            _("a part of the map has 3 to %(corners_at_most)s corners, not %(n)s; draw it again")
            % {"corners_at_most": CORNERS_AT_MOST, "n": thousands(len(corners))}
        )
    for x, y in corners:
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise InvalidSettings(
                _("the corner %(x)s,%(y)s is not on the map: both numbers are from 0 to 1")
                % {"x": f"{x:g}", "y": f"{y:g}"}
            )


def polygon_text(corners: Polygon) -> str:
    """As `polygon` reads it."""
    return ";".join(f"{x:.5f},{y:.5f}" for x, y in corners)


def items_inside(project: Project, corners: Polygon | str) -> NDArray[np.int64]:
    """The items that lie inside a polygon on the map, ascending int64; whatever their split or state.

    corners: as `polygon` reads or gives them; a corner where the outline crosses itself counts by the even-odd rule.
    Raises InvalidSettings for what is no polygon, and where there is no map yet. One query.
    """
    corners = polygon(corners) if isinstance(corners, str) else corners
    check_polygon(corners)
    drawn = image_map(project)
    if drawn is None:
        raise InvalidSettings(_("the map of these images is not drawn yet; draw it on the map page first"))
    return drawn.item_ids[inside(drawn.places, corners)]


def inside(places: NDArray[np.float32], corners: Polygon) -> NDArray[np.bool_]:
    """Which of the places (N, 2) lie inside: bool (N,), by the even-odd rule. A block at a time."""
    edges = np.asarray(corners, np.float64)
    low, high = edges.min(axis=0), edges.max(axis=0)
    found = np.zeros(len(places), bool)
    for start in range(0, len(places), _BLOCK):
        block = np.asarray(places[start : start + _BLOCK], np.float64)
        near = np.flatnonzero(((block >= low) & (block <= high)).all(axis=1))
        x, y = block[near, 0], block[near, 1]
        is_in = np.zeros(len(near), bool)
        for (x0, y0), (x1, y1) in zip(edges, np.roll(edges, -1, axis=0), strict=True):
            crosses = (y0 > y) != (y1 > y)
            if crosses.any():
                is_in ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
        found[start + near] = is_in
    return found
