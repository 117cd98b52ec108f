"""Seconds from the tenth answer to a re-ranked queue: the worker's own refit job on a project in a real database.

    python benchmarks/fast_loop.py [--million]

Starts a PostgreSQL of its own in a temporary folder, stores a project whose images count as embedded, and then, again
and again, ten more answers and one refit job. Columns in seconds: the answers read from the database (read), the head
fitted (fit), the pool scored (score) and ranked (rank), the queue written (write); queue is all of that with the job's
own bookkeeping, what a person waits for once the worker has heard the bell; propose comes after it. Median of the
rounds; the first, which also builds the graph, stands alone.

The baseline, in the same run on the same embeddings and answers: scikit-learn's LabelSpreading(kernel="knn") fitted
from scratch, then one minus the gap between the two best classes sorted over all items. ratio = baseline / (fit +
score + rank): larger is better for Winnow.

A second table has no database: the same functions on arrays of 10,000 x 384, and with --million of 1,000,000 x 384
(minutes, about 8 GB), from 300 answers, for each head. The graph is built once, before, and timed apart; at a million
it is exact within each cloud, which is quick, and the clouds lie far apart (benchmarks/neighbours.py times the index
that the product would build it with). first: the first refit, which also works out what a head keeps of a pool. One
line ranks before there is any answer, by typiclust. The rivals are scikit-learn's LogisticRegression and
LabelSpreading(kernel="knn") as they come, fitted, asked for probabilities, and all items sorted by margin.
scikit-learn's LabelSpreading has no line at a million: its neighbours are found by brute force, 10,000 times the work
of the first table.
"""

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
_FOLDER = tempfile.TemporaryDirectory(prefix="winnow-benchmark-")
os.environ |= {"DJANGO_SETTINGS_MODULE": "annotator.settings", "WINNOW_DATA": _FOLDER.name, "SECRET_KEY": "benchmark"}
os.environ.pop("DATABASE_URL", None)

import django  # noqa: E402

django.setup()

import numpy as np  # noqa: E402
from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.semi_supervised import LabelSpreading  # noqa: E402

from annotator import jobs  # noqa: E402
from annotator.actions.projects import create_project  # noqa: E402
from annotator.algorithms import catalogue, clean_parameters  # noqa: E402
from annotator.embedded import Postgres, make_folders  # noqa: E402
from annotator.models import Annotation, Item, Job, ModelVersion, Project, QueueEntry, Split  # noqa: E402
from ml_worker import fast_loop, refitting, snapshot  # noqa: E402
from ml_worker.encoders.pca_pixels import Encoder  # noqa: E402
from ml_worker.fast_loop import Answers, LoopSettings  # noqa: E402
from ml_worker.neighbours import K, nearest  # noqa: E402
from ml_worker.pool import Pool, Rows  # noqa: E402

ROUNDS = 5
ANSWERS_AT_FIRST = 100
ANSWERS_PER_REFIT = 10
AIM_S = 2.0
STEPS = ("read", "fit", "score", "rank", "write", "queue", "propose")


# --- pools


def digits() -> tuple[Pool, Rows]:
    """The bundled digits, 1,797 items, embedded as the demo embeds them."""
    bundled = load_digits()
    grey = np.rint(bundled.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=3)
    encoder = Encoder(seed=0, **clean_parameters("encoder", "pca_pixels", {}))
    encoder.fit(images)
    return pool_of(encoder.embed(images)), bundled.target.astype(np.int64)


