"""The map job: a place on a sheet for every image of the embedding, so that people can look at the whole pool."""

import time
from functools import partial
from pathlib import Path

import numpy as np

from annotator import jobs, queries
from annotator.actions import mapping
from annotator.errors import Conflict
from annotator.models import Job, Project
from annotator.queries.map import MAP_FILE
from ml_worker import projection, snapshot
from ml_worker.encoding import with_time_left
from ml_worker.pool import Rows
from ml_worker.projection import Layout
from ml_worker.whole_files import whole_file

PART = "map-part.npz"
# Drawn without being asked for while it costs some seconds; a larger pool's map waits for somebody who wants it.
UNASKED_UP_TO = 5_000
# Share of the progress that is the layout of the sample; the rest is placing the others.
LAID_OUT = 0.9


def follow(project: Project, n: int) -> None:
    """Ask for a map of a new embedding of so many images, if it is cheap."""
    if n <= UNASKED_UP_TO:
        jobs.enqueue(project, Job.Kind.MAP)


def run(run: jobs.Run) -> None:
    """Lay out a sample, place the others beside it, and put the map beside the embedding, with which it goes.

    A run that was interrupted goes on with the layout where it was kept last.
    """
    project = run.job.project
    embedding = queries.current_embedding(project)
    if embedding is None:
        raise Conflict(queries.lack_of_embedding(project, mapping.ASK))
    name = embedding.result["folder"]
    folder, embedded = snapshot.embedding_folder(name), snapshot.load_embedded(name)
    began, n = time.monotonic(), len(embedded.item_ids)
    sample = projection.sample_of(n, run.job.seed)
    if not (folder / MAP_FILE).exists():
        _draw(run, folder, embedded.pool.embeddings, sample)
    run.log(f"placed {n:,} images, {len(sample):,} of them by t-SNE, in {time.monotonic() - began:.1f} s")
    run.remember(map=name, images=n, laid_out=len(sample))


def _draw(run: jobs.Run, folder: Path, embeddings: np.ndarray, sample: Rows) -> None:
    laid = with_time_left(run.report, 0.0, LAID_OUT)
    placed = with_time_left(run.report, LAID_OUT, 1.0)
    points = np.asarray(embeddings[sample], np.float32)
    places = projection.lay_out(
        points,
        _begun(folder / PART, len(sample)) or projection.beginning(points, run.job.seed),
        lambda step, steps: laid(step / steps, f"arranged {len(sample):,} images, step {step} of {steps}"),
        partial(_keep, folder / PART),
    )
    if len(sample) < len(embeddings):
        places = projection.place(
            embeddings, sample, places, lambda done, n: placed(done / n, f"placed {done:,} of {n:,} images")
        )
    if not folder.exists():  # another embedding took its place: its map will be asked for anew
        raise Conflict("the images were embedded anew meanwhile; draw the map again")
    with whole_file(folder / MAP_FILE) as file:
        np.save(file, projection.on_the_sheet(places))
    (folder / PART).unlink(missing_ok=True)


def _begun(path: Path, n: int) -> Layout | None:
    """What a run before this one kept, if it was about so many images."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as kept:
        found = Layout(int(kept["step"]), kept["places"], kept["speed"], kept["gains"])
    return found if len(found.places) == n else None


def _keep(path: Path, layout: Layout) -> None:
    if path.parent.exists():
        with whole_file(path) as file:
            np.savez(file, step=layout.step, places=layout.places, speed=layout.speed, gains=layout.gains)
