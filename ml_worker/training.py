"""The training job: a network learns from the answers and the pool, and takes over if it is better."""

from __future__ import annotations

import dataclasses
import os
import shutil
from typing import Any

import numpy as np
import torch

from annotator import algorithms, jobs, queries
from annotator.errors import InvalidSettings
from annotator.models import Annotation, Job, Project
from ml_worker import fast_loop, loop, neighbours, nets, refitting, snapshot
from ml_worker.augment import Policy
from ml_worker.batches import Examples, estimated_prior
from ml_worker.calibrate import softmax, temperature
from ml_worker.choosing import Choice, choose, is_better
from ml_worker.evaluate import accuracy_report
from ml_worker.fast_loop import Learned
from ml_worker.images import DecodedPool
from ml_worker.pool import Pool
from ml_worker.predict import predict
from ml_worker.snapshot import Embedded, Snapshot

# With fewer answered random checks nobody can say whether the network is better than what there is.
CHECKS_AT_LEAST = 10
# Shares of the progress bar.
TRAINED, SCORED = 0.9, 0.95
STEPS_AT_MOST = 2**20


def run(run: jobs.Run) -> None:
    """Train, score the pool, compare on the audit sample with what the heads make of the same answers, and promote.

    A promoted network becomes the project's encoder: its features are the new embedding, on which the fast loop goes
    on. A run that was killed resumes at its last checkpoint.
    """
    project = run.job.project
    embedding = queries.current_embedding(project)
    if embedding is None:
        raise InvalidSettings("the images are not embedded yet; train once they are")
    taken = snapshot.take(project, embedding.result["folder"])
    if len(np.unique(taken.train.targets)) < 2:
        raise InvalidSettings("the answers cover fewer than two classes; answer some more images first")
    if len(taken.audit.rows) < CHECKS_AT_LEAST:
        raise InvalidSettings(
            f"{len(taken.audit.rows)} of {CHECKS_AT_LEAST} random checks are answered, too few to tell whether the"
            " network would be better; go on labelling"
        )
    decoded = _decoded(project, embedding)
    examples = _examples(project, taken, decoded)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe, choice = _recipe(run, taken, decoded.image_px, device)
    run.log(choice.why)
    policy = augmentation(project, examples.images)
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    folder = snapshot.embedding_folder(f"{project.pk}/training-{run.job.pk}")
    trained = loop.train(examples, recipe, policy, folder=folder, report=_reporter(run))
    if trained.resumed:
        run.log(trained.resumed)
    run.log(f"stopped after {trained.step:,} steps: {trained.stopped}")
    pool, learned = _score(run, taken, decoded, trained.net, device)
    promoted, why, beside = _compare(project, taken, learned)
    run.log(("promoted: " if promoted else "not promoted: ") + why)
    _remember(
        run,
        trainer=recipe.trainer,
        net=recipe.net,
        chosen=choice.why,
        promoted=promoted,
        why=why,
        steps=trained.step,
        audit=learned.audit,
        beside=beside,
        history=_thinned(trained.history),
    )
    if promoted:
        _promote(run, taken, embedding, pool, learned, trained.net, recipe)
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
    project = run.job.project
    minutes = float(run.job.parameters.get("minutes") or project.settings.training_minutes)
    name = run.job.parameters.get("trainer") or project.settings.trainer
    choice = choose(
        n_labels=len(taken.train.rows),
        n_classes=len(taken.class_ids),
        image_px=image_px,
        device=device,
        minutes=minutes,
    )
    if name != "auto":
        choice = Choice(name, choice.net, f"{algorithms.get('trainer', name).title}, as chosen in the settings.")
    recipe = loop.Recipe(
        trainer=choice.trainer,
        trainer_parameters=algorithms.clean_parameters("trainer", choice.trainer, {}),
        net=choice.net,
        steps=STEPS_AT_MOST,
        seconds=60.0 * minutes,
        batch=64 if device != "cpu" else 32,
        ratio=7 if device != "cpu" else 4,
        evaluate_every=2000 if device != "cpu" else 200,
        seed=run.job.seed,
        alignment="estimated",
        device=device,
    )
    return recipe, choice


def augmentation(project: Project, images: np.ndarray) -> Policy:
    """What may be done to images of this project: what suits them, less what its owner switched off."""
    some = np.sort(np.random.default_rng(0).permutation(len(images))[:256])
    suggested, chosen = Policy.for_images(np.array(images[some])), project.settings
    return dataclasses.replace(
        suggested,
        flip=suggested.flip and chosen.augment_mirror,
        rotate_deg=suggested.rotate_deg if chosen.augment_rotate else 0.0,
        shear=suggested.shear if chosen.augment_rotate else 0.0,
        colour=suggested.colour and chosen.augment_colour,
    )


