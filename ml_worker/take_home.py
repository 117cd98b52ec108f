"""A project's model as a folder that runs without Winnow, for `manage.py export_model`; the export job zips it."""

import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from annotator import jobs, queries
from annotator.actions import packaging as packages
from annotator.actions.exporting import safe_stem
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
# Share of the progress bar when the network is there and only its files are missing.
LEARNT = 0.95


def run(run: jobs.Run) -> None:
    """The job: package the model there is when it begins, and note what is in the package.

    Put together in a folder of this attempt and moved to its place whole. A run that was killed begins anew, with the
    model of then.
    """
    job, asked = run.job, run.job.parameters
    student, seconds = bool(asked.get("distil")), 60.0 * float(asked.get("minutes", packages.MINUTES))
    work = packages.work_folder(job)
    packages.prune(job.project, but=job)

    def tell(share: float, said: str) -> None:
        run.report(LEARNT * share, f"a small network learns: {said}, {_left(seconds * (1 - share))} left")

    try:
        run.report(0.0, "loading the model", force=True)
        about = write(job.project, work / "files", student=student, seconds=seconds, tell=tell)
        run.report(LEARNT, "zipping", force=True)
        name = f"{safe_stem(job.project)}-model-{about['model_version']}"
        packages.zip_folder(work / "files", work / "package.zip", name)
        size = (work / "package.zip").stat().st_size
        run.report(1.0, f"packaged model {about['model_version']}", force=True)  # the last chance to cancel
        (work / "package.zip").replace(packages.package_path(job))
        run.remember(
            model=about["model_version"],
            distilled=student,
            agreement=(about["distilled"] or {}).get("agreement"),
            audit=about["audit"],
            bytes=size,
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    packages.prune(job.project, but=job)


def write(project: Project, folder: Path, *, student: bool, seconds: float, tell: Tell) -> dict[str, Any]:
    """The files of `packaging` in a folder; returns what model.json says.

    student: a small network learns for so many seconds what the newest model says of the pool, whatever kind of model
    that is. Otherwise the trained network goes as it was promoted: heads fitted on its features since then are not in
    it. The model is the one there is now, whatever takes its place meanwhile. Raises InvalidExport where there is no
    model, or without a trained network when none is to be distilled.
    """
    if lack := packages.lack_for_package(project, distil=student):
        raise InvalidExport(lack)
    try:
        model, facts = _student(project, seconds, tell) if student else _promoted(project)
    except FileNotFoundError as error:  # replaced, and its files removed, between the question and the answer
        raise InvalidExport("the model was replaced while it was loaded; ask again") from error
    winnow = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())["project"]["version"]
    return packaging.write(model, folder, {**facts, "project": project.name, "winnow": winnow})


def _left(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _promoted(project: Project) -> tuple[Model, dict[str, Any]]:
    """The trained network, with what was measured when it took over."""
    while True:
        embedding, version = queries.current_embedding(project), queries.network_in_use(project)
        if embedding is None or version is None:
            raise InvalidExport("the trained network was replaced while it was loaded; ask again")
        net, image_px = nets.load_network(snapshot.embedding_folder(embedding.result["folder"]) / "network")
        # Another network may have taken over between two of these questions: weights and facts must be of one.
        if (queries.current_embedding(project), queries.network_in_use(project)) == (embedding, version):
            break
    model = Model(net, image_px, _class_names(version), version.temperature)
    return model, _facts(version, version.metrics.get("audit")) | {"distilled": None}


def _student(project: Project, seconds: float, tell: Tell) -> tuple[Model, dict[str, Any]]:
    """A network that learnt from the newest model, measured and calibrated on the random checks itself."""
    version = queries.current_model(project)
    assert version is not None  # there was one a moment ago, and they are kept for good
    embedded, decoded = _pool(project, version)
    images, places, image_px = decoded.images(), decoded.rows(embedded.item_ids), decoded.image_px
    said = np.load(snapshot.embedding_folder(version.artifact_folder) / "probs.npy").astype(np.float32)
    pool = np.flatnonzero(embedded.splits == snapshot.SPLIT_CODES[snapshot.Split.POOL])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = augmentation(project, images)
    learnt = distil(
        said[pool], images, places[pool], policy, seconds=seconds, seed=version.number, device=device, progress=tell
    )
    rows, targets = _checks(project, version, embedded)
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
    if not len(decoded):
        raise InvalidExport(f"the images of model {version.number} were embedded anew since; wait for the next model")
    return snapshot.load_embedded(version.metrics["embedding"]), decoded


def _checks(project: Project, version: ModelVersion, embedded: Embedded) -> tuple[Rows, Rows]:
    """Rows and columns of the answered random checks whose classes this model knows.

    embedded: as it was opened before the minutes of learning; its files may be gone by now.
    """
    taken = snapshot.against(project, embedded)
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
