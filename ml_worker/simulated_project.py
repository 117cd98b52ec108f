"""What a back-test sits on: a pool of which the answers are known, and what accuracy is measured on.

Two kinds. Of a labelled source every class is known: a part is held out and tested on. Of a project's past answers
only those are known that somebody gave, and most of them were chosen: the images the model found hard, or typical, or
sure enough to be put up for review. Accuracy on those says little of the pool. Its random checks alone were drawn from
all of the pool; so each seed holds out half of those that were answered, at random, asks for the other half as a
project does, and measures on the half that nothing is learnt from, nothing calibrated on and nothing certified by.

An acquisition function orders the whole pool as it would have then, and the first of its order that somebody answered
are asked. Random order among the answered is not random order: they are harder than the pool, and teach less at first.
So the functions are compared with each other, all under the same restriction; and what happened, which could choose
from the whole pool, with the random checks as if they were all there is, which were drawn from it as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_worker import encoders
from ml_worker.images import Images
from ml_worker.labelled import DIGITS, BadSource, Source
from ml_worker.neighbours import nearest
from ml_worker.pool import Floats, Pool, Rows

# In the place of a class column: an image of no class, and one that nobody ever named.
STRANGER, UNKNOWN = -1, -2
DIGITS_TEST = 200  # as many as the demo project holds out
TEST_FRACTION = 0.2
_AUDIT_SHARE, _AUDIT_MIN = 0.05, 50
_POOL_MIN = 4
_MASKS = ("is_pool", "is_audit", "is_test")

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scene:
    """A pool of N rows and what an oracle knows of it, as one seed has it.

    targets: int64 (N,), the class column of each row, STRANGER or UNKNOWN. is_pool, is_audit, is_test: bool (N,), no
    two of them overlap; random checks and test rows are all known. Only known rows are ever asked; what is in none of
    the three (a check that nobody answered) is scored and otherwise left alone. order: int64, known rows of pool and
    audit in the order somebody answered them; None where nobody did. images: uint8 (N, px, px, 3), for networks.
    """

    pool: Pool
    targets: Rows
    n_classes: int
    is_pool: Mask
    is_audit: Mask
    is_test: Mask
    order: Rows | None = None
    images: Images | None = None

    @property
    def is_known(self) -> Mask:
        return self.targets != UNKNOWN

    @property
    def knows_all(self) -> bool:
        """Whether the truth of the whole pool is known, so that shares of it can be counted and not just sampled."""
        return bool(self.is_known[self.is_pool].all())

    @property
    def size(self) -> int:
        """Images to label, random checks with them."""
        return int(self.is_pool.sum() + self.is_audit.sum())

    def save(self, folder: Path) -> None:
        """Everything but the images, which all seeds share."""
        self.pool.save(folder)
        np.save(folder / "targets.npy", self.targets)
        for name in _MASKS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        if self.order is not None:
            np.save(folder / "order.npy", self.order)
        (folder / "scene.json").write_text(json.dumps({"n_classes": self.n_classes}))

    @classmethod
    def load(cls, folder: Path, images: Images | None = None) -> Scene:
        """The scene saved in a folder, its pool mapped and not read."""
        order = folder / "order.npy"
        return cls(
            Pool.load(folder),
            np.load(folder / "targets.npy"),
            json.loads((folder / "scene.json").read_text())["n_classes"],
            **{name: np.load(folder / f"{name}.npy") for name in _MASKS},
            order=np.load(order) if order.exists() else None,
            images=images,
        )


def audit_size(n_pool: int) -> int:
    """Items drawn as audit split: 5 % of the pool, at least 50, never more than half."""
    return min(max(_AUDIT_MIN, round(_AUDIT_SHARE * n_pool)), n_pool // 2)


# --- a labelled source


def combined(labelled: Source, held_out: Source | None) -> tuple[Images, Rows, Mask]:
    """Images, targets and which rows the second source brought. Raises BadSource for classes only that one has, and
    where there is too little to back-test."""
    if len(labelled.classes) < 2:
        found = f"the class {labelled.classes[0]!r}" if labelled.classes else "no class"
        raise BadSource(f"all images are in {found}; at least 2 classes are needed")
    if held_out is None:
        return labelled.images, labelled.targets, np.zeros(len(labelled.targets), bool)
    columns, known = _columns(held_out, labelled.classes), held_out.targets != STRANGER
    images = np.concatenate([labelled.images, held_out.images[known]])
    targets = np.concatenate([labelled.targets, columns])
    return images, targets, np.arange(len(targets)) >= len(labelled.targets)


def _columns(held_out: Source, classes: list[str]) -> Rows:
    unknown = sorted(set(held_out.classes) - set(classes))
    if unknown:
        raise BadSource(f"the test source has classes the pool does not: {', '.join(unknown)}")
    named = held_out.targets[held_out.targets != STRANGER]
    return np.asarray([classes.index(held_out.classes[target]) for target in named], np.int64)


def test_size(source: str, n: int, fraction: float | None) -> int:
    """How many images a source of n holds out."""
    if fraction is None and source == DIGITS:
        return DIGITS_TEST
    return max(1, round((fraction or TEST_FRACTION) * n))


def draw(
    images: Images,
    targets: Rows,
    is_held_out: Mask,
    *,
    n_classes: int,
    n_test: int,
    encoder: str,
    encoder_parameters: Mapping[str, Any],
    views: bool,
    seed: int,
) -> Scene:
    """What this seed makes of a labelled source: test split, embeddings, random checks. Raises BadSource.

    is_held_out: rows of a second source, all tested on; without any, n_test rows are drawn. Images of no class are
    never tested on: accuracy speaks of the classes, as it does in a project.
    """
    rng = np.random.default_rng(seed)
    is_test = is_held_out.copy()
    if not is_held_out.any():
        drawn = rng.permutation(len(targets))
        is_test[drawn[targets[drawn] != STRANGER][:n_test]] = True
    indexed = ~is_test
    n_pool = int(indexed.sum())
    if n_pool < _POOL_MIN:
        raise BadSource(f"{n_pool} images to label are too few for a back-test; at least {_POOL_MIN} are needed")
    # The encoder sees the pool only: what it learns must not come from the test split.
    fitted = encoders.load(encoder)(seed=seed, **encoder_parameters)
    fitted.fit(images[indexed])
    embeddings = fitted.embed(images)
    pool = Pool(embeddings, *nearest(embeddings, indexed), indexed, _views(fitted, images, indexed) if views else None)
    is_audit = np.zeros(len(targets), bool)
    is_audit[rng.choice(np.flatnonzero(indexed), audit_size(n_pool), replace=False)] = True
    return Scene(pool, targets, n_classes, indexed & ~is_audit, is_audit, is_test)


def _views(encoder: Any, images: Images, indexed: Mask) -> Floats | None:
    from ml_worker import augment, looks  # torch takes seconds to import, and most back-tests need none

    if len(images) > looks.ITEMS_AT_MOST:
        return None
    return looks.look(encoder.embed, images, augment.Policy.for_images(images[indexed][:256]))


# --- a project's past answers


def held_out(past: Scene, seed: int) -> Scene:
    """The past of a project as this seed has it: half of its answered random checks measure and are never asked.

    past: with all answered random checks as is_audit, and no test rows. Which half is drawn anew by each seed; a check
    of no class, or on which people disagree, tells of the gate (no prediction is right there) and not of accuracy.
    """
    checks = np.flatnonzero(past.is_audit)
    is_test = np.zeros(len(past.targets), bool)
    is_test[np.random.default_rng([seed, 2]).permutation(checks)[: (len(checks) + 1) // 2]] = True
    order = None if past.order is None else past.order[~is_test[past.order]]
    return Scene(
        past.pool, past.targets, past.n_classes, past.is_pool, past.is_audit & ~is_test, is_test, order, past.images
    )


def at_random(scene: Scene, audit_share: float, seed: int) -> Scene:
    """The past as if its random checks were all that people had been asked: images at random from the whole pool.

    Those that are not held out become images of the pool that a model may learn from, but for a share that goes on
    being random checks, as it does in a project. So this is what random order gives, for as many answers as there are,
    without the bias of the images that a function chose.
    """
    checks = np.random.default_rng([seed, 3]).permutation(np.flatnonzero(scene.is_audit))
    is_audit = np.zeros(len(scene.targets), bool)
    is_audit[checks[: round(audit_share * len(checks))]] = True
    is_pool = scene.is_pool | (scene.is_audit & ~is_audit)
    targets = np.where(scene.is_pool, UNKNOWN, scene.targets)
    return replace(scene, targets=targets, is_pool=is_pool, is_audit=is_audit, order=None)
