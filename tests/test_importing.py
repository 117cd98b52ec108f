"""Images come in: once each, checked, with the audit sample drawn fairly, whatever happens on the way."""

import errno
import io
import json
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.urls import reverse

from annotator import jobs, uploads
from annotator.actions import classes, imported_labels, importing, reviewing
from annotator.actions.importing import audit_size
from annotator.formats import sources
from annotator.models import (
    Annotation,
    Item,
    Job,
    LabelClass,
    Membership,
    Project,
    ProjectSettings,
    Proposal,
    QueueEntry,
    Role,
    Split,
)
from annotator.storage import AtomicFileStorage
from ml_worker.tasks import run_job
from tests.cast import png

Login = Callable[[User], Client]


def zipped(files: dict[str, bytes]) -> ContentFile:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return ContentFile(out.getvalue(), "pets.zip")


def bring(project: Project, who: User, *uploads: Any, **more: Any) -> Job:
    """Ask for an import and run it as the worker does."""
    job = importing.start_upload_import(project=project, actor=who, uploads=list(uploads), **more)
    run_job(job.pk)
    job.refresh_from_db()
    return job


def stored(item: Item) -> bytes:
    with default_storage.open(item.storage_key) as file:
        return bytes(file.read())


def pets(count: int = 6, first: int = 0) -> dict[str, bytes]:
    return {f"{('cat', 'dog')[seed % 2]}/{seed}.png": png(seed) for seed in range(first, first + count)}


# --- what goes in and what does not ---


def test_good_files_go_in_and_each_bad_one_is_named_with_its_reason(project: Project, alice: User) -> None:
    files = pets(3) | {
        "__MACOSX/._0.png": b"litter",
        ".DS_Store": b"litter",
        "text.png": b"I am text",
        "empty.png": b"",
        "cut.png": png(99, 200)[:-300],
        "inner.zip": b"PK\x03\x04" + b"\0" * 40,
        "../../up.png": png(98),
        "copy.png": png(0),
        "text copy.png": b"I am text",
    }
    job = bring(project, alice, zipped(files))
    assert job.state == Job.State.DONE
    assert job.message == "12 of 12 files: 3 imported, 6 refused"
    assert (job.result["imported"], job.result["duplicates"], job.result["files"]) == (3, 1, 12)
    reasons = {each["name"]: each["reason"] for each in job.result["refused"]}
    assert set(reasons) == {"text.png", "text copy.png", "empty.png", "cut.png", "inner.zip", "up.png"}
    assert "known kind" in reasons["text.png"] and reasons["empty.png"] == "empty" and "damaged" in reasons["cut.png"]
    assert {each["name"] for each in job.result["ignored"]} == {"__MACOSX/._0.png", ".DS_Store"}
    assert job.result["refused_count"] == 6 and job.result["ignored_count"] == 2
    assert Item.objects.filter(project=project).count() == 3


def test_an_item_knows_its_bytes_its_size_and_where_it_came_from(project: Project, alice: User) -> None:
    content = png(1, 300)
    job = bring(project, alice, zipped({"deep/folder/1.png": content}))
    item = Item.objects.get(project=project)
    assert (item.width, item.height, item.size_bytes, item.mime) == (300, 300, len(content), "image/png")
    assert item.source_name == "folder/1.png" and item.uploader == alice and item.import_job == job
    assert stored(item) == content
    assert item.thumbnail_key.endswith(".webp") and default_storage.size(item.thumbnail_key) > 0
    assert item.state == "open"


def test_oversize_files_and_images_are_refused(project: Project, alice: User, settings: Any) -> None:
    settings.MAX_IMAGE_BYTES, settings.MAX_IMAGE_PIXELS = 2**20, 10_000
    job = bring(project, alice, zipped({"heavy.png": b"x" * (2**20 + 1), "wide.png": png(1, 200), "ok.png": png(2)}))
    reasons = {each["name"]: each["reason"] for each in job.result["refused"]}
    assert reasons == {
        "heavy.png": "larger than 1 MB",
        "wide.png": "200 x 200 pixels; at most 10,000 pixels are taken",
    }
    assert job.result["imported"] == 1


