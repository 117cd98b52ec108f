"""A project's model as a folder that runs without Winnow: what `manage.py export_model` asks for."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from annotator import algorithms, queries
from annotator.errors import InvalidExport
from annotator.models import Job, LabelClass, ModelVersion, Project
from annotator.settings import BASE_DIR
from ml_worker import nets, packaging, snapshot
from ml_worker.calibrate import softmax, temperature
from ml_worker.distil import Distilled, distil
from ml_worker.evaluate import accuracy_report
from ml_worker.images import DecodedPool
from ml_worker.packaging import Model
from ml_worker.pool import Floats, Rows
from ml_worker.predict import predict
from ml_worker.snapshot import Embedded
from ml_worker.training import augmentation

Tell = Callable[[float, str], None]


def write(project: Project, folder: Path, *, student: bool, seconds: float, tell: Tell) -> dict[str, Any]:
    """The files of `packaging` in a folder; returns what model.json says.

    student: a small network learns for so many seconds what the newest model says of the pool, whatever kind of model
    that is. Otherwise the trained network goes as it was promoted: heads fitted on its features since then are not in
    it. Raises InvalidExport where there is no model, or without a trained network when none is to be distilled.
    """
    model, facts = _student(project, seconds, tell) if student else _promoted(project)
    winnow = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())["project"]["version"]
    return packaging.write(model, folder, {**facts, "project": project.name, "winnow": winnow})


def _promoted(project: Project) -> tuple[Model, dict[str, Any]]:
    """The trained network, with what was measured when it took over."""
    trainers = [trainer.name for trainer in algorithms.catalogue("trainer")]
    embedding = queries.current_embedding(project)
    versions = ModelVersion.objects.filter(project=project, encoder="trained", algorithm__in=trainers)
    version = versions.order_by("-number").first()
    if embedding is None or embedding.result["encoder"] != "trained" or version is None:
        raise InvalidExport(
            "no trained network is in use here, and a head only runs on its encoder; --distil teaches a network what"
            " the model says"
        )
    net, image_px = nets.load_network(snapshot.embedding_folder(embedding.result["folder"]) / "network")
    model = Model(net, image_px, _class_names(version), version.temperature)
    return model, _facts(version, version.metrics.get("audit")) | {"distilled": None}


def _student(project: Project, seconds: float, tell: Tell) -> tuple[Model, dict[str, Any]]:
    """A network that learnt from the newest model, measured and calibrated on the random checks itself."""
    version = queries.current_model(project)
    if version is None:
        raise InvalidExport("there is no model yet; answer images of two classes first")
    embedded, decoded = _pool(project, version)
    images, places, image_px = decoded.images(), decoded.rows(embedded.item_ids), decoded.image_px
    said = np.load(snapshot.embedding_folder(version.artifact_folder) / "probs.npy").astype(np.float32)
    pool = np.flatnonzero(embedded.splits == snapshot.SPLIT_CODES[snapshot.Split.POOL])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = augmentation(project, images)
    learnt = distil(
        said[pool], images, places[pool], policy, seconds=seconds, seed=version.number, device=device, progress=tell
    )
    rows, targets = _checks(project, version)
    logits = predict(learnt.net, images, places[rows], device=device, batch=512).logits
    degrees = temperature(logits, targets)
    audit = accuracy_report(softmax(logits, degrees), targets) if len(rows) else None
    model = Model(learnt.net, image_px, _class_names(version), degrees)
    return model, _facts(version, audit) | {"distilled": _taught_by(version, learnt, said[rows], targets)}


def _pool(project: Project, version: ModelVersion) -> tuple[Embedded, DecodedPool]:
    """What this model speaks of: its embedding, and the decoded images."""
    embedding = Job.objects.filter(project=project, result__folder=version.metrics["embedding"]).first()
    image_px = embedding.result["image_px"] if embedding else 0
    decoded = DecodedPool(snapshot.embedding_folder(f"{project.pk}/decoded-{image_px}"), image_px or 1)
    # A new embedding takes the old one and other sizes of images away; the refit that follows it makes a new model.
    if not len(decoded) or not snapshot.embedding_folder(version.metrics["embedding"]).exists():
        raise InvalidExport(f"the images of model {version.number} were embedded anew since; wait for the next model")
    return snapshot.load_embedded(version.metrics["embedding"]), decoded


def _checks(project: Project, version: ModelVersion) -> tuple[Rows, Rows]:
    """Rows and columns of the answered random checks whose classes this model knows."""
    taken = snapshot.take(project, version.metrics["embedding"])
    columns = {class_id: column for column, class_id in enumerate(version.class_ids)}
    known = np.array([columns.get(class_id, -1) for class_id in taken.class_ids], np.int64)
    targets = known[taken.audit.targets]
    return taken.audit.rows[targets >= 0], targets[targets >= 0]


def _class_names(version: ModelVersion) -> list[str]:
    """In the order of its columns; archived classes are still its classes."""
    names = dict(LabelClass.objects.filter(pk__in=version.class_ids).values_list("pk", "name"))
    return [names[class_id] for class_id in version.class_ids]


def _facts(version: ModelVersion, audit: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "model_version": version.number,
        "learnt_by": version.algorithm,
        "encoder": version.encoder,
        "labels": version.label_count,
        "audit": _accuracy(audit),
    }


def _accuracy(report: dict[str, Any] | None) -> dict[str, Any] | None:
    """Accuracy on the random checks with its 95 % interval; None where none were answered."""
    if not report or not report["n"]:
        return None
    rounded = {name: round(report[name], 4) for name in ("accuracy", "low", "high", "ece")}
    return {"n": report["n"], "correct": report["correct"], "level": 0.95, **rounded}


def _taught_by(version: ModelVersion, learnt: Distilled, teacher: Floats, targets: Rows) -> dict[str, Any]:
    """How well the student follows its teacher, and what the teacher makes of the same random checks."""
    return {
        "teacher": f"{version.algorithm} on {version.encoder}",
        "teacher_audit": _accuracy(accuracy_report(teacher, targets)),
        "agreement": None if learnt.agreement is None else round(learnt.agreement, 4),
        "held_out": learnt.held_out,
        "steps": learnt.steps,
    }
