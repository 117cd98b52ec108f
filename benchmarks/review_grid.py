"""How fast is the review grid with 100,000 proposals waiting? In a PostgreSQL and a data folder of its own.

    python benchmarks/review_grid.py [--proposals 100000] [--labelled 5000] [--dimensions 64] [--times 40]

Ten classes; confidences drawn at random, so that each class has a tenth. Times are of whole answers of the review page
to a script (the part with the grid, 60 tiles), without the network: the median and the 95th percentile of so many.

    first screen         of one class, of all, and the whole page with its filter form
    next screen          each from the place of the one before, of one class
    deep                 the same from 9,000 proposals on
    decide 60            the answer to a POST that accepts 60: 60 labels written, and the next screen
    filters              the first screen under each

and, of the question to the database alone, one screen by its key (what the product does) against one screen by
counting off those before (OFFSET, and a count of all that wait, as paginators do), at the start and deep.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
DATA = Path(tempfile.mkdtemp(prefix="winnow-grid-"))
os.environ |= {"WINNOW_DATA": str(DATA), "DJANGO_SETTINGS_MODULE": "annotator.settings", "SECRET_KEY": "benchmark"}
os.environ["ALLOWED_HOSTS"] = "testserver"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import django  # noqa: E402

django.setup()

import numpy as np  # noqa: E402
from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.utils import timezone  # noqa: E402

from annotator import queries  # noqa: E402
from annotator.actions import flagging, projects  # noqa: E402
from annotator.embedded import Postgres, make_folders  # noqa: E402
from annotator.models import Annotation, Item, Job, ModelVersion, Project, Proposal  # noqa: E402

CLASSES, SCREEN, DEEP = 10, 60, 9_000
SCRIPTED = {"HX-Request": "true"}


def fill(n: int, labelled: int, dimensions: int) -> tuple[Project, User]:
    """A project with n pending proposals and so many labelled images, all with vectors."""
    rng = np.random.default_rng(0)
    owner = User.objects.create_user("owner")
    project = projects.create_project(owner=owner, name="Grid", class_names=[f"kind {c}" for c in range(CLASSES)])
    class_ids = list(project.classes.values_list("pk", flat=True))
    model = ModelVersion.objects.create(
        project=project, number=1, encoder="pca_pixels", algorithm="label_spreading", class_ids=class_ids,
        label_watermark=0, label_count=labelled, answer_count=labelled, temperature=1.0,
        metrics={"short_list": {
            "promise": 0.9, "n": 100, "own": 0, "classes": CLASSES, "inside": 90, "judged": 100, "low": 0.8,
            "high": 0.95, "sizes": [0.1, 0.6, 0.2, 0.1], "test": None, "by_class": [],
        }},
    )  # fmt: skip
    job = Job.objects.create(project=project, kind=Job.Kind.IMPORT, state=Job.State.DONE)
    Item.objects.bulk_create(
        (
            Item(
                project=project, sha256=f"{number:064}", storage_key="x", thumbnail_key="x", width=8, height=8,
                size_bytes=1, mime="image/png", source_name=f"folder-{number % 7}/{number}.png", import_job=job,
                state="open" if number < n else "labelled",
            )
            for number in range(n + labelled)
        ),
        batch_size=5_000,
    )  # fmt: skip
    items = np.array(Item.objects.order_by("pk").values_list("pk", flat=True))
    named, other = rng.integers(0, CLASSES, n + labelled), rng.integers(0, CLASSES, n)
    confidences = rng.beta(6, 1, n)
    Proposal.objects.bulk_create(
        (
            Proposal(
                project=project, item_id=int(items[at]), model_version=model, is_calibrated=True,
                value={"class": class_ids[named[at]]}, label_class_id=class_ids[named[at]],
                confidence=float(confidences[at]),
                short_list=[[class_ids[named[at]], 0.6], [class_ids[other[at]], 0.2]][: 1 + (at % 10 == 0)],
            )
            for at in range(n)
        ),
        batch_size=5_000,
    )  # fmt: skip
    Annotation.objects.bulk_create(
        (
            Annotation(
                uuid=f"00000000-0000-0000-0000-{at:012}", project=project, item_id=int(items[at]), annotator=owner,
                kind="label", value={"class": class_ids[named[at]]},
            )
            for at in range(n, n + labelled)
        ),
        batch_size=5_000,
    )  # fmt: skip
    for at in range(0, n, n // 100):
        flagging.raise_flag(project=project, item_id=int(items[at]), actor=owner)
    embed(project, items, named, dimensions)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    return project, owner


def embed(project: Project, items: np.ndarray, named: np.ndarray, dimensions: int) -> None:
    """Vectors in clouds of a class each, one in ten of them in another cloud; one in a hundred has a near copy."""
    rng = np.random.default_rng(1)
    clouds = np.where(rng.random(len(items)) < 0.1, rng.integers(0, CLASSES, len(items)), named)
    centres = rng.normal(size=(CLASSES, dimensions)) * 3
    folder = Path(settings.ARTIFACT_ROOT) / "embedding"
    folder.mkdir(parents=True)
    np.save(folder / "item_ids.npy", items.astype(np.int64))
    np.save(
        folder / "embeddings.npy", (centres[clouds] + rng.normal(size=(len(items), dimensions))).astype(np.float32)
    )
    np.save(folder / "neighbours.npy", rng.integers(0, len(items), (len(items), 10)).astype(np.int32))
    near = np.where(rng.random(len(items)) < 0.01, 0.0, 1e6).astype(np.float32)
    np.save(folder / "distances.npy", np.repeat(near[:, None], 10, axis=1))
    Job.objects.create(project=project, kind=Job.Kind.EMBED, state=Job.State.DONE, result={"folder": "embedding"})


def timed(what: str, act: Callable[[], Any], times: int) -> None:
    act()  # the first reads from disk what the others find in memory
    spent = []
    for _time in range(times):
        start = time.perf_counter()
        act()
        spent.append((time.perf_counter() - start) * 1000)
    p95 = statistics.quantiles(spent, n=20)[-1]
    print(f"{what:<44}{statistics.median(spent):>8.0f} ms{p95:>8.0f} ms", flush=True)


def offset_screen(project: Project, class_id: int, start: int) -> None:
    """What a paginator asks: how many there are in all, and the screen behind so many."""
    waiting = Proposal.objects.filter(project=project, state="pending").exclude(
        item__queue_entry__leased_until__gt=timezone.now()
    )
    waiting.count()
    rows = waiting.filter(label_class_id=class_id).select_related("item", "model_version")
    list(rows.order_by("confidence", "id")[start : start + SCREEN])


def key_screen(project: Project, class_id: int, after: str) -> None:
    words = {"class": str(class_id), "after": after}
    queries.bounded_count(queries.pending(project))
    queries.screen(project, queries.read_selection(project, words))


def measure(project: Project, owner: User, times: int) -> None:
    client = Client()
    client.force_login(owner)
    address = f"/projects/{project.pk}/review/"
    own, other = list(project.classes.values_list("pk", flat=True))[:2]
    waiting = Proposal.objects.filter(project=project, label_class_id=own).order_by("confidence", "id")
    deep = waiting[DEEP] if waiting.count() > DEEP else waiting.last()
    assert deep is not None
    place = f"{own}~{deep.confidence!r}~{deep.pk}"

    def get(query: str, *, whole: bool = False) -> bytes:
        answer = client.get(f"{address}?{query}", headers={} if whole else SCRIPTED)
        assert answer.status_code == 200, answer.content.decode()[-3000:]
        return answer.content

    def walk() -> None:
        state["after"] = queries.screen(project, read(state["after"])).after
        get(f"class={own}&after={state['after']}")

    def read(after: str) -> Any:
        return queries.read_selection(project, {"class": str(own), "after": after})

    def decide() -> None:
        rows = queries.screen(project, read("")).rows
        fields = {"place": f"class={own}", "shown": [row.pk for row in rows]}
        assert client.post(address, fields, headers=SCRIPTED).status_code == 200

    state = {"after": ""}
    item = Item.objects.filter(project=project).first()
    assert item is not None
    print(f"{'':<44}{'median':>11}{'95th':>11}")
    timed("first screen, one class", lambda: get(f"class={own}"), times)
    timed("first screen, all classes", lambda: get("class=all"), times)
    timed("the whole page", lambda: get(f"class={own}", whole=True), times)
    timed("next screen, from the one before", walk, times)
    timed(f"screen behind {DEEP:,}", lambda: get(f"class={own}&after={place}"), times)
    timed("200 tiles", lambda: get(f"class={own}&tiles=200"), times)
    for name, query in {
        "surest first": f"class={own}&sort=confidence",
        "look-alikes side by side": f"class={own}&sort=similar",
        "confidence 50 to 60 %, all classes": "low=50&high=60",
        "a pair": f"pair={own}-{other}",
        "list names others": "disagree=list",
        "labelled look-alikes disagree": f"class={own}&disagree=neighbours",
        "a model": "source=label_spreading",
        "an import": f"import={item.import_job_id}",
        "a folder": "folder=folder-3",
        "near copies": "near=1",
        "flagged": "flagged=1",
        "more like this": f"like={item.pk}",
        "more like this, one class, flagged": f"class={own}&like={item.pk}&flagged=1",
        "labels": "show=labels",
        "labels of a class and a person": f"show=labels&class={own}&by={owner.pk}",
    }.items():
        timed(f"filter: {name}", lambda query=query: get(query), times)  # type: ignore[misc]
    timed("question: by key, the start", lambda: key_screen(project, own, ""), times)
    timed("question: by OFFSET, the start", lambda: offset_screen(project, own, 0), times)
    timed(f"question: by key, behind {DEEP:,}", lambda: key_screen(project, own, place), times)
    timed(f"question: by OFFSET, behind {DEEP:,}", lambda: offset_screen(project, own, DEEP), times)
    timed("decide 60, and the next screen", decide, times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proposals", type=int, default=100_000)
    parser.add_argument("--labelled", type=int, default=5_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--times", type=int, default=40)
    wanted = parser.parse_args()
    make_folders(settings.WINNOW_DATA)
    server = Postgres.from_settings()
    server.start()
    try:
        server.create_database("winnow")
        call_command("migrate", verbosity=0)
        project, owner = fill(wanted.proposals, wanted.labelled, wanted.dimensions)
        measure(project, owner, wanted.times)
    finally:
        connection.close()
        server.stop(at_once=True)
        shutil.rmtree(DATA, ignore_errors=True)


if __name__ == "__main__":
    main()