def synthetic(n: int, dimensions: int, n_classes: int) -> tuple[Pool, Rows]:
    """Overlapping Gaussian clouds, several to a class."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5 * n_classes, dimensions))
    cloud = rng.integers(len(centres), size=n)
    points = centres[cloud] + rng.normal(size=(n, dimensions))
    return pool_of(points.astype(np.float32)), (cloud % n_classes).astype(np.int64)


def pool_of(embeddings: np.ndarray) -> Pool:
    """A pool with every item indexed."""
    indexed = np.ones(len(embeddings), bool)
    return Pool(embeddings, *nearest(embeddings, indexed), indexed)


# --- the project in the database


def store(name: str, pool: Pool) -> Project:
    """A project with an item for every row, every twentieth of them audit, and the pool as its embedding."""
    owner, _ = User.objects.get_or_create(username="owner")
    project = create_project(owner=owner, name=name, class_names=[str(digit) for digit in range(10)])
    Item.objects.bulk_create(
        [
            Item(
                project=project,
                sha256=f"{row:064x}",
                storage_key=f"{row}.png",
                thumbnail_key=f"{row}.png",
                width=8,
                height=8,
                size_bytes=100,
                mime="image/png",
                source_name=f"{row}.png",
                split=Split.AUDIT if row % 20 == 0 else Split.POOL,
            )
            for row in range(len(pool))
        ],
        batch_size=2000,
    )
    item_ids = np.array(project.items.order_by("pk").values_list("pk", flat=True), np.int64)
    splits = np.where(np.arange(len(pool)) % 20 == 0, *(snapshot.SPLIT_CODES[s] for s in (Split.AUDIT, Split.POOL)))
    folder = snapshot.embedding_folder(f"{project.pk}/embedding")
    pool.save(folder)
    np.save(folder / "item_ids.npy", item_ids)
    np.save(folder / "splits.npy", splits.astype(np.uint8))
    result = {"folder": f"{project.pk}/embedding", "n": len(pool), "image_px": 8, "encoder": "pca_pixels"}
    Job.objects.create(project=project, kind=Job.Kind.EMBED, state=Job.State.DONE, result=result)
    return project


def answer(project: Project, targets: Rows, count: int) -> None:
    """The owner answers what heads the queue, rightly; without a queue, items at random."""
    first = project.items.order_by("pk").values_list("pk", flat=True)[0]
    queued = QueueEntry.objects.filter(project=project).order_by("rank").values_list("item_id", flat=True)[:count]
    asked = list(queued) or (first + np.random.default_rng(1).permutation(len(targets))[:count]).tolist()
    class_ids = list(project.classes.order_by("pk").values_list("pk", flat=True))
    owner = User.objects.get(username="owner")
    Annotation.objects.bulk_create(
        [
            Annotation(
                uuid=uuid.uuid4(),
                project=project,
                item_id=item_id,
                annotator=owner,
                kind=Annotation.Kind.LABEL,
                value={"class": class_ids[targets[item_id - first]]},
            )
            for item_id in asked
        ]
    )
    Item.objects.filter(pk__in=asked).update(state=Item.State.LABELLED)


# --- what is measured


def refit(project: Project) -> dict[str, float]:
    """Seconds of each step of one refit job, as the job itself reports them, and of the whole job."""
    started = time.perf_counter()
    job = jobs.claim(Job.objects.create(project=project, kind=Job.Kind.REFIT).pk)
    assert job is not None
    with jobs.running(job) as run:
        refitting.run(run)
    total = time.perf_counter() - started
    model = ModelVersion.objects.filter(project=project).latest("number")
    seconds = dict(model.metrics["seconds"])
    seconds["read"] = seconds.pop("snapshot")
    seconds["queue"] = total - seconds["propose"]
    return seconds


def baseline(pool: Pool, targets: Rows, project: Project) -> float:
    """Median seconds of scikit-learn's label spreading from scratch and a sort by margin, on the same answers."""
    first = project.items.order_by("pk").values_list("pk", flat=True)[0]
    rows = np.array(project.annotations.values_list("item_id", flat=True)) - first
    known = np.full(len(pool), -1)
    known[rows] = targets[rows]
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it need not settle to be timed
            model = LabelSpreading(kernel="knn", n_neighbors=10, alpha=0.95, max_iter=50, n_jobs=1)
            model.fit(pool.embeddings, known)
        best = np.partition(model.label_distributions_, -2, axis=1)[:, -2:]
        np.argsort(best[:, 1] - best[:, 0])
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def measure(name: str, pool: Pool, targets: Rows) -> None:
    """Print one line for a pool."""
    project = store(name, pool)
    answer(project, targets, ANSWERS_AT_FIRST)
    first = refit(project)
    rounds: list[dict[str, Any]] = []
    for _ in range(ROUNDS):
        answer(project, targets, ANSWERS_PER_REFIT)
        rounds.append(refit(project))
    middle = {step: statistics.median(seconds[step] for seconds in rounds) for step in STEPS}
    rival = baseline(pool, targets, project)
    ratio = rival / (middle["fit"] + middle["score"] + middle["rank"])
    parts = " ".join(f"{middle[step]:8.3f}" for step in STEPS)
    print(f"{name:22} {parts} {first['queue']:8.3f} {rival:9.3f} {ratio:6.1f}x")
    if middle["queue"] > AIM_S:
        print(f"  slower than the aim of {AIM_S:.0f} s")


