"""Files that arrive in many requests and are imported together, through the addresses the page's script uses."""

import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from annotator import jobs
from annotator.actions import collecting, importing
from annotator.models import Annotation, AuditEvent, Item, Job, Project
from tests.cast import png

Login = Callable[[User], Client]
SCRIPTED = {"HTTP_HX_REQUEST": "true"}


@pytest.fixture
def owner(login: Login, alice: User) -> Client:
    return login(alice)


@pytest.fixture
def collection() -> uuid.UUID:
    return uuid.uuid4()


def send(
    client: Client, project: Project, collection: uuid.UUID, batch: int, files: dict[str, bytes], /, **more: Any
) -> Any:
    """One request of a collection; the files by their paths."""
    uploads = [SimpleUploadedFile(path.split("/")[-1], content) for path, content in files.items()]
    fields = {"collection": str(collection), "batch": batch, "paths": json.dumps(list(files)), "files": uploads} | more
    return client.post(reverse("import-files", args=[project.pk]), fields)


def begin(client: Client, project: Project, collection: uuid.UUID, **more: Any) -> Any:
    fields = {"collection": str(collection), "labels": "none"} | more
    return client.post(reverse("import", args=[project.pk]), fields, **SCRIPTED)


def imported(project: Project) -> Job:
    """The import that was asked for, done."""
    claimed = jobs.claim(Job.objects.get(project=project, kind=Job.Kind.IMPORT).pk)
    assert claimed is not None
    with jobs.running(claimed) as run:
        importing.run_import(run)
    claimed.refresh_from_db()
    return claimed


def left_behind(settings: Any) -> list[Path]:
    return [path for path in Path(settings.MEDIA_ROOT, "uploads").rglob("*") if path.is_file()]


def test_what_came_in_several_requests_is_one_import(
    owner: Client, project: Project, collection: uuid.UUID, settings: Any
) -> None:
    assert send(owner, project, collection, 0, {"a.png": png(1), "b.png": png(2)}).json() == {"kept": 2}
    assert send(owner, project, collection, 1, {"c.png": png(3), "broken.png": b"no image"}).json() == {"kept": 2}
    assert not Job.objects.exists()
    answer = begin(owner, project, collection)
    assert answer.status_code == 200 and "a.png and 3 more" in answer.content.decode()
    job = imported(project)
    assert (job.result["imported"], job.result["refused_count"]) == (3, 1)
    assert job.result["refused"][0]["name"] == "broken.png"
    assert sorted(Item.objects.values_list("source_name", flat=True)) == ["a.png", "b.png", "c.png"]
    assert left_behind(settings) == []
    assert AuditEvent.objects.get(verb="started an import").detail["files"] == 4


def test_a_folder_keeps_its_folders_and_they_can_be_the_classes(
    owner: Client, project: Project, collection: uuid.UUID
) -> None:
    send(owner, project, collection, 0, {"photos/cat/1.png": png(1), "photos/dog/1.png": png(2)})
    send(owner, project, collection, 1, {"photos/.DS_Store": b"litter"})
    assert "photos: 3 files" in begin(owner, project, collection, labels="from-folders").content.decode()
    job = imported(project)
    assert (job.result["labels"], job.result["ignored_count"]) == (2, 1)
    assert set(Item.objects.values_list("source_name", flat=True)) == {"cat/1.png", "dog/1.png"}
    assert Annotation.objects.count() == 2


def test_the_same_request_again_brings_nothing_twice(owner: Client, project: Project, collection: uuid.UUID) -> None:
    for _ in range(2):
        send(owner, project, collection, 0, {"a.png": png(1), "b.png": png(2)})
    begin(owner, project, collection)
    assert imported(project).result["files"] == 2


def test_asked_for_twice_it_is_one_import(owner: Client, project: Project, collection: uuid.UUID) -> None:
    send(owner, project, collection, 0, {"a.png": png(1)})
    begin(owner, project, collection)
    assert begin(owner, project, collection).status_code == 200
    assert Job.objects.filter(kind=Job.Kind.IMPORT).count() == 1


def test_two_pages_collect_side_by_side(owner: Client, project: Project) -> None:
    one, other = uuid.uuid4(), uuid.uuid4()
    send(owner, project, one, 0, {"a.png": png(1)})
    send(owner, project, other, 0, {"b.png": png(2)})
    begin(owner, project, one)
    assert imported(project).result["imported"] == 1
    begin(owner, project, other)
    assert Job.objects.filter(kind=Job.Kind.IMPORT).count() == 2


def test_what_is_cancelled_is_gone(owner: Client, project: Project, collection: uuid.UUID, settings: Any) -> None:
    send(owner, project, collection, 0, {"a.png": png(1)})
    fields = {"collection": str(collection), "discard": "all"}
    assert owner.post(reverse("import-files", args=[project.pk]), fields).json() == {"kept": 0}
    assert left_behind(settings) == []
    refused = begin(owner, project, collection)
    assert refused.status_code == 422
    assert "None of the files is here any more; choose them again." in refused.content.decode()


