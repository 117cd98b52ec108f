"""Labels leave: each with where it came from, and as many as the database holds."""

import csv
import io
import json
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from annotator.actions import classes, exporting, labeling, projects, reviewing
from annotator.actions.exporting import DEFAULT_INCLUDE, INCLUDE
from annotator.actions.importing import start_upload_import
from annotator.models import Annotation, Certificate, Item, LabelClass, Look, ModelVersion, Project, Proposal
from ml_worker.tasks import run_job
from tests.cast import make_item, png
from tests.test_importing import zipped

Login = Callable[[User], Client]
Answer = Callable[..., Annotation]


def exported(project: Project, *include: str) -> dict[int, dict[str, Any]]:
    """The rows by item, as JSON Lines give them."""
    pieces = exporting.export(project=project, format_name="jsonl", include=include or DEFAULT_INCLUDE)
    rows = [json.loads(line) for line in b"".join(pieces).splitlines()]
    return {row["item_id"]: row for row in rows}


def imported(project: Project, item: Item, who: User, label_class: LabelClass) -> None:
    Annotation.objects.create(
        uuid=uuid.uuid4(),
        project=project,
        item=item,
        annotator=who,
        kind=Annotation.Kind.LABEL,
        value={"class": label_class.pk},
        source=Annotation.Source.IMPORTED,
    )
    labeling.close_item(item)


# --- what a row says ---


def test_a_human_answer_carries_who_when_and_how_long(
    project: Project, items: list[Item], answer: Answer, bob: User, cat: LabelClass
) -> None:
    given = answer(bob, items[0], cat, milliseconds=1500)
    assert exported(project) == {
        items[0].pk: {
            "item_id": items[0].pk,
            "file_name": "image-0.png",
            "label": "cat",
            "split": "pool",
            "sha256": items[0].sha256,
            "origin": "human",
            "confidence": None,
            "model_version": None,
            "annotators": ["bob"],
            "labelled_at": given.created_at.isoformat(),
            "seconds": 1.5,
            "certificate": "",
        }
    }


def test_decisions_on_proposals_carry_the_model_and_its_confidence(
    project: Project, items: list[Item], proposals: list[Proposal], carol: User, dog: LabelClass
) -> None:
    wrong, right, corrected = proposals[:3]
    reviewing.decide(
        project=project,
        reviewer=carol,
        accepted=[right.pk],
        rejected=[wrong.pk],
        corrected={corrected.pk: {"class": dog.pk}},
    )
    rows = exported(project)
    assert set(rows) == {right.item_id, corrected.item_id}
    accepted = rows[right.item_id]
    assert (accepted["origin"], accepted["label"], accepted["annotators"]) == ("accepted", "cat", ["carol"])
    assert (accepted["model_version"], accepted["confidence"]) == (1, pytest.approx(right.confidence))
    assert (rows[corrected.item_id]["origin"], rows[corrected.item_id]["label"]) == ("corrected", "dog")
    assert set(exported(project, "accepted")) == {right.item_id}
    assert set(exported(project, "human")) == {corrected.item_id}


def auto_accept(proposal: Proposal) -> None:
    promise = {"target": 0.99, "confidence": 0.95, "delta": 0.01}
    look, _ = Look.objects.get_or_create(
        project=proposal.project, number=1, planned=1, model_version=proposal.model_version, answers=430, spent=0.01,
        **promise,
    )  # fmt: skip
    certificate, _ = Certificate.objects.get_or_create(
        project=proposal.project, look=look, threshold=0.9, n=430, k=430, rest=4, answered=0, bound=0.99, **promise
    )
    Proposal.objects.filter(pk=proposal.pk).update(state=Proposal.State.AUTO_ACCEPTED, certificate=certificate)


