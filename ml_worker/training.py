"""The training job: a network learns from the answers and the pool, and takes over if it is better."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from django.conf import settings

from annotator import algorithms, jobs, queries
from annotator.errors import InvalidSettings, JobCancelled, WinnowError
from annotator.models import Annotation, Job, Project
from ml_worker import (
    checkpoints,
    choosing,
    distributed_training,
    fast_loop,
    loop,
    neighbours,
    nets,
    refitting,
    snapshot,
    trainers,
)
from ml_worker.batches import Examples, estimated_prior
from ml_worker.calibrate import softmax, temperature
from ml_worker.choosing import Choice, choose, is_better
from ml_worker.distributed_training import ProcessDied
from ml_worker.evaluate import accuracy_report
from ml_worker.fast_loop import Learned, NotEnoughLabels
from ml_worker.images import DecodedPool
from ml_worker.pool import Floats, Pool
from ml_worker.previews import augmentation
from ml_worker.quality import early
from ml_worker.sharding import network_scores
from ml_worker.snapshot import Embedded, Snapshot

# Of what the page draws while it trains: points, and seconds between two writes.
HISTORY_AT_MOST, HISTORY_S = 60, 2.0
# Shares of the progress bar.
TRAINED, SCORED = 0.9, 0.95


def run(run: jobs.Run) -> None:
    """Train, score the pool, compare on the audit sample with what the heads make of all answers, and promote.

    A promoted network becomes the project's encoder: its features are the new embedding, on which the fast loop goes
    on. A run that was killed resumes at its last checkpoint, with the trainer it had begun with.
    """
    project = run.job.project
    _sweep(project, but=run.job)
    embedding = queries.current_embedding(project)
    if embedding is None:
        raise InvalidSettings("the images are not embedded yet; train once they are")
    taken = snapshot.take(project, embedding.result["folder"])
    if lack := queries.lack_for_training(len(np.unique(taken.train.targets)), len(taken.audit.rows)):
        raise InvalidSettings(lack)
    decoded = _decoded(project, embedding)
    examples = _examples(project, taken, decoded)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe, choice = _recipe(run, taken, decoded.image_px, device)
    run.log(choice.why)
    run.remember(trainer=recipe.trainer, net=recipe.net, chosen=choice.why, seconds=recipe.seconds)
    policy = augmentation(project, examples.images)
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    folder = snapshot.embedding_folder(f"{project.pk}/training-{run.job.pk}")
    try:
        trained = distributed_training.train(
            examples,
            recipe,
            policy,
            folder=folder,
            report=_reporter(run),
            processes=settings.TRAINING_PROCESSES or max(1, torch.cuda.device_count()),
            options=shlex.split(settings.TORCHRUN_OPTIONS),
        )
        if trained.resumed:
            run.log(trained.resumed)
        run.log(f"stopped after {trained.step:,} steps: {trained.stopped}")
        run.remember(steps=trained.step, stopped=trained.stopped)
        _keep_beliefs(run, taken, examples, recipe, folder)
        pool, logits = _score(run, taken, decoded, trained.net, device, folder)
        fresh = snapshot.against(project, taken.embedded)  # people went on answering
        learned = _learned(logits, taken.class_ids, fresh)
        promoted, why, beside = _compare(project, fresh, learned)
        run.log(("promoted: " if promoted else "not promoted: ") + why)
        run.remember(promoted=promoted, why=why, audit=learned.audit, beside=beside)
        if promoted:
            _promote(run, taken, fresh, embedding, pool, learned, trained.net, recipe)
    except (JobCancelled, WinnowError, ProcessDied, loop.NotFinite) as error:
        shutil.rmtree(folder, ignore_errors=True)  # this job will not go on
        if isinstance(error, JobCancelled | WinnowError):
            raise
        raise WinnowError(str(error)) from error  # which people read without the name of a class
    shutil.rmtree(folder, ignore_errors=True)


def follow_up(project: Project) -> None:
    """Ask for what came in while the network trained, if that network encodes the project now: images to embed with
    it, or answers its model has not learnt from."""
    embedding, model = queries.current_embedding(project), queries.current_model(project)
    if embedding is None or embedding.kind != Job.Kind.TRAIN:
        return
    if embedding.result["n"] < project.items.count() or queries.lacks_views(project):
        jobs.enqueue(project, Job.Kind.EMBED)  # and then a refit
    elif model is None or model.label_watermark < snapshot.label_watermark(project):
        jobs.enqueue(project, Job.Kind.REFIT)


def _sweep(project: Project, but: Job) -> None:
    """Remove checkpoints of trainings that are over: of a failed one, or one cancelled while no worker lived."""
    for folder in snapshot.embedding_folder(str(project.pk)).glob("training-*"):
        number = folder.name.removeprefix("training-")
        alive = Job.objects.filter(pk=number, state__in=[Job.State.QUEUED, Job.State.RUNNING])
        if number != str(but.pk) and number.isdigit() and not alive.exists():
            shutil.rmtree(folder, ignore_errors=True)


def _decoded(project: Project, embedding: Job) -> DecodedPool:
    image_px = embedding.result["image_px"]
    return DecodedPool(snapshot.embedding_folder(f"{project.pk}/decoded-{image_px}"), image_px)


def _examples(project: Project, taken: Snapshot, decoded: DecodedPool) -> Examples:
    """The snapshot in the rows of the decoded pool."""
    places = decoded.rows(taken.embedded.item_ids)
    is_pool = taken.embedded.splits == snapshot.SPLIT_CODES[snapshot.Split.POOL]
    labeled = taken.train.rows
    return Examples(
        images=decoded.images(),
        labeled=places[labeled],
        targets=taken.train.targets,
        weights=np.ones(len(labeled), np.float32),
        label_versions=_versions(project, taken.embedded.item_ids[labeled]),
        unlabeled=places[np.flatnonzero(is_pool)],
        audit=places[taken.audit.rows],
        audit_targets=taken.audit.targets,
        n_classes=len(taken.class_ids),
        prior=_prior(taken),
    )


def _versions(project: Project, item_ids: np.ndarray) -> np.ndarray:
    """The newest answer of each item: another number when somebody answered anew."""
    current = Annotation.objects.filter(project=project, kind=Annotation.Kind.LABEL, superseded_by__isnull=True)
    newest: dict[int, int] = dict(current.order_by("id").values_list("item_id", "id"))
    return np.array([newest.get(int(item_id), 0) for item_id in item_ids], np.int64)


def _prior(taken: Snapshot) -> np.ndarray:
    """Class shares from the audit sample, which is random; chosen answers are not."""
    return estimated_prior(np.bincount(taken.audit.targets, minlength=len(taken.class_ids)))


def _recipe(run: jobs.Run, taken: Snapshot, image_px: int, device: str) -> tuple[loop.Recipe, Choice]:
    project, begun = run.job.project, run.job.result
    minutes = float(run.job.parameters.get("minutes") or project.settings.training_minutes)
    name = run.job.parameters.get("trainer") or project.settings.trainer
    choice = choose(
        n_labels=len(taken.train.rows),
        n_classes=len(taken.class_ids),
        image_px=image_px,
        device=device,
        minutes=minutes,
    )
    if "trainer" in begun:  # answers given since might have chosen another, which could not go on from the checkpoint
        choice = Choice(begun["trainer"], begun["net"], begun["chosen"])
    elif name != "auto":
        choice = Choice(name, choice.net, f"{algorithms.get('trainer', name).title}, as asked for.")
    recipe = choosing.recipe(
        choice,
        project.settings.parameters_of("trainer", choice.trainer),
        minutes=minutes,
        n_audit=len(taken.audit.rows),
        seed=run.job.seed,
        device=device,
    )
    return recipe, choice


def _reporter(run: jobs.Run) -> Callable[[loop.Progress], None]:
    """Tells how it goes, and keeps a thinned history in the job for whoever watches."""
    history: list[dict[str, float]] = list(run.job.result.get("history", []))
    written = -math.inf

    def report(progress: loop.Progress) -> None:
        nonlocal written
        if not progress.logs:  # several processes that only begin; an earlier attempt may have been further
            run.report(run.job.progress, "starting the processes", force=True)
            return
        # What was told after the checkpoint that an earlier attempt left behind is told again.
        history[:] = [entry for entry in history if entry["step"] < progress.step]
        history.append(_entry(progress))
        said = [f"step {progress.step:,}", f"{_left(progress.seconds_left)} left"]
        if "loss" in progress.logs:
            said.append(f"loss {progress.logs['loss']:.2f}")
        if "kept" in progress.logs:
            said.append(f"{progress.logs['kept']:.0%} of guesses kept")
        if progress.audit_accuracy is not None:
            said.append(f"{progress.audit_accuracy:.0%} of random checks right")
        if time.monotonic() - written >= HISTORY_S or progress.share >= 1.0:
            written = time.monotonic()
            run.remember(history=_thinned(history), seconds_left=round(progress.seconds_left))
        run.report(TRAINED * progress.share, ", ".join(said), force=True)

    return report


def _entry(progress: loop.Progress) -> dict[str, float]:
    """What the page draws of it: the logs the trainer has of these, and the accuracy of the last evaluation."""
    entry = {"step": progress.step, "seconds": round(progress.seconds, 1)}
    entry |= {name: round(progress.logs[name], 4) for name in ("loss", "kept") if name in progress.logs}
    if progress.audit_accuracy is not None:
        entry["audit_accuracy"] = round(progress.audit_accuracy, 4)
    return entry


def _left(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _keep_beliefs(run: jobs.Run, taken: Snapshot, examples: Examples, recipe: loop.Recipe, folder: Path) -> None:
    """What the network believed of each label while it learnt, for the study of labels that may be wrong; of trainers
    that remember it. The checkpoint has it, whichever process learnt; the file of an earlier training goes."""
    name = getattr(trainers.load(recipe.trainer), "believed", "")
    found = checkpoints.memory(folder / "checkpoint.pt", name) if name else None
    if found is None:
        return
    item_ids = taken.embedded.item_ids[taken.train.rows]
    kept = f"{run.job.project_id}/early-{run.job.pk}.npz"
    early.remembered(found[0].numpy(), item_ids, found[1].numpy(), examples.targets).save(
        snapshot.embedding_folder(kept)
    )
    for stale in snapshot.embedding_folder(str(run.job.project_id)).glob("early-*.npz"):
        if stale.name != Path(kept).name:
            stale.unlink(missing_ok=True)
    run.remember(early=kept)


def _score(
    run: jobs.Run, taken: Snapshot, decoded: DecodedPool, net: nets.Network, device: str, folder: Path
) -> tuple[Pool, Floats]:
    """The pool as the network sees it, in the rows of the snapshot, and its logits float32 (N, C)."""
    run.report(TRAINED, "scoring the pool", force=True)

    def scored(done: int, total: int) -> None:
        run.report(TRAINED + (SCORED - TRAINED) * done / total, f"scored {done:,} of {total:,} images")

    places = decoded.rows(taken.embedded.item_ids)
    features, logits = network_scores(run, net, decoded, places, device=device, work=folder, progress=scored)
    run.report(SCORED, "finding nearest neighbours", force=True)
    indexed = np.asarray(taken.embedded.pool.indexed)
    found, distances = neighbours.nearest(features, indexed, progress=lambda done, total: run.report(SCORED))
    run.report(SCORED, "comparing with the heads", force=True)
    return Pool(features, found, distances, indexed), logits


def _learned(logits: Floats, had: list[int], fresh: Snapshot) -> Learned:
    """What the network says, measured on the random checks of now and in a column for each class of now.

    An archived class is gone, and a new one, of which it has never heard, has probability 0. had: the classes of its
    own columns.
    """
    known = [column for column, class_id in enumerate(fresh.class_ids) if class_id in had]
    kept = np.full((len(logits), len(fresh.class_ids)), -np.inf, np.float32)
    kept[:, known] = logits[:, [had.index(fresh.class_ids[column]) for column in known]]
    audit = fresh.audit
    of_known = np.isin(audit.targets, known)
    degrees = temperature(kept[audit.rows[of_known]], audit.targets[of_known]) if known else None
    probs = softmax(kept, degrees) if known else np.zeros_like(kept)
    return Learned(probs, kept, degrees, accuracy_report(probs[audit.rows], audit.targets), {})


def _compare(project: Project, fresh: Snapshot, learned: Learned) -> tuple[bool, str, dict[str, Any]]:
    """Against the project's head and a plain one, fitted now on every answer there is: the better of both counts."""
    settings = dataclasses.replace(snapshot.loop_settings(project, seed=0), acquisition="random_sampling")
    plain = dataclasses.replace(
        settings,
        head="logistic_regression",
        head_parameters=algorithms.clean_parameters("head", "logistic_regression", {}),
    )
    pool, n_classes = fresh.embedded.pool, len(fresh.class_ids)
    try:
        beside = {
            each.head: fast_loop.learn(pool, fresh.train, fresh.audit, n_classes, each).audit
            for each in (settings, plain)
        }
    except NotEnoughLabels as error:
        raise InvalidSettings(f"while it trained, answers or classes went away: {error}") from error
    standing = max(beside.values(), key=lambda report: report["correct"] if report else -1)
    promoted, why = is_better(learned.audit, standing)
    return promoted, why, beside


