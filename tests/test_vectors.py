"""What pages read of an embedding: who is near whom."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotator import queries
from annotator.models import Job
from tests.cast import bare_items, make_item

pytestmark = pytest.mark.django_db


def test_the_nearest_come_first_without_the_item_itself(project: Any, settings: Any, tmp_path: Path) -> None:
    # Five images on a line, at 0, 1, 3, 6 and 10.
    items = embedded(project, settings, tmp_path, [0, 1, 3, 6, 10])
    read = queries.vectors(project)
    assert read is not None
    assert read.nearest(items[2], 2) == [(items[1], 2.0), (items[0], 3.0)]


def test_only_the_items_asked_among_are_found(project: Any, settings: Any, tmp_path: Path) -> None:
    items = embedded(project, settings, tmp_path, [0, 1, 3, 6, 10])
    read = queries.vectors(project)
    assert read is not None
    assert read.nearest(items[0], 5, among=[items[4], items[3], 10**9]) == [(items[3], 6.0), (items[4], 10.0)]


def test_an_image_that_came_later_has_no_neighbours_yet(project: Any, settings: Any, tmp_path: Path) -> None:
    embedded(project, settings, tmp_path, [0, 1])
    later = make_item(project, 50)
    read = queries.vectors(project)
    assert read is not None
    assert read.nearest(later.pk, 3) == []


def test_before_the_first_embedding_there_is_nothing_to_read(project: Any) -> None:
    assert queries.vectors(project) is None


def test_an_embedding_that_was_just_replaced_is_none(project: Any, settings: Any, tmp_path: Path) -> None:
    settings.ARTIFACT_ROOT = tmp_path
    Job.objects.create(project=project, kind=Job.Kind.EMBED, state=Job.State.DONE, result={"folder": "gone"})
    assert queries.vectors(project) is None


def embedded(project: Any, settings: Any, tmp_path: Path, places: list[float]) -> list[int]:
    """Images embedded at these places on a line; their ids."""
    items = [item.pk for item in bare_items(project, ["pool"] * len(places))]
    settings.ARTIFACT_ROOT = tmp_path
    folder = tmp_path / f"embedding-of-{items[0]}"
    folder.mkdir()
    line = np.asarray(places, np.float32)[:, None]
    far = np.abs(line - line.T)
    order = np.argsort(far, axis=1)[:, 1:].astype(np.int32)
    np.save(folder / "item_ids.npy", np.asarray(items, np.int64))
    np.save(folder / "embeddings.npy", line)
    np.save(folder / "neighbours.npy", order)
    np.save(folder / "distances.npy", np.take_along_axis(far, order, axis=1))
    Job.objects.create(project=project, kind=Job.Kind.EMBED, state=Job.State.DONE, result={"folder": folder.name})
    return items