@contextmanager
def own_database() -> Iterator[None]:
    """An empty database, gone at the end with its server and its folder."""
    with _FOLDER:
        make_folders(settings.WINNOW_DATA)
        server = Postgres.from_settings()
        server.start()
        try:
            server.create_database(settings.DATABASES["default"]["NAME"])
            call_command("migrate", verbosity=0)
            yield
        finally:
            connections.close_all()
            server.stop(at_once=True)


# --- arrays alone

ARRAY_ANSWERS = 300
ARRAY_CLASSES = 10
CLOUD = 1000  # items


def shuffled_clouds(n: int, dimensions: int) -> tuple[Pool, Rows, float]:
    """Clouds of a thousand items on a curved sheet of 16 dimensions, in no order; their classes; seconds for the
    graph. A cloud is many times farther from the next than it is wide, so its items' neighbours are in it."""
    rng = np.random.default_rng(0)
    sheet = rng.normal(size=(16, dimensions)).astype(np.float32) / 4
    order = rng.permutation(n)
    embeddings = np.empty((n, dimensions), np.float32)
    targets = np.empty(n, np.int64)
    neighbours, distances = np.empty((n, K), np.int32), np.empty((n, K), np.float32)
    graph_s = 0.0
    for cloud in range(0, n, CLOUD):
        rows = order[cloud : cloud + CLOUD]
        inner = 3 * rng.normal(size=16) + 0.3 * rng.normal(size=(len(rows), 16))
        noise = 0.05 * rng.standard_normal((len(rows), dimensions), dtype=np.float32)
        embeddings[rows] = np.tanh(inner.astype(np.float32) @ sheet) + noise
        targets[rows] = cloud // CLOUD % ARRAY_CLASSES
        started = time.perf_counter()
        places, distances[rows] = nearest(embeddings[rows], np.ones(len(rows), bool))
        neighbours[rows] = rows[places]
        graph_s += time.perf_counter() - started
    return Pool(embeddings, neighbours, distances, np.ones(n, bool)), targets, graph_s


def turn(pool: Pool, train: Answers, settings: LoopSettings) -> dict[str, float]:
    """Seconds to fit, score and rank once."""
    nobody = Answers(np.zeros(0, np.int64), np.zeros(0, np.int64))
    learned = fast_loop.learn(pool, train, nobody, ARRAY_CLASSES, settings)
    started = time.perf_counter()
    open_rows = np.delete(np.arange(len(pool)), train.rows)
    fast_loop.order(pool, learned, open_rows, nobody.rows, train.rows, settings, np.random.default_rng(0))
    return learned.seconds | {"rank": time.perf_counter() - started}


