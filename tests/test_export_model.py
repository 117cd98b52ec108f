"""`manage.py export_model`: a project's model leaves in a zip, or the command says why not."""

import io
import json
import subprocess
import sys
import uuid
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.core.management import CommandError, call_command

from annotator import queries
from annotator.actions import demo, labeling
from annotator.models import Item, Job, ModelVersion, Project, Split
from ml_worker import nets, packaging, snapshot
from ml_worker.distil import distil
from ml_worker.tasks import run_job


def export(project: Project, out: Path, *options: str) -> dict[str, Any]:
    said = io.StringIO()
    call_command("export_model", str(project.pk), str(out), "--json", *options, stdout=said, stderr=io.StringIO())
    found: dict[str, Any] = json.loads(said.getvalue())
    return found


def digit_of(item: Item) -> str:
    """What a picture of the demo shows, by its stored label."""
    from sklearn.datasets import load_digits

    return str(load_digits().target[int("".join(filter(str.isdigit, item.source_name)))])


@pytest.fixture
def digits(alice: User) -> Project:
    """The demo with 40 random checks and 60 other digits answered, embedded, and a head fitted on them."""
    project = demo.create_demo_project(alice)
    assert project is not None
    run_job(Job.objects.get(project=project, kind=Job.Kind.EMBED).pk)
    classes = {label_class.name: label_class.pk for label_class in project.classes.all()}
    answered = [
        *Item.objects.filter(project=project, split=Split.AUDIT)[:40],
        *Item.objects.filter(project=project, split=Split.POOL)[:60],
    ]
    for item in answered:
        labeling.record_annotation(
            project=project,
            annotator=alice,
            item_id=item.pk,
            uuid=uuid.uuid4(),
            kind="label",
            raw_value=classes[digit_of(item)],
        )
    run_job(Job.objects.get(project=project, kind=Job.Kind.REFIT, state=Job.State.QUEUED).pk)
    return project


def promote(project: Project) -> nets.Network:
    """As a training job would have left it: a network beside the embedding, and a model of it before the newest."""
    embedding, newest = queries.current_embedding(project), queries.current_model(project)
    assert embedding is not None and newest is not None
    torch.manual_seed(0)
    px = embedding.result["image_px"]
    net = nets.build("quick", len(newest.class_ids), px, mean=torch.zeros(3), std=torch.ones(3)).eval()
    folder = snapshot.embedding_folder(embedding.result["folder"]) / "network"
    nets.save_network(net, folder, "quick", len(newest.class_ids), px)
    embedding.result = {**embedding.result, "encoder": "trained"}
    embedding.save()
    ModelVersion.objects.filter(pk=newest.pk).update(number=newest.number + 1, encoder="trained")
    ModelVersion.objects.create(
        project=project,
        job=embedding,
        number=newest.number,
        encoder="trained",
        algorithm="fixmatch",
        class_ids=newest.class_ids,
        label_watermark=0,
        label_count=55,
        answer_count=95,
        temperature=1.5,
        metrics={"audit": {"n": 40, "correct": 36, "accuracy": 0.9, "low": 0.77, "high": 0.96, "ece": 0.05}},
    )
    return net


@pytest.mark.django_db
def test_what_cannot_be_exported_is_refused_and_nothing_is_written(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "model.zip"
    for options, why in (
        ([], "there is no model yet"),
        (["--distil"], "there is no model yet"),
        (["--distil", "--minutes", "0"], "--minutes is 0"),
    ):
        with pytest.raises(CommandError, match=why):
            export(project, out, *options)
    with pytest.raises(CommandError, match="no project 'Birds'"):
        call_command("export_model", "Birds", str(out))
    for wrong in (tmp_path, tmp_path / "nowhere" / "model.zip"):
        with pytest.raises(CommandError, match="wanted the name of a file"):
            export(project, wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.django_db
def test_a_model_whose_images_are_gone_has_no_student(model: ModelVersion, tmp_path: Path) -> None:
    model.metrics["embedding"] = f"{model.project_id}/embedding-1-1"
    model.save()
    with pytest.raises(CommandError, match="embedded anew"):
        export(model.project, tmp_path / "model.zip", "--distil")


@pytest.mark.slow
@pytest.mark.django_db
def test_a_trained_network_leaves_as_it_was_promoted(digits: Project, tmp_path: Path) -> None:
    net = promote(digits)
    about = export(digits, tmp_path / "model.zip")
    assert about["audit"] == {
        "n": 40, "correct": 36, "level": 0.95, "accuracy": 0.9, "low": 0.77, "high": 0.96, "ece": 0.05,
    }  # fmt: skip
    assert (about["learnt_by"], about["labels"], about["temperature"]) == ("fixmatch", 55, 1.5)
    assert (about["project"], about["winnow"], about["distilled"]) == (digits.name, "0.1.0", None)
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"model/{name}" for name in packaging.FILES)
        archive.extractall(tmp_path)
    again = packaging.read(tmp_path / "model")
    assert again.classes == [str(digit) for digit in range(10)]
    seen = torch.rand(3, 3, again.image_px, again.image_px)
    with torch.no_grad():
        assert torch.equal(again.net(seen), net(seen))


@pytest.mark.slow
@pytest.mark.django_db
def test_a_project_with_a_head_takes_a_student_home(
    digits: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So many steps, however slow the machine.
    monkeypatch.setattr("ml_worker.take_home.distil", partial(distil, steps=100))
    about = export(digits, tmp_path / "digits.zip", "--distil", "--minutes", "30")
    newest = queries.current_model(digits)
    assert newest is not None
    assert about["distilled"]["teacher"] == f"{newest.algorithm} on {newest.encoder}"
    # The teacher is measured on the very checks that its own report speaks of.
    assert about["distilled"]["teacher_audit"]["correct"] == newest.metrics["audit"]["correct"]
    assert about["audit"]["n"] == 40
    assert about["distilled"]["agreement"] > 0.6
    with zipfile.ZipFile(tmp_path / "digits.zip") as archive:
        archive.extractall(tmp_path)
    items = list(Item.objects.filter(project=digits, split=Split.TEST)[:50])
    paths = [tmp_path / f"{item.pk}.png" for item in items]
    for item, path in zip(items, paths, strict=True):
        with default_storage.open(item.storage_key) as file:
            path.write_bytes(file.read())
    done = subprocess.run(
        [sys.executable, tmp_path / "digits" / "predict.py", *paths], capture_output=True, text=True, check=True
    )
    named = [line.split("\t")[1] for line in done.stdout.splitlines()]
    assert np.mean([name == digit_of(item) for name, item in zip(named, items, strict=True)]) > 0.5
