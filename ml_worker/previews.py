"""What may be done to a project's images while a network trains, and a picture of it for the people who decide."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from typing import Any

import numpy as np
import torch
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from PIL import Image

from annotator import jobs, queries
from annotator.models import Job, Project
from ml_worker import snapshot
from ml_worker.augment import Policy, strong
from ml_worker.images import DecodedPool, Images
from ml_worker.pool import Rows
from ml_worker.snapshot import Snapshot

IMAGES, VIEWS = 6, 4
# Sides on the sheet, in pixels: of a picture, of the gap between two, of the one under the plain images.
TILE, GAP, GAP_BELOW_PLAIN = 96, 6, 18
ENLARGED_WITH_HARD_EDGES = 64


def augmentation(project: Project, images: Images) -> Policy:
    """What suits these images, uint8 (N, px, px, 3), less what the project's owner switched off."""
    some = np.sort(np.random.default_rng(0).permutation(len(images))[:256])
    suggested, chosen = Policy.for_images(np.array(images[some])), project.settings
    return dataclasses.replace(
        suggested,
        flip=suggested.flip and chosen.augment_mirror,
        rotate_deg=suggested.rotate_deg if chosen.augment_rotate else 0.0,
        shear=suggested.shear if chosen.augment_rotate else 0.0,
        tone=suggested.tone and chosen.augment_tone,
        colour=suggested.colour and chosen.augment_colour,
    )


def write(run: jobs.Run, taken: Snapshot, embedding: Job) -> None:
    """Draw the sheet anew and note in the job where it lies and what was switched on; the one before is removed.

    The same images in the same views as last time, unless the answers, the images or the policy changed.
    """
    project, image_px = run.job.project, embedding.result.get("image_px")
    decoded = DecodedPool(snapshot.embedding_folder(f"{project.pk}/decoded-{image_px}"), image_px) if image_px else ()
    shown = _shown(taken)
    if not isinstance(decoded, DecodedPool) or not len(decoded) or not len(shown):
        return
    images = decoded.images()
    policy = augmentation(project, images)
    png = sheet(np.array(images[decoded.rows(taken.embedded.item_ids[shown])]), policy)
    before = Job.objects.filter(project=project, result__has_key="preview").exclude(pk=run.job.pk).first()
    digest = hashlib.sha256(png).hexdigest()
    key = default_storage.save(f"previews/{project.pk}/{digest}.png", ContentFile(png))
    run.remember(preview={"key": key, "sha256": digest, "switches": queries.augmentation_switches(project)})
    if before is not None and before.result["preview"]["key"] != key:
        default_storage.delete(before.result["preview"]["key"])


def _shown(taken: Snapshot) -> Rows:
    """Rows of the pool to show: the first answered one of each class, then any others."""
    _, firsts = np.unique(taken.train.targets, return_index=True)
    is_pool = taken.embedded.splits == snapshot.SPLIT_CODES[snapshot.Split.POOL]
    others = np.random.default_rng(0).permutation(np.flatnonzero(is_pool))[: 2 * IMAGES]
    rows = list(dict.fromkeys([*taken.train.rows[firsts].tolist(), *others.tolist()]))
    return np.array(rows[:IMAGES], np.int64)


def sheet(images: Images, policy: Policy) -> bytes:
    """A PNG: one column for each image, uint8 (n, px, px, 3); the plain ones on top, strong views of each below."""
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).repeat(VIEWS, 1, 1, 1)
    views = strong(planes, policy, torch.Generator().manual_seed(0))
    levels = (views * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    rows = [images, *np.split(levels, VIEWS)]
    step = TILE + GAP
    width = len(images) * step - GAP
    drawn = Image.new("RGBA", (width, len(rows) * step - GAP + GAP_BELOW_PLAIN))
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            drawn.paste(_tile(picture), (across * step, down * step + (GAP_BELOW_PLAIN if down else 0)))
    file = io.BytesIO()
    drawn.save(file, "PNG")
    return file.getvalue()


def _tile(picture: np.ndarray[Any, Any]) -> Image.Image:
    how = Image.Resampling.NEAREST if len(picture) <= ENLARGED_WITH_HARD_EDGES else Image.Resampling.LANCZOS
    return Image.fromarray(picture).resize((TILE, TILE), how)
