"""Accuracy of encoders that need no download, from few labels: five nearest neighbours and a linear probe.

    python benchmarks/encoders.py --images train.zip --test test.zip --seconds 240

The zips hold a folder of images for each class. Encoders are fitted on --pool images drawn from --images, without
their answers; of those, 40, 100 and 250, as many of each class as of any other, are labelled; accuracy is measured on
--pool images drawn from --test (without --test, on what else --images holds). Mean of ten draws of the labels and, in
brackets, the standard error of that mean; the encoder itself is taught once. One thread. The seconds beside each are
what fitting took. pca_pixels is the plain baseline of the same run.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from annotator.algorithms import clean_parameters
from ml_worker import encoders

LABELS = (40, 100, 250)
DRAWS = 10
CANDIDATES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("pca_pixels", {}),
    ("self_supervised", {"variant": "contrastive"}),
    ("self_supervised", {"variant": "vicreg"}),
)


def images_of(path: Path, n: int, *, skip: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """n images uint8 (n, px, px, 3) drawn from a zip of class folders, after `skip` others, and targets int64 (n,)."""
    with zipfile.ZipFile(path) as file:
        names = sorted(name for name in file.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png")))
        classes = sorted({Path(name).parent.name for name in names})
        drawn = np.random.default_rng(0).permutation(len(names))[skip : skip + n]
        chosen = [names[row] for row in drawn]
        images = [np.asarray(Image.open(io.BytesIO(file.read(name))).convert("RGB")) for name in chosen]
    return np.stack(images), np.array([classes.index(Path(name).parent.name) for name in chosen], np.int64)


def labelled(targets: np.ndarray, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    classes = np.unique(targets)
    of_each = [rng.permutation(np.flatnonzero(targets == one))[: n // len(classes)] for one in classes]
    return np.concatenate(of_each)


def accuracies(pool: np.ndarray, targets: np.ndarray, test: np.ndarray, wanted: np.ndarray, n: int) -> np.ndarray:
    """(2, DRAWS): nearest neighbours, then the linear probe."""
    scale = np.sqrt(np.square(pool).sum(axis=1).mean())
    found = np.zeros((2, DRAWS))
    for draw in range(DRAWS):
        rows = labelled(targets, n, draw)
        for row, model in enumerate((KNeighborsClassifier(5), LogisticRegression(C=10.0, max_iter=500))):
            found[row, draw] = model.fit(pool[rows] / scale, targets[rows]).score(test / scale, wanted)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a zip of class folders")
    parser.add_argument("--test", type=Path, help="another zip of the same classes")
    parser.add_argument("--seconds", type=float, default=240.0, help="for each encoder that is taught")
    parser.add_argument("--pool", type=int, default=2000, help="images to fit on, and to test on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pool, targets = images_of(options.images, options.pool)
    test, wanted = images_of(options.test or options.images, options.pool, skip=0 if options.test else options.pool)
    print(f"{len(pool)} images to fit on, {len(test)} to test on; 5-NN / linear probe, %")
    print(f"{'':30s}{'fit s':>7s}" + "".join(f"{n:>19d} labels" for n in LABELS))
    for name, given in CANDIDATES:
        if name == "self_supervised":
            given = given | {"minutes": options.seconds / 60, "epochs": 10_000, "flip": "yes"}
        encoder = encoders.load(name)(seed=0, **clean_parameters("encoder", name, given))
        began = time.perf_counter()
        encoder.fit(pool)
        seconds = time.perf_counter() - began
        embedded, embedded_test = encoder.embed(pool), encoder.embed(test)
        cells = []
        for n in LABELS:
            found = 100 * accuracies(embedded, targets, embedded_test, wanted, n)
            errors = found.std(axis=1, ddof=1) / np.sqrt(DRAWS)
            means = zip(found.mean(axis=1), errors, strict=True)
            cells.append(" / ".join(f"{mean:.1f} ({error:.1f})" for mean, error in means))
        title = " ".join([name, given.get("variant", "")])
        print(f"{title:30s}{seconds:7.0f}" + "".join(f"{cell:>26s}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
