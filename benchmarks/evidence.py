"""How long it takes to find the labelled images that speak for five questions, as every answer on the label page does.

    .venv/bin/python -m benchmarks.evidence [--labels 5000 100000] [--dims 384]

Against: reading the queue's five entries with their items, which every answer does anyway. In a database and a folder
of its own, thrown away at the end.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
import uuid
from pathlib import Path

DATA = Path(tempfile.mkdtemp(prefix="winnow-evidence-"))
os.environ["WINNOW_DATA"], os.environ["SECRET_KEY"] = str(DATA), "for this run alone"
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "annotator.settings")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import django  # noqa: E402

django.setup()

import numpy as np  # noqa: E402
from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402

from annotator import queries  # noqa: E402
from annotator.actions import labeling, projects  # noqa: E402
from annotator.embedded import Postgres, make_folders  # noqa: E402
from annotator.models import Annotation, Item, Job, Project, QueueEntry  # noqa: E402

ROUNDS, CLASSES, OPEN = 40, 10, 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, nargs="+", default=[5_000, 100_000])
    parser.add_argument("--dims", type=int, default=384)
    wanted = parser.parse_args()
    make_folders(DATA)
    server = Postgres.from_settings()
    server.start(fsync="off")
    try:
        server.create_database("winnow")
        call_command("migrate", verbosity=0)
        for n_labels in wanted.labels:
            measure(n_labels, wanted.dims)
    finally:
        server.stop(at_once=True)
        shutil.rmtree(DATA, ignore_errors=True)


def measure(n_labels: int, dims: int) -> None:
    """Print p50 and p95 in milliseconds: the first look of a process, a look after each answer, and the yardstick."""
    who = User.objects.create_user(f"bob{n_labels}")
    names = [f"class {number}" for number in range(CLASSES)]
    project = projects.create_project(owner=who, name=f"{n_labels} labels", class_names=names)
    items, class_ids = fill(project, who, n_labels), [each.pk for each in project.classes.all()]
    embed(project, items, dims)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")  # as the database does by itself in time
    open_items = items[n_labels:]
    entries = [ask(project, item, class_ids, number) for number, item in enumerate(open_items)]
    first = timed(lambda: queries.evidence(project, entries[:5]))
    looks, yardstick = [], []
    for number in range(ROUNDS):
        item = open_items[5 + number]
        labeling.record_annotation(
            project=project, annotator=who, item_id=item.pk, uuid=uuid.uuid4(), kind="label", raw_value=class_ids[0]
        )
        held = entries[50 + number * 5 :][:5]
        looks.append(timed(lambda held=held: queries.evidence(project, held)))
        yardstick.append(timed(lambda held=held: read(held)))
    print(
        f"{n_labels:>7,} labels x {dims}: first look {first:.0f} ms, then p50 {statistics.median(looks):.1f} ms,"
        f" p95 {np.percentile(looks, 95):.1f} ms; reading the five entries {statistics.median(yardstick):.1f} ms;"
        f" ratio {statistics.median(looks) / statistics.median(yardstick):.1f}",
        flush=True,
    )


def timed(what: object) -> float:
    started = time.perf_counter()
    what()  # type: ignore[operator]
    return 1000 * (time.perf_counter() - started)


def read(held: list[QueueEntry]) -> None:
    list(QueueEntry.objects.select_related("item").filter(pk__in=[entry.pk for entry in held]))


def fill(project: Project, who: User, n_labels: int) -> list[Item]:
    """Labelled items, then OPEN open ones; their ids ascend."""
    class_ids = [each.pk for each in project.classes.all()]
    made = Item.objects.bulk_create(
        [
            Item(
                project=project, sha256=f"{n_labels:032}{number:032}", storage_key="x", thumbnail_key="x", width=8,
                height=8, size_bytes=1, mime="image/png", source_name=str(number),
                state=Item.State.LABELLED if number < n_labels else Item.State.OPEN,
            )
            for number in range(n_labels + OPEN)
        ],
        batch_size=5_000,
    )  # fmt: skip
    Annotation.objects.bulk_create(
        [
            Annotation(
                uuid=uuid.uuid4(), project=project, item=item, annotator=who, kind="label",
                value={"class": class_ids[number % CLASSES]},
            )
            for number, item in enumerate(made[:n_labels])
        ],
        batch_size=5_000,
    )  # fmt: skip
    return made


def embed(project: Project, items: list[Item], dims: int) -> None:
    """Vectors around a centre for each class, and for each item 20 neighbours drawn from all."""
    rng = np.random.default_rng(0)
    folder = Path(settings.ARTIFACT_ROOT) / f"embedding-{project.pk}"
    folder.mkdir(parents=True)
    centres = rng.normal(size=(CLASSES, dims)).astype(np.float32)
    n = len(items)
    points = centres[np.arange(n) % CLASSES] + rng.normal(size=(n, dims)).astype(np.float32)
    neighbours = rng.integers(0, n, (n, 20)).astype(np.int32)
    np.save(folder / "item_ids.npy", np.asarray([item.pk for item in items], np.int64))
    np.save(folder / "embeddings.npy", points)
    np.save(folder / "neighbours.npy", neighbours)
    np.save(folder / "distances.npy", np.sort(rng.random((n, 20)).astype(np.float32)))
    Job.objects.create(project=project, kind=Job.Kind.EMBED, state=Job.State.DONE, result={"folder": folder.name})


def ask(project: Project, item: Item, class_ids: list[int], number: int) -> QueueEntry:
    one, other = class_ids[number % CLASSES], class_ids[(number + 1) % CLASSES]
    told = {"classes": [[one, 0.4], [other, 0.39]]}
    reason, data = (("unlike", {}), ("close_call", told))[number % 5 > 0]
    return QueueEntry.objects.create(project=project, item=item, rank=number, reason_code=reason, reason_data=data)


if __name__ == "__main__":
    main()
