"""A network trained on the oracle's answers, the way a project's training job does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ml_worker import choosing, loop
from ml_worker.augment import Policy
from ml_worker.batches import Examples, estimated_prior
from ml_worker.calibrate import softmax, temperature
from ml_worker.choosing import choose
from ml_worker.evaluate import accuracy_report
from ml_worker.fast_loop import Answers, Learned
from ml_worker.images import Images
from ml_worker.pool import Rows
from ml_worker.predict import predict

_POLICY_SAMPLE = 256


def train(
    images: Images,
    pool_rows: Rows,
    train: Answers,
    audit: Answers,
    *,
    drawn_for_audit: Rows,
    n_classes: int,
    trainer: str,
    trainer_parameters: Mapping[str, Mapping[str, Any]],
    minutes: float,
    seed: int,
) -> Learned:
    """What a network trained for so many minutes says of every image, test images included.

    images: uint8 (N, px, px, 3). pool_rows: int64 (M,), ascending; the network sees no other image, and of the pool
    none of drawn_for_audit, answered or not. audit: measures, calibrates, estimates how common each class is, and
    decides nothing else. trainer: a name of the catalogue, or "auto": what a project would choose at this number of
    answers. trainer_parameters: by trainer.
    """
    pool = np.array(images[pool_rows])
    examples = Examples(
        images=pool,
        labeled=np.searchsorted(pool_rows, train.rows),
        targets=train.targets,
        weights=np.ones(len(train.rows), np.float32),
        label_versions=np.zeros(len(train.rows), np.int64),
        unlabeled=np.searchsorted(pool_rows, np.setdiff1d(pool_rows, drawn_for_audit)),
        audit=np.searchsorted(pool_rows, audit.rows),
        audit_targets=audit.targets,
        n_classes=n_classes,
        prior=estimated_prior(np.bincount(audit.targets, minlength=n_classes)),
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    choice = choose(
        n_labels=len(train.rows), n_classes=n_classes, image_px=images.shape[1], device=device, minutes=minutes
    )
    if trainer != "auto":
        choice = dataclasses.replace(choice, trainer=trainer)
    parameters = trainer_parameters[choice.trainer]
    recipe = choosing.recipe(choice, parameters, minutes=minutes, n_audit=len(audit.rows), seed=seed, device=device)
    some = np.sort(np.random.default_rng(0).permutation(len(pool))[:_POLICY_SAMPLE])
    policy = Policy.for_images(pool[some])
    trained = loop.train(examples, recipe, policy, folder=None, report=lambda progress: None)
    said = predict(trained.net, images, np.arange(len(images)), device=device, batch=512)
    degrees = temperature(said.logits[audit.rows], audit.targets)
    probs = softmax(said.logits, degrees)
    report = accuracy_report(probs[audit.rows], audit.targets) if len(audit.rows) else None
    return Learned(probs, said.logits, degrees, report, {})