def test_images_one_by_one_and_a_zip_in_one_upload(project: Project, alice: User) -> None:
    job = bring(project, alice, ContentFile(png(1), "one.png"), zipped(pets(2, 10)), ContentFile(b"no", "no.png"))
    assert job.result["imported"] == 3 and job.result["refused"][0]["name"] == "no.png"


def test_the_same_images_again_change_nothing(project: Project, alice: User) -> None:
    bring(project, alice, zipped(pets()))
    again = bring(project, alice, zipped(pets()))
    assert (again.result["imported"], again.result["duplicates"]) == (0, 6)
    assert Item.objects.filter(project=project).count() == 6


def test_what_was_uploaded_is_not_kept_twice(project: Project, alice: User, settings: Any) -> None:
    bring(project, alice, zipped(pets()))
    assert not [path for path in Path(settings.MEDIA_ROOT, "uploads").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("content", "why"), [(b"PK\x03\x04 and then nothing", "not a whole zip"), (zipped({}).read(), "no file in it")]
)
def test_a_zip_that_gives_nothing_fails_with_one_sentence(
    project: Project, alice: User, content: bytes, why: str
) -> None:
    job = bring(project, alice, ContentFile(content, "pets.zip"))
    assert job.state == Job.State.FAILED and why in job.error


def test_a_broken_zip_among_others_is_named_and_the_rest_goes_in(project: Project, alice: User) -> None:
    broken = ContentFile(b"PK\x03\x04 not a zip", "broken.zip")
    job = bring(project, alice, ContentFile(png(1), "one.png"), broken, zipped(pets(2, 10)))
    assert (job.state, job.result["imported"], job.result["refused_count"]) == (Job.State.DONE, 3, 1)
    (refused,) = job.result["refused"]
    assert refused["name"] == "broken.zip" and "not a whole zip" in refused["reason"]


def test_after_an_import_there_is_work_to_do(project: Project, alice: User) -> None:
    bring(project, alice, zipped(pets()))
    # Random checks are drawn when they are due.
    pool = Item.objects.filter(project=project, split=Split.POOL)
    assert pool.filter(queue_entry__isnull=False).count() == pool.count() == 3
    assert Job.objects.filter(project=project, kind=Job.Kind.EMBED, state=Job.State.QUEUED).count() == 1


# --- dying, stopping, racing ---


