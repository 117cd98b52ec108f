"""How long does it take to merge two classes, and to take that back? In a PostgreSQL and a data folder of its own.

    python benchmarks/merging.py [--answers 100000] [--disputes 500]

Meanwhile nobody's answer is written, so the seconds are what somebody at the desk waits at worst. The baseline is the
one statement that would overwrite the answers where they stand, keep no history and settle nothing.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

DATA = Path(tempfile.mkdtemp(prefix="winnow-merging-"))
os.environ |= {"WINNOW_DATA": str(DATA), "DJANGO_SETTINGS_MODULE": "annotator.settings", "SECRET_KEY": "benchmark"}
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import django  # noqa: E402

django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.utils import timezone  # noqa: E402

from annotator.actions import merging, projects  # noqa: E402
from annotator.embedded import Postgres, make_folders  # noqa: E402
from annotator.models import Annotation, Item, LabelClass, Project  # noqa: E402


def fill(answers: int, disputes: int) -> tuple[Project, User]:
    """A project whose images one person calls cats, some of which another calls dogs."""
    owner, other = (User.objects.create_user(name) for name in ("owner", "other"))
    project = projects.create_project(owner=owner, name="Merging", class_names=["cat", "dog"])
    cat, dog = project.classes.all()
    items = Item.objects.bulk_create(
        (
            Item(
                project=project, sha256=f"{number:064}", storage_key="x", thumbnail_key="x", width=8, height=8,
                size_bytes=1, mime="image/png", source_name=f"{number}.png", state=Item.State.LABELLED,
            )
            for number in range(answers)
        ),
        batch_size=5_000,
    )  # fmt: skip

    def said(who: User, item: Item, label_class: LabelClass) -> Annotation:
        return Annotation(
            uuid=uuid.uuid4(), project=project, item=item, annotator=who, kind=Annotation.Kind.LABEL,
            value={"class": label_class.pk}, created_at=timezone.now(),
        )  # fmt: skip

    Annotation.objects.bulk_create((said(owner, item, cat) for item in items), batch_size=5_000)
    Annotation.objects.bulk_create((said(other, item, dog) for item in items[:disputes]), batch_size=5_000)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return project, owner


def seconds(act: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    done = act()
    return time.perf_counter() - began, done


def overwrite(project: Project, old: int, new: int) -> int:
    with transaction.atomic():
        return Annotation.objects.filter(project=project, value={"class": old}).update(value={"class": new})


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--answers", type=int, default=100_000)
    asked.add_argument("--disputes", type=int, default=500)
    args = asked.parse_args()
    project, owner = fill(args.answers, args.disputes)
    cat, dog = project.classes.all()
    merge = {"project": project, "actor": owner}
    plain, _ = seconds(lambda: overwrite(project, cat.pk, dog.pk))
    Annotation.objects.filter(annotator=owner).update(value={"class": cat.pk})
    merged, event = seconds(lambda: merging.merge_classes(**merge, source_id=cat.pk, target_id=dog.pk))
    parted, _ = seconds(lambda: merging.take_merge_back(**merge, event_id=event.pk))
    current = Annotation.objects.filter(superseded_by__isnull=True, value={"class": cat.pk})
    assert current.count() == args.answers
    print(f"{args.answers:,} answers, {args.disputes:,} of them disputed; seconds, and against overwriting in place")
    for name, took in (("overwrite in place", plain), ("merge", merged), ("take back", parted)):
        print(f"{name:20}{took:8.1f}{took / plain:8.1f}")


if __name__ == "__main__":
    make_folders(settings.WINNOW_DATA)
    server = Postgres.from_settings()
    server.start()
    try:
        server.create_database("winnow")
        call_command("migrate", verbosity=0)
        main()
    finally:
        connection.close()
        server.stop(at_once=True)
        shutil.rmtree(DATA, ignore_errors=True)
