"""An embedding as the worker leaves it, of images that lie where a test says."""

import uuid
from pathlib import Path
from typing import Any

import numpy as np

from annotator.models import Item, Job, Project


def lay_out(project: Project, artifacts: Path, items: list[Item], places: list[Any]) -> None:
    """Lay these items on a line (numbers) or anywhere (lists of them); from now on that is the project's embedding."""
    folder = artifacts / f"embedding-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    order = np.argsort([item.pk for item in items])
    points = np.asarray(places, np.float32).reshape(len(items), -1)[order]
    far = np.linalg.norm(points[:, None] - points[None], axis=2)
    near = np.argsort(far, axis=1)[:, 1:21].astype(np.int32)
    np.save(folder / "item_ids.npy", np.asarray([items[at].pk for at in order], np.int64))
    np.save(folder / "embeddings.npy", points)
    np.save(folder / "neighbours.npy", near)
    np.save(folder / "distances.npy", np.take_along_axis(far, near, axis=1))
    Job.objects.create(project=project, kind=Job.Kind.EMBED, state=Job.State.DONE, result={"folder": folder.name})