def test_a_run_that_died_goes_on_where_it_was(
    project: Project, alice: User, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(importing, "BATCH_FILES", 2)
    job = importing.start_upload_import(
        project=project, actor=alice, uploads=[zipped(pets(10))], labels="from-folders"
    )
    whole = importing._Import._take

    def dies_in_the_third_batch(self: Any, batch: Any) -> None:
        if self.report.imported == 4:
            raise SystemExit  # nothing in the product catches this, as nothing catches SIGKILL
        whole(self, batch)

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(importing._Import, "_take", dies_in_the_third_batch)
        run_job(job.pk)
    assert Item.objects.filter(project=project).count() == 4
    job.refresh_from_db()
    assert job.state == Job.State.RUNNING
    settings.JOB_STALE_S = -1
    monkeypatch.setattr(jobs, "ring", lambda job_id: None)
    jobs.tend()
    run_job(job.pk)
    job.refresh_from_db()
    assert job.state == Job.State.DONE and job.attempt == 2
    assert (job.result["imported"], job.result["duplicates"], job.result["labels"]) == (10, 0, 10)
    assert Item.objects.filter(project=project, state="labelled").count() == 10
    assert Annotation.objects.filter(project=project).count() == 10


def test_half_a_file_in_storage_is_replaced(project: Project, alice: User) -> None:
    bring(project, alice, ContentFile(png(1), "1.png"))
    item = Item.objects.get()
    item.delete()
    default_storage.delete(item.storage_key)
    default_storage.save(item.storage_key, ContentFile(png(1)[:20]))
    bring(project, alice, ContentFile(png(1), "1.png"))
    assert stored(Item.objects.get()) == png(1)


def test_a_cancelled_import_keeps_what_is_in_and_reports_it(
    project: Project, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH_FILES", 2)
    monkeypatch.setattr(jobs.Run, "REPORT_EVERY_S", 0.0)
    job = importing.start_upload_import(project=project, actor=alice, uploads=[zipped(pets(10))])
    whole = importing._Import._take

    def cancelled_in_the_second_batch(self: Any, batch: Any) -> None:
        whole(self, batch)
        if self.report.imported == 4:
            jobs.cancel(self.job)

    monkeypatch.setattr(importing._Import, "_take", cancelled_in_the_second_batch)
    run_job(job.pk)
    job.refresh_from_db()
    assert job.state == Job.State.CANCELLED
    assert job.result["imported"] == Item.objects.filter(project=project).count() == 4
    assert QueueEntry.objects.filter(project=project).count() == 2


@pytest.mark.django_db(transaction=True)
def test_two_imports_of_the_same_zip_at_once_bring_each_image_once(
    project: Project, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH_FILES", 5)
    monkeypatch.setattr(jobs, "ring", lambda job_id: None)
    birds = {f"{('hen', 'owl', 'emu')[seed % 3]}/{seed}.png": png(seed) for seed in range(40)}
    two = [
        importing.start_upload_import(project=project, actor=alice, uploads=[zipped(birds)], labels="from-folders")
        for _ in range(2)
    ]

    def work(job: Job) -> None:
        try:
            run_job(job.pk)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=[job]) for job in two]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job in two:
        job.refresh_from_db()
    assert [job.state for job in two] == ["done", "done"], [job.error for job in two]
    assert sum(job.result["imported"] for job in two) == 40
    assert sum(job.result["duplicates"] for job in two) == 40
    assert Item.objects.filter(project=project).count() == 40
    assert Annotation.objects.filter(project=project).count() == 40
    assert 18 <= Item.objects.filter(project=project, split=Split.AUDIT).count() <= 20


def test_the_upload_of_an_import_cancelled_before_it_began_goes_with_the_next_one(
    project: Project, alice: User
) -> None:
    job = importing.start_upload_import(project=project, actor=alice, uploads=[zipped(pets())])
    key = job.parameters["uploads"][0]["key"]
    jobs.cancel(job)
    assert default_storage.exists(key)
    assert bring(project, alice, ContentFile(png(1), "1.png")).state == Job.State.DONE
    assert not default_storage.exists(key)


# --- labels ---


def test_folder_names_mean_nothing_unless_asked(project: Project, alice: User) -> None:
    bring(project, alice, zipped({"bird/1.png": png(1)}))
    assert not Annotation.objects.exists() and not LabelClass.objects.filter(name="bird").exists()


def test_folder_names_become_labels_when_asked(project: Project, alice: User, cat: LabelClass) -> None:
    files = {"train/Cat/1.png": png(1), "bird/2.png": png(2), "3.png": png(3), "_unlabelled/4.png": png(4)}
    job = bring(project, alice, zipped(files), labels="from-folders")
    labels = {each.item.source_name: each for each in Annotation.objects.select_related("item")}
    bird = LabelClass.objects.get(project=project, name="bird")
    assert {name: each.value["class"] for name, each in labels.items()} == {
        "train/Cat/1.png": cat.pk,
        "bird/2.png": bird.pk,
    }
    assert {each.source for each in labels.values()} == {Annotation.Source.IMPORTED}
    assert {each.item.state for each in labels.values()} == {"labelled"}
    assert job.result["labels"] == 2
    still_open = Item.objects.filter(state=Item.State.OPEN)
    assert set(still_open.values_list("source_name", flat=True)) == {"3.png", "_unlabelled/4.png"}
    asked = still_open.filter(split=Split.POOL)  # either may have been drawn as a random check
    assert set(QueueEntry.objects.values_list("item_id", flat=True)) == set(asked.values_list("pk", flat=True))


def test_labels_can_follow_later(project: Project, alice: User) -> None:
    bring(project, alice, zipped(pets()))
    job = bring(project, alice, zipped(pets()), labels="from-folders")
    assert (job.result["imported"], job.result["labels"], job.result["new_labels"]) == (0, 6, 6)
    assert not QueueEntry.objects.exists()
    refits = Job.objects.filter(project=project, kind=Job.Kind.REFIT)
    assert refits.count() == 1
    refits.delete()
    again = bring(project, alice, zipped(pets()), labels="from-folders")
    assert (again.result["labels"], again.result["new_labels"]) == (6, 0) and Annotation.objects.count() == 6
    assert not refits.exists()


def test_what_a_person_answered_is_not_overwritten(
    project: Project, alice: User, cat: LabelClass, answer: Any
) -> None:
    bring(project, alice, zipped({"dog/1.png": png(1)}))
    answer(alice, Item.objects.get(), cat)
    job = bring(project, alice, zipped({"dog/1.png": png(1)}), labels="from-folders")
    assert Annotation.objects.get().value == {"class": cat.pk}
    assert job.result["unlabelled"] == [{"name": "dog/1.png", "reason": "alice answered otherwise before"}]


@pytest.mark.parametrize("kind", ["none_of_these", "label"])
def test_what_another_person_answered_wins_over_an_import(
    project: Project, alice: User, bob: User, cat: LabelClass, answer: Any, kind: str
) -> None:
    bring(project, alice, zipped({"dog/1.png": png(1)}))
    item = Item.objects.get()
    answer(bob, item, cat if kind == "label" else None, kind=kind)
    job = bring(project, alice, zipped({"dog/1.png": png(1)}), labels="from-folders")
    item.refresh_from_db()
    assert item.state == ("labelled" if kind == "label" else "none_of_these")
    assert Annotation.objects.get().annotator == bob
    why = "bob answered otherwise before" if kind == "label" else "bob answered none of these"
    assert job.result["unlabelled"] == [{"name": "dog/1.png", "reason": why}]
    assert (job.result["labels"], job.result["new_labels"]) == (0, 0)


def test_a_person_who_said_not_this_is_not_contradicted(
    project: Project, alice: User, carol: User, cat: LabelClass, proposals: list[Proposal]
) -> None:
    proposal = next(each for each in proposals if each.value == {"class": cat.pk})
    reviewing.decide(project=project, reviewer=carol, accepted=[], rejected=[proposal.pk])
    number = int(proposal.item.source_name.removeprefix("image-").removesuffix(".png"))
    job = bring(project, alice, zipped({"cat/x.png": png(number)}), labels="from-folders")
    assert job.result["unlabelled"] == [{"name": "cat/x.png", "reason": "carol said that it is not this"}]
    proposal.item.refresh_from_db()
    assert proposal.item.state == "open"
    job = bring(project, alice, zipped({"dog/x.png": png(number)}), labels="from-folders")
    proposal.item.refresh_from_db()
    assert job.result["new_labels"] == 1 and proposal.item.state == "labelled"


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_skip_does_not_keep_a_label_out(
    project: Project, alice: User, bob: User, answer: Any, who: str, dog: LabelClass
) -> None:
    bring(project, alice, zipped({"dog/1.png": png(1)}))
    answer({"alice": alice, "bob": bob}[who], Item.objects.get())
    job = bring(project, alice, zipped({"dog/1.png": png(1)}), labels="from-folders")
    assert job.result["new_labels"] == 1 and Item.objects.get().state == "labelled"


def test_the_label_of_an_earlier_import_stays(project: Project, alice: User, bob: User) -> None:
    bring(project, alice, zipped({"dog/1.png": png(1)}), labels="from-folders")
    Membership.objects.filter(user=bob).update(role=Role.OWNER)
    job = bring(project, bob, zipped({"cat/1.png": png(1)}), labels="from-folders")
    assert job.result["unlabelled"] == [{"name": "cat/1.png", "reason": "it came with another label before"}]
    job = bring(project, bob, zipped({"dog/1.png": png(1)}), labels="from-folders")
    assert (job.result["labels"], job.result["new_labels"]) == (1, 0) and Annotation.objects.count() == 1


def test_classes_that_only_python_calls_equal_stay_apart(project: Project, alice: User) -> None:
    for name in ("Masse", "Maße"):
        classes.add_class(project=project, actor=alice, name=name)
    files = {"Masse/1.png": png(1), "Maße/2.png": png(2), "STRASSE/3.png": png(3), "straße/4.png": png(4)}
    job = bring(project, alice, zipped(files), labels="from-folders")
    names = dict(project.classes.values_list("pk", "name"))
    labels = {each.item.source_name: names[each.value["class"]] for each in Annotation.objects.all()}
    assert labels == {name: name.split("/")[0] for name in files}
    assert job.result["merged"] == []


def test_labels_that_differ_in_capitals_go_into_one_class_and_are_named(
    project: Project, alice: User, cat: LabelClass, login: Login
) -> None:
    classes.add_class(project=project, actor=alice, name="i")
    files = {"CAT/1.png": png(1), "Emu/2.png": png(2), "emu/3.png": png(3), "\u0131/4.png": png(4)}
    job = bring(project, alice, zipped(files), labels="from-folders")
    assert job.state == Job.State.DONE, job.error
    names = dict(project.classes.values_list("pk", "name"))
    labels = {each.item.source_name: names[each.value["class"]] for each in Annotation.objects.all()}
    assert labels == {"CAT/1.png": "cat", "Emu/2.png": "Emu", "emu/3.png": "Emu", "\u0131/4.png": "i"}
    assert [each["name"] for each in job.result["merged"]] == ["CAT", "emu", "\u0131"]
    assert "taken as the class cat" in job.result["merged"][0]["reason"]
    assert b"taken as the class cat" in login(alice).get(reverse("import", args=[project.pk])).content


def test_one_image_in_two_class_folders_is_reported(project: Project, alice: User) -> None:
    job = bring(project, alice, zipped({"cat/1.png": png(1), "dog/1.png": png(1)}), labels="from-folders")
    assert Annotation.objects.count() == 1
    assert "the same image came with" in job.result["unlabelled"][0]["reason"]


def test_labels_from_a_table(project: Project, alice: User, cat: LabelClass) -> None:
    table = ContentFile(b"file_name,label\n0.png,cat\ndog/1.png,'=bird\n", "labels.csv")
    job = bring(project, alice, zipped(pets(3)), labels="table", label_table=table)
    assert job.result["labels"] == 2
    bird = LabelClass.objects.get(project=project, name="=bird")
    assert Annotation.objects.get(item__source_name="dog/1.png").value == {"class": bird.pk}


def test_half_a_letter_in_a_table_is_reported_and_the_rest_goes_in(project: Project, alice: User) -> None:
    rows = b'{"file_name": "\\ud800.png", "label": "\\udc00"}\n{"file_name": "0.png", "label": "cat"}\n'
    job = bring(project, alice, zipped(pets(1)), labels="table", label_table=ContentFile(rows, "labels.jsonl"))
    assert job.state == Job.State.DONE, job.error
    assert job.result["labels"] == 1
    assert job.result["unlabelled"][0]["name"] == "\ufffd.png"


def test_a_zip_that_unpacks_itself_is_read(project: Project, alice: User) -> None:
    program = ContentFile(b"#!/bin/sh\n" + zipped(pets(3)).read(), "pets.run")
    assert bring(project, alice, program).result["imported"] == 3


def test_a_bad_table_fails_before_anything_is_in(project: Project, alice: User) -> None:
    job = bring(project, alice, zipped(pets(3)), labels="table", label_table=ContentFile(b"a,b\n1,2\n", "labels.csv"))
    assert job.state == Job.State.FAILED and "no column" in job.error and not Item.objects.exists()


def test_a_folder_for_each_image_is_no_set_of_classes(
    project: Project, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imported_labels, "CLASSES_AT_MOST", 4)
    files = {f"folder-{seed}/x.png": png(seed) for seed in range(5)}
    job = bring(project, alice, zipped(files), labels="from-folders")
    assert job.state == Job.State.FAILED and "are these really classes" in job.error
    assert project.classes.count() == 2 and not Item.objects.exists()


def test_an_imported_label_takes_the_proposal_off_the_table(
    project: Project, alice: User, proposals: list[Proposal]
) -> None:
    item = proposals[0].item
    number = int(item.source_name.removeprefix("image-").removesuffix(".png"))
    bring(project, alice, zipped({"dog/x.png": png(number)}), labels="from-folders")
    proposals[0].refresh_from_db()
    assert proposals[0].state == Proposal.State.WITHDRAWN


# --- the audit sample ---


@pytest.mark.parametrize(
    ("new", "before", "audit_before", "drawn"),
    [
        (0, 0, 0, 0),
        (1, 0, 0, 0),
        (10, 0, 0, 5),  # never more than half
        (100, 0, 0, 50),
        (1000, 0, 0, 50),  # at least 50
        (1597, 0, 0, 80),  # a twentieth
        (1000, 2000, 100, 50),  # the chance the earlier ones had
        (400, 100, 50, 150),  # likewise, up to four times the minimum
        (100_000, 100, 50, 4955),  # then a twentieth of everything
        (10, 1000, 50, 0),
        (20, 1000, 50, 1),
        (100, 40, 0, 50),
    ],
)
def test_the_size_of_the_audit_sample(new: int, before: int, audit_before: int, drawn: int) -> None:
    assert audit_size(ProjectSettings(), new=new, before=before, audit_before=audit_before) == drawn


def test_no_audit_where_none_is_wanted() -> None:
    assert audit_size(ProjectSettings(audit_fraction=0.0, audit_minimum=0), new=1000) == 0


def test_the_audit_is_drawn_at_import_and_grows_with_the_pool(
    project: Project, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH_FILES", 16)
    audit = Item.objects.filter(project=project, split=Split.AUDIT)
    bring(project, alice, zipped(pets(60)))
    assert audit.count() == 30
    first = set(audit.values_list("pk", flat=True))
    bring(project, alice, zipped(pets(40, 100)))
    assert audit.count() == 50
    assert first < set(audit.values_list("pk", flat=True))


def test_the_audit_is_not_drawn_from_the_first_files_alone(
    project: Project, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the minimum reached after a few batches, only the random order of the files keeps it fair."""
    monkeypatch.setattr(importing, "BATCH_FILES", 10)
    Project.objects.filter(pk=project.pk).update(settings_json={"audit_minimum": 20})
    project.refresh_from_db()
    files = {f"{seed:03}.png": png(seed) for seed in range(200)}
    bring(project, alice, zipped(files))
    numbers = [int(name[:3]) for name in Item.objects.filter(split=Split.AUDIT).values_list("source_name", flat=True)]
    assert len(numbers) == 20
    # Were they the first 20 or 40, this could not be; for a fair draw the odds against it are a million to one.
    assert sum(number >= 40 for number in numbers) >= 5


# --- the page ---


def upload(name: str = "pets.zip", content: bytes | None = None) -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content if content is not None else zipped(pets(4)).read())


def test_the_page_takes_a_zip_and_shows_what_became_of_it(project: Project, alice: User, login: Login) -> None:
    client, url = login(alice), reverse("import", args=[project.pk])
    assert client.get(url).status_code == 200
    content = zipped(pets(3) | {"bad.png": b"<b>no</b>", "<script>.png": b"x"}).read()
    response = client.post(url, {"files": [upload(content=content)], "labels": "none"})
    assert response.status_code == 303 and response["Location"] == url
    job = Job.objects.get(kind=Job.Kind.IMPORT)
    assert client.get(url, headers={"hx-request": "true", "hx-target": "imports"}).status_code == 200
    run_job(job.pk)
    page = client.get(url, headers={"hx-request": "true", "hx-target": "imports"})
    assert page.status_code == 286
    assert b"bad.png" in page.content and b"not an image of a known kind" in page.content
    assert b"<script>.png" not in page.content and b"&lt;script&gt;.png" in page.content
    assert b"<html" not in page.content


def test_more_files_in_one_request_than_a_process_may_have_open(project: Project, alice: User, login: Login) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (120, hard))
    try:
        files = [upload(f"{seed}.png", png(seed)) for seed in range(200)]
        response = login(alice).post(reverse("import", args=[project.pk]), {"files": files})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert response.status_code == 303
    assert len(Job.objects.get().parameters["uploads"]) == 200


def test_nothing_is_left_of_an_upload_that_was_refused(
    project: Project, alice: User, login: Login, tmp_path: Path, settings: Any
) -> None:
    settings.FILE_UPLOAD_TEMP_DIR = tmp_path / "spool"
    settings.FILE_UPLOAD_TEMP_DIR.mkdir()
    response = login(alice).post(reverse("import", args=[project.pk]), {"files": [upload()], "labels": "table"})
    assert response.status_code == 422
    assert b"choose the CSV" in response.content.replace(b"Choose", b"choose")
    assert not list(settings.FILE_UPLOAD_TEMP_DIR.iterdir())


def test_an_upload_is_moved_into_storage_and_not_copied(
    project: Project, alice: User, login: Login, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.FILE_UPLOAD_TEMP_DIR = tmp_path / "spool"
    settings.FILE_UPLOAD_TEMP_DIR.mkdir()
    monkeypatch.setattr(uploads.ArrivedFile, "chunks", None)  # whoever copies reads these
    for address in (reverse("import", args=[project.pk]), f"/api/v1/projects/{project.pk}/imports/"):
        assert login(alice).post(address, {"files": [upload(), upload("1.png", png(1))]}).status_code in (303, 202)
        assert not list(settings.FILE_UPLOAD_TEMP_DIR.iterdir())
        job = Job.objects.order_by("-pk")[0]
        assert [each["is_zip"] for each in job.parameters["uploads"]] == [True, False]
        for each in job.parameters["uploads"]:
            assert Path(default_storage.path(each["key"])).stat().st_mode & 0o777 == 0o644
        run_job(job.pk)
        job.refresh_from_db()
        assert job.state == Job.State.DONE, job.error


def test_an_upload_from_another_disk_is_copied(
    project: Project, alice: User, login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def other_disk(self: Path, target: Path) -> Path:
        if self.name.startswith("upload-"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", other_disk)
    login(alice).post(reverse("import", args=[project.pk]), {"files": [upload()]})
    key = Job.objects.get().parameters["uploads"][0]["key"]
    with default_storage.open(key) as file:
        assert sources.is_zip(file)


@pytest.mark.parametrize("when", ["it arrives", "it is stored"])
@pytest.mark.parametrize("face", ["page", "api"])
def test_a_full_disk_is_refused_in_words_and_leaves_nothing(
    project: Project, alice: User, login: Login, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Any,
    when: str, face: str,
) -> None:  # fmt: skip
    settings.FILE_UPLOAD_TEMP_DIR = tmp_path / "spool"
    settings.FILE_UPLOAD_TEMP_DIR.mkdir()
    save, saved = AtomicFileStorage._save, []

    def full(self: Any, name: str, content: Any) -> str:
        saved.append(name)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(self, name, content)

    class FullDisk(io.BytesIO):
        def write(self, *_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def open_full(handle: int, mode: str) -> FullDisk:
        os.close(handle)
        return FullDisk()

    if when == "it arrives":
        monkeypatch.setattr(uploads.os, "fdopen", open_full)
    else:
        monkeypatch.setattr(AtomicFileStorage, "_save", full)
    page = reverse("import", args=[project.pk])
    address = page if face == "page" else f"/api/v1/projects/{project.pk}/imports/"
    response = login(alice).post(address, {"files": [upload(), upload()]})
    assert response.status_code == 422 and b"No space left on device" in response.content
    assert (face == "api") == response.headers["Content-Type"].startswith("application/json")
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not left and not Job.objects.exists()


def test_an_empty_form_says_what_is_missing(project: Project, alice: User, login: Login) -> None:
    response = login(alice).post(reverse("import", args=[project.pk]), {"labels": "none"})
    assert response.status_code == 422 and b"Choose at least one image or zip file" in response.content


def test_the_page_is_for_owners(project: Project, carol: User, charlie: User, client: Client, login: Login) -> None:
    url = reverse("import", args=[project.pk])
    assert client.get(url).status_code == 302
    for user, status in ((carol, 403), (charlie, 404)):
        assert login(user).get(url).status_code == status
        assert login(user).post(url, {"files": [upload()]}).status_code == status
    assert login(carol).put(url).status_code == 405
    assert not Job.objects.exists()


def test_the_page_wants_the_csrf_token(project: Project, alice: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    assert client.post(reverse("import", args=[project.pk]), {"files": [upload()]}).status_code == 403
    assert not Job.objects.exists()


# --- the command ---


def command(*arguments: str) -> dict[str, Any]:
    out = io.StringIO()
    call_command("import_items", *arguments, "--json", stdout=out)
    report: dict[str, Any] = json.loads(out.getvalue())
    return report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in pets().items():
        path = tmp_path / "pets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "pets" / "notes.txt").write_text("not an image")
    return tmp_path / "pets"


def test_the_command_imports_a_folder_and_makes_the_project(alice: User, folder: Path) -> None:
    User.objects.filter(pk=alice.pk).update(is_superuser=True)
    report = command("New pets", str(folder), "--labels", "from-folders")
    project = Project.objects.get(name="New pets")
    assert Membership.objects.get(project=project).user == alice
    assert (report["project"], report["imported"], report["labels"]) == (project.pk, 6, 6)
    assert report["refused"] == [{"name": "notes.txt", "reason": report["refused"][0]["reason"]}]
    assert sorted(project.classes.values_list("name", flat=True)) == ["cat", "dog"]
    assert Job.objects.get(pk=report["job"]).state == Job.State.DONE


def test_the_command_says_which_project_it_made_and_what_comes_next(alice: User, folder: Path) -> None:
    User.objects.filter(pk=alice.pk).update(is_superuser=True)
    said = []
    for labels in ("none", "from-folders"):
        out = io.StringIO()
        call_command("import_items", "New pets", str(folder), "--labels", labels, stdout=out, stderr=io.StringIO())
        said.append(out.getvalue())
    number = Project.objects.get(name="New pets").pk
    assert said[0].startswith("made project New pets, at http://")
    assert f"/projects/{number}/settings/" in said[0].splitlines()[-1]
    assert "made project" not in said[1] and "next:" not in said[1]


def test_the_command_reads_zips_lists_and_tables(project: Project, alice: User, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one.zip").write_bytes(zipped({"a.png": png(50)}).read())
    assert command("pets", str(tmp_path / "one.zip"))["imported"] == 1
    listing = folder / "list.csv"
    listing.write_text("file_name,label\ncat/0.png,cat\ndog/1.png,dog\n../one.zip,cat\nnone.png,cat\n")
    report = command(str(project.pk), str(listing), "--labels", str(listing))
    assert (report["imported"], report["labels"]) == (2, 2)
    reasons = {each["name"]: each["reason"] for each in report["refused"]}
    assert "leads out" in reasons["one.zip"] and "No such file" in reasons["none.png"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["Pets", "/nowhere"], "no file or folder /nowhere"),
        (["123456789", "{folder}"], "no project number 123456789"),
        (["Pets", "{folder}", "--labels", "from-folder"], "is neither none nor from-folders nor a file"),
        (["Pets", "{folder}", "--owner", "zoe"], "no account called 'zoe'"),
        (["Pets", "{folder}", "--owner", "carol"], "carol is not an owner"),
        (["Others", "{folder}"], "no account to own"),
        (["Pets", "{folder}/tasks.json"], "cannot be read yet"),
    ],
)
def test_the_command_refuses_in_one_sentence(arguments: list[str], why: str, project: Project, folder: Path) -> None:
    (folder / "tasks.json").write_text("[]")
    if arguments[0] == "Others":
        Membership.objects.filter(role=Role.OWNER).delete()
    with pytest.raises(CommandError, match=why):
        call_command("import_items", *(each.format(folder=folder) for each in arguments))
    assert not Job.objects.exists() and Project.objects.count() == 1


def test_a_file_in_storage_is_there_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    key = default_storage.save("items/1/whole.png", ContentFile(b"first"))
    assert default_storage.save(key, ContentFile(b"second")) == key, "written again under the same name"
    folder = Path(default_storage.path(key)).parent

    def full_disk(*_: object) -> None:
        assert Path(default_storage.path(key)).read_bytes() == b"second"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("annotator.storage.Path.replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        default_storage.save(key, ContentFile(b"third"))
    assert [file.name for file in folder.iterdir()] == ["whole.png"]
    with default_storage.open(key) as file:
        assert file.read() == b"second"