def test_what_nobody_looked_at_leaves_only_when_asked_and_never_against_a_person(
    project: Project, items: list[Item], proposals: list[Proposal], answer: Answer, bob: User, dog: LabelClass
) -> None:
    for proposal in proposals[:4]:
        auto_accept(proposal)
    answer(bob, proposals[1].item, dog)
    answer(bob, proposals[2].item, kind="none_of_these")
    answer(bob, proposals[3].item)
    assert set(exported(project)) == {proposals[1].item_id}
    rows = exported(project, *INCLUDE)
    assert len(rows) == len(items)
    origins = [rows[proposal.item_id]["origin"] for proposal in proposals[:4]]
    # Whoever skips has looked, and did not agree: it is unseen no more.
    assert origins == ["auto-accepted", "human", "none_of_these", "unlabelled"]
    assert rows[proposals[0].item_id]["annotators"] == [] and rows[proposals[0].item_id]["model_version"] == 1


def test_only_current_answers_leave(
    project: Project, items: list[Item], answer: Answer, bob: User, cat: LabelClass, dog: LabelClass
) -> None:
    answer(bob, items[0], cat)
    answer(bob, items[0], dog)  # changed
    answer(bob, items[1], cat)
    labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())  # taken back
    answer(bob, items[2], cat)
    answer(bob, items[2])  # skipped after all
    rows = exported(project)
    assert {item_id: row["label"] for item_id, row in rows.items()} == {items[0].pk: "dog"}
    assert exported(project, "unlabelled").keys() == {item.pk for item in items[1:]}


def test_people_who_agree_stand_together_and_those_who_do_not_give_no_label(
    project: Project, items: list[Item], answer: Answer, alice: User, bob: User, cat: LabelClass, dog: LabelClass
) -> None:
    for item, second in ((items[0], cat), (items[1], dog)):
        answer(bob, item, cat, milliseconds=1000)
        Annotation.objects.create(
            uuid=uuid.uuid4(),
            project=project,
            item=item,
            annotator=alice,
            kind="label",
            value={"class": second.pk},
            milliseconds=500,
        )
    rows = exported(project)
    assert set(rows) == {items[0].pk}
    assert rows[items[0].pk]["annotators"] == ["bob", "alice"] and rows[items[0].pk]["seconds"] == 1.5
    assert exported(project, "unlabelled")[items[1].pk]["origin"] == "disputed"
    assert exporting.row_counts(project)["disputed"] == 1


def test_a_person_outranks_an_imported_label(
    project: Project, items: list[Item], answer: Answer, alice: User, bob: User, cat: LabelClass, dog: LabelClass
) -> None:
    imported(project, items[0], alice, cat)
    imported(project, items[1], alice, cat)
    Annotation.objects.create(
        uuid=uuid.uuid4(), project=project, item=items[0], annotator=bob, kind="label", value={"class": dog.pk}
    )
    rows = exported(project)
    assert (rows[items[0].pk]["label"], rows[items[0].pk]["origin"]) == ("dog", "human")
    assert (rows[items[1].pk]["label"], rows[items[1].pk]["origin"]) == ("cat", "imported")
    assert set(exported(project, "human", "accepted", "auto")) == {items[0].pk}


def test_a_person_who_said_none_of_these_or_not_this_outranks_an_imported_label(
    project: Project, items: list[Item], answer: Answer, alice: User, bob: User, cat: LabelClass, dog: LabelClass
) -> None:
    for item, kind, value in (
        (items[0], "none_of_these", None),
        (items[1], "rejection", {"class": cat.pk}),
        (items[2], "rejection", {"class": dog.pk}),
        (items[3], "skip", None),
    ):
        imported(project, item, alice, cat)
        Annotation.objects.create(uuid=uuid.uuid4(), project=project, item=item, annotator=bob, kind=kind, value=value)
    rows = exported(project, *INCLUDE)
    origins = [rows[item.pk]["origin"] for item in items[:4]]
    assert origins == ["none_of_these", "unlabelled", "imported", "imported"]
    assert rows[items[0].pk]["annotators"] == ["bob"] and rows[items[0].pk]["label"] == ""