def cold_start(pool: Pool) -> dict[str, float]:
    """Seconds to rank before anything is learnt."""
    settings = LoopSettings("logistic_regression", {}, "margin")
    nobody = np.zeros(0, np.int64)
    started = time.perf_counter()
    fast_loop.order(pool, None, np.arange(len(pool)), nobody, nobody, settings, np.random.default_rng(0))
    return {"fit": 0.0, "score": 0.0, "rank": time.perf_counter() - started}


def rival(pool: Pool, train: Answers, name: str) -> dict[str, float]:
    """Seconds of scikit-learn's own way: its defaults, every probability, every item sorted."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not settle to be timed
        if name == "LogisticRegression":
            model = LogisticRegression().fit(pool.embeddings[train.rows], train.targets)
        else:
            known = np.full(len(pool), -1)
            known[train.rows] = train.targets
            model = LabelSpreading(kernel="knn").fit(pool.embeddings, known)
    fitted = time.perf_counter()
    probs = model.predict_proba(pool.embeddings)
    scored = time.perf_counter()
    best = np.sort(probs, axis=1)[:, -2:]
    np.argsort(best[:, 1] - best[:, 0])
    return {"fit": fitted - started, "score": scored - fitted, "rank": time.perf_counter() - scored}


def measure_arrays(n: int, dimensions: int) -> None:
    """Print a line for each head, for the ensemble, and for each rival that can run."""
    pool, targets, graph_s = shuffled_clouds(n, dimensions)
    rows = np.random.default_rng(1).choice(n, ARRAY_ANSWERS, replace=False)
    train = Answers(rows, targets[rows])
    print(f"{n:,} x {dimensions}: graph {graph_s:.1f} s")
    rounds = 3 if n <= 10_000 else 1
    heads = [algorithm.name for algorithm in catalogue("head")]
    for head, acquisition in [(name, "margin") for name in heads] + [("logistic_regression", "bald")]:
        settings = LoopSettings(head, clean_parameters("head", head, {}), acquisition)
        first = sum(turn(pool, train, settings).values())
        line(
            head if acquisition == "margin" else "  and five members",
            [turn(pool, train, settings) for _ in range(rounds)],
            first,
        )
    line("no answer yet, typiclust", [cold_start(pool) for _ in range(rounds)], None)
    for name in ("LogisticRegression", "LabelSpreading") if n <= 10_000 else ("LogisticRegression",):
        line(f"sklearn {name}", [rival(pool, train, name) for _ in range(rounds)], None)


def line(name: str, rounds: list[dict[str, float]], first: float | None) -> None:
    """Medians of the rounds; the members of an ensemble count as score."""
    steps = [[r["fit"], r["score"] + r.get("members", 0.0), r["rank"]] for r in rounds]
    middle = [statistics.median(column) for column in zip(*steps, strict=True)]
    parts = " ".join(f"{seconds:8.3f}" for seconds in [*middle, sum(middle)])
    print(f"  {name:28} {parts} {'' if first is None else f'{first:8.3f}'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds from the tenth answer to a re-ranked queue.")
    parser.add_argument("--million", action="store_true", help="1,000,000 x 384 too: minutes, and about 8 GB")
    wanted = parser.parse_args()
    head = " ".join(f"{step:>8}" for step in STEPS)
    print(f"{'pool':22} {head} {'first':>8} {'baseline':>9} {'ratio':>7}")
    with own_database():
        measure("digits, 1,797", *digits())
        measure("synthetic, 10,000 x 64", *synthetic(10_000, 64, 10))
    print("Seconds, median of 5 rounds; what the columns mean stands at the head of benchmarks/fast_loop.py.")
    print(f"\n{'arrays alone':30} {'fit':>8} {'score':>8} {'rank':>8} {'sum':>8} {'first':>8}")
    measure_arrays(10_000, 384)
    if wanted.million:
        measure_arrays(1_000_000, 384)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(f"Seconds, median of 3 rounds (one at a million); most memory at any time {peak_mb:,.0f} MB.")


if __name__ == "__main__":
    main()
