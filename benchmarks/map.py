"""How long a map of a pool takes, what its points weigh, and how well it keeps neighbours beside scikit-learn's t-SNE.

    OMP_NUM_THREADS=1 PYTHONPATH=. .venv/bin/python benchmarks/map.py [--images 100000] [--numbers 64]

Clustered random points for the sizes, the bundled digits for the comparison. Times are of the processor, which has one
core with OMP_NUM_THREADS=1.
"""

import argparse
import gzip
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE, trustworthiness

from ml_worker import projection


def silent(done: int, total: int) -> None:
    """Nobody watches."""


def drawn(points: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Places (N, 2), and the seconds of laying out the sample and of placing the others."""
    began = time.process_time()
    sample = projection.sample_of(len(points), 0)
    some = np.asarray(points[sample], np.float32)
    places = projection.lay_out(some, projection.beginning(some, 0), silent)
    laid = time.process_time()
    if len(sample) < len(points):
        places = projection.place(points, sample, places, silent)
    return places, laid - began, time.process_time() - laid


def clustered(n: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, d)).astype(np.float32) * 4
    return centres[rng.integers(0, 40, n)] + rng.normal(size=(n, d)).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--numbers", type=int, default=64)
    wanted = parser.parse_args()
    digits = load_digits().data.astype(np.float32)
    places, seconds, _ = drawn(digits)
    print(f"1,797 digits: {seconds:.1f} s, trustworthiness {trustworthiness(digits, places, n_neighbors=15):.3f}")
    began = time.process_time()
    reference = TSNE(random_state=0, init="pca").fit_transform(digits)
    seconds = time.process_time() - began
    print(f"  scikit-learn: {seconds:.1f} s, trustworthiness {trustworthiness(digits, reference, n_neighbors=15):.3f}")
    points = clustered(wanted.images, wanted.numbers)
    places, laid, placed = drawn(points)
    print(f"{wanted.images:,} x {wanted.numbers}: sample {laid:.1f} s, the others {placed:.1f} s")
    some = np.random.default_rng(1).choice(len(points), 2000, replace=False)
    print(f"  trustworthiness on 2,000 of them {trustworthiness(points[some], places[some], n_neighbors=15):.3f}")
    sheet = np.round(projection.on_the_sheet(places) * 65535).astype("<u2")
    rest = np.random.default_rng(2).integers(0, 10, (3, len(points)), np.uint8)
    packed = np.ones(len(points), "<u4").tobytes() + sheet.T.tobytes() + rest.tobytes()
    small = len(gzip.compress(packed, 6))
    print(f"  its points: {len(packed) / 1e6:.2f} MB, as sent {small / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