def _promote(
    run: jobs.Run,
    taken: Snapshot,
    fresh: Snapshot,
    embedding: Job,
    pool: Pool,
    learned: Learned,
    net: nets.Network,
    recipe: loop.Recipe,
) -> None:
    """Its features become the embedding, its probabilities the model; queue and proposals follow at once.

    taken: what it learnt from; fresh: the answers and classes of now, which queue and proposals must fit.
    """
    project = run.job.project
    name = f"{project.pk}/embedding-{run.job.pk}-{run.job.attempt}"
    folder, image_px = snapshot.embedding_folder(name), embedding.result["image_px"]
    pool.save(folder)
    np.save(folder / "item_ids.npy", taken.embedded.item_ids)
    np.save(folder / "splits.npy", taken.embedded.splits)
    nets.save_network(net, folder / "network", recipe.net, len(taken.class_ids), image_px)
    run.remember(folder=name, n=len(pool), image_px=image_px, encoder="trained", class_ids=taken.class_ids)
    embedded = Embedded(pool, taken.embedded.item_ids, taken.embedded.splits)
    renewed = dataclasses.replace(fresh, embedded=embedded, train=taken.train, watermark=taken.watermark)
    model = refitting.store_model(run, renewed, learned, embedding=name, encoder="trained", algorithm=recipe.trainer)
    history = run.job.result.get("history")
    refitting.put_up(project, renewed, learned, model, {"train": history[-1]["seconds"]} if history else {})


def _thinned(history: list[dict[str, float]], most: int = HISTORY_AT_MOST) -> list[dict[str, float]]:
    """At most so many, evenly from the newest backwards, so that the newest is always there."""
    every = max(1, math.ceil(len(history) / most))
    return history[::-1][::every][::-1]