def test_none_of_these_is_a_row_without_a_label_when_asked(
    project: Project, items: list[Item], answer: Answer, bob: User
) -> None:
    answer(bob, items[0], kind="none_of_these")
    assert exported(project) == {}
    row = exported(project, "none_of_these")[items[0].pk]
    assert (row["label"], row["origin"], row["annotators"]) == ("", "none_of_these", ["bob"])


def test_an_archived_class_keeps_its_labels(
    project: Project, items: list[Item], answer: Answer, alice: User, bob: User, cat: LabelClass
) -> None:
    answer(bob, items[0], cat)
    classes.archive_class(label_class=cat, actor=alice, archived=True)
    assert exported(project)[items[0].pk]["label"] == "cat"


def test_nothing_of_another_project_gets_in(
    project: Project, items: list[Item], answer: Answer, bob: User, alice: User, cat: LabelClass
) -> None:
    answer(bob, items[0], cat)
    other = projects.create_project(owner=alice, name="Others", class_names=["cat"])
    make_item(other, 500)
    assert exported(other, *INCLUDE).keys() == {other.items.get().pk}


# --- the numbers ---


@pytest.fixture
def mixed(
    project: Project, items: list[Item], proposals: list[Proposal], answer: Answer, bob: User, carol: User,
    cat: LabelClass, dog: LabelClass,
) -> Project:  # fmt: skip
    """Some of everything."""
    by_item = {proposal.item_id: proposal for proposal in proposals}
    auto_accept(by_item[items[11].pk])
    answer(bob, items[0], cat)
    answer(bob, items[1], dog)
    answer(bob, items[2], kind="none_of_these")
    answer(bob, items[3])
    accepted = [by_item[item.pk].pk for item in items[4:8]]
    reviewing.decide(project=project, reviewer=carol, accepted=accepted, rejected=[by_item[items[8].pk].pk])
    imported(project, items[9], bob, dog)
    return project


@pytest.mark.parametrize("include", [*([name] for name in INCLUDE), list(DEFAULT_INCLUDE), list(INCLUDE)])
@pytest.mark.parametrize("format_name", ["csv", "jsonl", "folder"])
def test_the_file_holds_as_many_rows_as_the_page_says(
    mixed: Project, vera: User, login: Login, include: list[str], format_name: str
) -> None:
    client, query = login(vera), {"include": include, "format": format_name}
    page = client.get(reverse("export", args=[mixed.pk]), query)
    response = client.get(reverse("export-download", args=[mixed.pk]), query)
    content = b"".join(response.streaming_content)
    if format_name == "jsonl":
        rows = len(content.splitlines())
    elif format_name == "csv":
        rows = len(list(csv.DictReader(io.StringIO(content.decode(), newline=""))))
    else:
        archive = zipfile.ZipFile(io.BytesIO(content))
        rows = len(archive.namelist()) - 2
        assert len(list(csv.DictReader(io.StringIO(archive.read("labels.csv").decode())))) == rows
    assert page.context["total"] == rows
    assert f'id="row-count">{rows}<'.encode() in page.content


def test_the_counts_are_those_of_the_database(mixed: Project) -> None:
    labels = Annotation.objects.filter(project=mixed, kind="label", superseded_by__isnull=True)
    assert len(exported(mixed)) == labels.values("item").distinct().count() == 7
    assert exporting.row_counts(mixed) == {
        "human": 2,
        "accepted": 4,
        "imported": 1,
        "auto-accepted": 1,
        "none_of_these": 1,
        "unlabelled": 3,
    }