def test_what_is_being_imported_cannot_be_discarded(owner: Client, project: Project, collection: uuid.UUID) -> None:
    send(owner, project, collection, 0, {"a.png": png(1)})
    begin(owner, project, collection)
    owner.post(reverse("import-files", args=[project.pk]), {"collection": str(collection), "discard": "all"})
    assert imported(project).result["imported"] == 1


def test_what_nobody_imports_is_removed_after_a_day(
    owner: Client, project: Project, settings: Any, monkeypatch: Any
) -> None:
    old, fresh = uuid.uuid4(), uuid.uuid4()
    send(owner, project, old, 0, {"a.png": png(1)})
    later = timezone.now() + timedelta(hours=25)
    monkeypatch.setattr(collecting.timezone, "now", lambda: later)
    ages = {old.hex: timedelta(hours=25), fresh.hex: timedelta(0)}

    def written(name: str) -> datetime:
        return later - next(age for collection, age in ages.items() if collection in name)

    monkeypatch.setattr(default_storage, "get_modified_time", written)
    send(owner, project, fresh, 0, {"b.png": png(2)})
    kept = {path.parent.name for path in left_behind(settings)}
    assert kept == {f"collected-{fresh.hex}"}


def test_a_cancelled_import_leaves_nothing_behind(
    owner: Client, project: Project, collection: uuid.UUID, settings: Any
) -> None:
    send(owner, project, collection, 0, {"a.png": png(1)})
    begin(owner, project, collection)
    jobs.cancel(Job.objects.get())
    another = uuid.uuid4()
    send(owner, project, another, 0, {"b.png": png(2)})
    begin(owner, project, another)
    claimed = jobs.claim(Job.objects.latest("id").pk)
    assert claimed is not None
    with jobs.running(claimed) as run:
        importing.run_import(run)
    assert left_behind(settings) == []


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"collection": "x"}, "'x' is not a collection; reload the page"),
        ({"batch": "-1"}, "batch '-1' is not a whole number; reload the page"),
        ({"batch": "99999"}, "batch 99999 is not one of 0 to 20000; bring a zip instead"),
        ({"paths": "[1]"}, "the paths are not a JSON list of words; reload the page"),
        ({"paths": "[" * 100_000}, "the paths are not a JSON list of words; reload the page"),
        ({"paths": "{"}, "the paths are not a JSON list of words; reload the page"),
        ({"paths": '["a", "b"]'}, "2 paths came with 1 files; reload the page"),
        ({"files": []}, "no file arrived; send them again"),
    ],
)
def test_a_request_that_makes_no_sense_says_why(
    owner: Client, project: Project, collection: uuid.UUID, settings: Any, more: dict[str, Any], why: str
) -> None:
    answer = send(owner, project, collection, 0, {"a.png": png(1)}, **more)
    assert (answer.status_code, answer.json()["message"]) == (422, why)
    assert left_behind(settings) == []


def test_a_path_leads_nowhere(owner: Client, project: Project, collection: uuid.UUID) -> None:
    send(owner, project, collection, 0, {"../../etc/a.png": png(1)})
    begin(owner, project, collection)
    imported(project)
    assert Item.objects.get().source_name == "etc/a.png"


def test_a_table_that_is_missing_loses_nothing(owner: Client, project: Project, collection: uuid.UUID) -> None:
    send(owner, project, collection, 0, {"a.png": png(1)})
    refused = begin(owner, project, collection, labels="table")
    assert refused.status_code == 422 and 'id="refusal"' in refused.content.decode()
    table = SimpleUploadedFile("labels.csv", b"file_name,label\na.png,cat\n")
    assert begin(owner, project, collection, labels="table", label_table=table).status_code == 200
    assert imported(project).result["labels"] == 1


def test_only_owners_send_files(
    login: Login, project: Project, carol: User, charlie: User, alice: User, collection: uuid.UUID, settings: Any
) -> None:
    assert send(login(carol), project, collection, 0, {"a.png": png(1)}).status_code == 403
    assert send(login(charlie), project, collection, 0, {"a.png": png(1)}).status_code == 404
    assert login(alice).get(reverse("import-files", args=[project.pk])).status_code == 405
    assert left_behind(settings) == []
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    assert send(strict, project, collection, 0, {"a.png": png(1)}).status_code == 403


def test_many_files_do_not_fill_the_job(owner: Client, project: Project, collection: uuid.UUID) -> None:
    for batch in range(20):
        send(owner, project, collection, batch, {f"{batch}-{n}.png": png(1000 + 10 * batch + n) for n in range(10)})
    begin(owner, project, collection)
    job = Job.objects.get()
    assert job.parameters["count"] == 200 and len(json.dumps(job.parameters)) < 20 * 100
    assert imported(project).result["imported"] == 200