def _reporter(run: jobs.Run) -> Any:
    history: list[dict[str, float]] = []

    def report(progress: loop.Progress) -> None:
        said = [f"step {progress.step:,}", f"{_left(progress.seconds_left)} left"]
        if "loss" in progress.logs:
            said.append(f"loss {progress.logs['loss']:.2f}")
        if "kept" in progress.logs:
            said.append(f"{progress.logs['kept']:.0%} of guesses kept")
        if progress.audit_accuracy is not None:
            said.append(f"{progress.audit_accuracy:.0%} of random checks right")
        history.append({"step": progress.step, "seconds": progress.seconds, **progress.logs})
        run.report(TRAINED * progress.share, ", ".join(said), force=True)

    return report


def _left(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _score(
    run: jobs.Run, taken: Snapshot, decoded: DecodedPool, net: nets.Network, device: str
) -> tuple[Pool, Learned]:
    """The pool as the network sees it, in the rows of the snapshot."""
    run.report(TRAINED, "scoring the pool", force=True)

    def scored(done: int, total: int) -> None:
        run.report(TRAINED + (SCORED - TRAINED) * done / total, f"scored {done:,} of {total:,} images")

    places = decoded.rows(taken.embedded.item_ids)
    said = predict(net, decoded.images(), places, device=device, batch=512, progress=scored)
    degrees = temperature(said.logits[taken.audit.rows], taken.audit.targets)
    probs = softmax(said.logits, degrees)
    report = accuracy_report(probs[taken.audit.rows], taken.audit.targets)
    run.report(SCORED, "finding nearest neighbours", force=True)
    indexed = np.asarray(taken.embedded.pool.indexed)
    found, distances = neighbours.nearest(said.features, indexed, progress=lambda done, total: run.report(SCORED))
    return Pool(said.features, found, distances, indexed), Learned(probs, said.logits, degrees, report, {})


def _compare(project: Project, taken: Snapshot, learned: Learned) -> tuple[bool, str, dict[str, Any]]:
    """Against the project's head and a plain one, fitted now on the same answers: the better of both counts."""
    settings = snapshot.loop_settings(project, seed=0)
    plain = dataclasses.replace(
        settings,
        head="logistic_regression",
        head_parameters=algorithms.clean_parameters("head", "logistic_regression", {}),
    )
    pool, n_classes = taken.embedded.pool, len(taken.class_ids)
    beside = {
        each.head: fast_loop.learn(pool, taken.train, taken.audit, n_classes, each).audit for each in (settings, plain)
    }
    standing = max(beside.values(), key=lambda report: report["correct"] if report else -1)
    promoted, why = is_better(learned.audit, standing)
    return promoted, why, beside


def _promote(
    run: jobs.Run,
    taken: Snapshot,
    embedding: Job,
    pool: Pool,
    learned: Learned,
    net: nets.Network,
    recipe: loop.Recipe,
) -> None:
    """Its features become the embedding, its probabilities the model; queue and proposals follow at once."""
    project = run.job.project
    name = f"{project.pk}/embedding-{run.job.pk}-{run.job.attempt}"
    folder = snapshot.embedding_folder(name)
    pool.save(folder)
    np.save(folder / "item_ids.npy", taken.embedded.item_ids)
    np.save(folder / "splits.npy", taken.embedded.splits)
    nets.save_network(net, folder / "network", recipe.net, len(taken.class_ids), embedding.result["image_px"])
    _remember(run, folder=name, n=len(pool), image_px=embedding.result["image_px"], encoder="trained")
    renewed = dataclasses.replace(taken, embedded=Embedded(pool, taken.embedded.item_ids, taken.embedded.splits))
    model = refitting.store_model(run, renewed, learned, embedding=name, encoder="trained", algorithm=recipe.trainer)
    refitting.put_up(project, renewed, learned, model, {})


def _remember(run: jobs.Run, **result: Any) -> None:
    run.job.result = {**run.job.result, **result}
    Job.objects.filter(pk=run.job.pk).update(result=run.job.result)


def _thinned(history: list[dict[str, float]], most: int = 60) -> list[dict[str, float]]:
    every = max(1, len(history) // most)
    return [{name: round(value, 4) for name, value in entry.items()} for entry in history[::-1][::every][::-1]]