def test_queries_grow_with_the_chunks_and_not_with_the_items(mixed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with CaptureQueriesContext(connection) as captured:
        exported(mixed, *INCLUDE)
    assert len(captured) <= 6
    monkeypatch.setattr(exporting, "CHUNK", 5)
    assert len(exported(mixed, *INCLUDE)) == 12


@pytest.mark.django_db(transaction=True)
def test_answers_given_while_the_file_is_sent_are_not_half_in(
    project: Project, items: list[Item], answer: Answer, bob: User, cat: LabelClass, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr(exporting, "CHUNK", 4)
    answer(bob, items[0], cat)
    pieces = exporting.export(project=project, format_name="jsonl", include=["human"])
    first = next(pieces)

    def answers_meanwhile() -> None:
        try:
            answer(bob, items[10], cat)
        finally:
            connection.close()

    thread = threading.Thread(target=answers_meanwhile)
    thread.start()
    thread.join()
    assert Annotation.objects.count() == 1  # this connection still sees the snapshot
    assert len([first, *pieces]) == 1
    assert Annotation.objects.count() == 2


# --- round trip ---


def test_an_exported_zip_comes_back_as_the_same_project(
    project: Project, items: list[Item], answer: Answer, alice: User, bob: User, cat: LabelClass, dog: LabelClass
) -> None:
    for number, item in enumerate(items[:6]):
        answer(bob, item, (cat, dog)[number % 2])
    content = b"".join(exporting.export(project=project, format_name="folder", include=["human", "unlabelled"]))
    other = projects.create_project(owner=alice, name="Again", class_names=[])
    job = start_upload_import(
        project=other, actor=alice, uploads=[zipped({})], labels="from-folders"
    )  # replaced below: the export itself is uploaded
    default_storage.delete(job.parameters["uploads"][0]["key"])
    job.parameters["uploads"][0]["key"] = default_storage.save("uploads/x", io.BytesIO(content))
    job.save()
    run_job(job.pk)
    before = {row["sha256"]: row["label"] for row in exported(project, "human", "unlabelled").values()}
    after = {row["sha256"]: row["label"] for row in exported(other, "imported", "unlabelled").values()}
    assert before == after and len(after) == 12
    assert {each.name for each in other.classes.all()} == {"cat", "dog"}


def test_hostile_names_come_back_through_a_csv_table(project: Project, alice: User, bob: User, answer: Answer) -> None:
    names = ["=cmd|'/c calc'!A1", "a,b;c", 'say "hi"', "naïve 犬", "x/y", "'quoted", "-1"]
    for number, name in enumerate(names):
        label_class = classes.add_class(project=project, actor=alice, name=name)
        answer(bob, make_item(project, number), label_class)
    content = b"".join(exporting.export(project=project, format_name="csv", include=["human"]))
    assert b"\n=cmd" not in content and b",=cmd" not in content
    archive = zipped({f"image-{number}.png": png(number) for number in range(len(names))})
    table = zipped({})
    table.file, table.name, table.size = io.BytesIO(content), "labels.csv", len(content)
    other = projects.create_project(owner=alice, name="Again", class_names=[])
    job = start_upload_import(project=other, actor=alice, uploads=[archive], labels="table", label_table=table)
    run_job(job.pk)
    job.refresh_from_db()
    assert job.result["labels"] == len(names), job.error
    assert {row["label"] for row in exported(other).values()} == set(names)


# --- the page ---


def test_a_download_is_a_file_with_a_safe_name(project: Project, vera: User, login: Login) -> None:
    Project.objects.filter(pk=project.pk).update(name='Ça/"va"\r\n')
    response = login(vera).get(reverse("export-download", args=[project.pk]))
    assert response.status_code == 200 and response.streaming
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert response["Content-Disposition"].startswith("attachment; filename") and "\n" not in response.headers
    assert b"".join(response.streaming_content).startswith(b"item_id,file_name,label,split,sha256,origin,")


def test_the_page_answers_a_change_of_choice_with_the_count(mixed: Project, vera: User, login: Login) -> None:
    response = login(vera).get(
        reverse("export", args=[mixed.pk]), {"include": ["auto"]}, headers={"hx-request": "true", "hx-target": "total"}
    )
    assert b">1</strong>" in response.content and b"<html" not in response.content


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ({"format": "huggingface"}, "cannot be written yet"),
        ({"format": "xml"}, "is not one of csv, jsonl, folder"),
        ({"include": "everything"}, "cannot be included"),
    ],
)
def test_a_bad_wish_is_refused_in_words(
    project: Project, vera: User, login: Login, query: dict[str, str], why: str
) -> None:
    for view in ("export", "export-download"):
        response = login(vera).get(reverse(view, args=[project.pk]), query)
        assert response.status_code == 422 and why.encode() in response.content


@pytest.mark.parametrize("view", ["export", "export-download"])
def test_the_pages_are_for_members(project: Project, charlie: User, vera: User, login: Login, view: str) -> None:
    url = reverse(view, args=[project.pk])
    assert Client().get(url).status_code == 302
    assert login(charlie).get(url).status_code == 404
    assert login(vera).post(url).status_code == 405


# --- the command ---


def test_the_command_writes_the_file_and_says_how_many(mixed: Project, tmp_path: Path) -> None:
    out, said = tmp_path / "labels.jsonl", io.StringIO()
    call_command(
        "export_dataset",
        "pets",
        str(out),
        "--format",
        "jsonl",
        "--include",
        "human,accepted,auto",
        "--json",
        stdout=said,
    )
    report = json.loads(said.getvalue())
    assert report["rows"] == len(out.read_text().splitlines()) == 7
    assert report["by_origin"] == {"human": 2, "accepted": 4, "auto-accepted": 1}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["labels.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["Nothing", "{out}"], "no project 'Nothing'"),
        (["Pets", "{out}", "--format", "huggingface"], "cannot be written yet"),
        (["Pets", "{out}", "--format", "labelstudio"], "cannot be written yet"),
        (["Pets", "{out}", "--include", "humans"], "'humans' cannot be included"),
        (["Pets", "/nowhere/x.csv"], "cannot write /nowhere/x.csv"),
    ],
)
def test_the_command_refuses_in_one_sentence(project: Project, tmp_path: Path, arguments: list[str], why: str) -> None:
    with pytest.raises(CommandError, match=why):
        call_command("export_dataset", *(each.format(out=tmp_path / "x.csv") for each in arguments))
    assert not list(tmp_path.glob("*.csv"))


def test_a_missing_image_is_named_and_the_others_are_there(
    project: Project, items: list[Item], answer: Answer, bob: User, cat: LabelClass, tmp_path: Path
) -> None:
    for item in items[:3]:
        answer(bob, item, cat)
    default_storage.delete(items[1].storage_key)
    said, complaints = io.StringIO(), io.StringIO()
    out = str(tmp_path / "x.zip")
    call_command("export_dataset", "Pets", out, "--format", "folder", stdout=said, stderr=complaints)
    archive = zipfile.ZipFile(out)
    assert archive.testzip() is None
    images = ["cat/image-0.png", "cat/image-2.png"]
    assert archive.namelist() == [*images, "labels.csv", "classes.txt", "problems.txt"]
    rows = list(csv.DictReader(io.StringIO(archive.read("labels.csv").decode())))
    assert [row["path"] for row in rows] == [images[0], "", images[1]]
    assert "3 rows" in said.getvalue()
    for told in (complaints.getvalue(), archive.read("problems.txt").decode()):
        assert f"image-1.png (item {items[1].pk}) is not in this zip: No such file" in told


def test_a_class_renamed_before_the_first_piece_is_called_by_its_new_name(
    project: Project, items: list[Item], answer: Answer, bob: User, cat: LabelClass
) -> None:
    answer(bob, items[0], cat)
    pieces = exporting.export(project=project, format_name="folder", include=["human"])
    LabelClass.objects.filter(pk=cat.pk).update(name="tiger")
    assert zipfile.ZipFile(io.BytesIO(b"".join(pieces))).namelist()[0] == "tiger/image-0.png"


def test_a_model_that_corrects_nothing_is_not_named(mixed: Project, model: ModelVersion) -> None:
    assert {row["model_version"] for row in exported(mixed, "human", "imported").values()} == {None}
