"""How right a model is after so many labels, and what that costs: heads on two encoders, and trainers.

    python benchmarks/label_efficiency.py --images POOL.zip --test TEST.zip [--pool 5000] [--labels 40,100,250,1000]
        [--seeds 3] [--minutes 5] [--only pixels+logistic_regression,freematch] [--cache FOLDER] [--json OUT.json]

The zips hold class folders. The pool and 2,000 test images are drawn once; each seed draws its own labels at random
from the pool, the same for every method, and begins its own networks. Methods, to be named by --only:

    pixels+HEAD            principal components of the pixels, and a head
    self_supervised+HEAD   an encoder that learns --minutes on the pool without labels, and a head
    TRAINER                a network that learns --minutes from the labels and the pool, from nothing

No label but those counted is used: no random checks, so nothing is calibrated and nothing stops early, and classes are
taken to be as common as among the labels, which are a random sample. Accuracy on the test images in percent, with half
of a 95 % interval of the mean over the seeds (Student's t); a line of one seed has none. seconds and processor: of all
that a method computes from the images to predictions of pool and test images, its encoder included, one thread.
--clock processor, the default, counts the minutes of training on the processor: on a machine that does other things,
too, every method gets the same amount of computing. Every row is kept in --cache and not computed again, so that a
table can be made in many sittings, or its rows on many machines.
"""

import argparse
import hashlib
import json
import os
import statistics
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from scipy.stats import t as student

from annotator.algorithms import catalogue, clean_parameters
from ml_worker import encoders, fast_loop, loop
from ml_worker.augment import Policy
from ml_worker.batches import Examples, estimated_prior
from ml_worker.encoders import self_supervised
from ml_worker.images import decode, image_size, training_px
from ml_worker.neighbours import nearest
from ml_worker.pool import Pool
from ml_worker.predict import predict

N_TEST = 2000
HEADS = [head.name for head in catalogue("head")]
TRAINERS = ("supervised", "freematch", "softmatch")
METHODS = ["pixels+logistic_regression", *(f"self_supervised+{head}" for head in HEADS), *TRAINERS]


@dataclass(frozen=True, eq=False)
class Photographs:
    """images: uint8 (N, px, px, 3), those of the pool first. targets: int64 (N,). n_pool: how many are to be learnt
    from; identity: of the images and their order."""

    images: np.ndarray
    targets: np.ndarray
    n_pool: int
    n_classes: int
    identity: str


@dataclass(frozen=True)
class Work:
    """What a row is computed with; with the method, the labels and the seed it names a file of the cache."""

    minutes: float
    variant: str
    network: str
    batch: int
    ratio: int
    clock: str
    cache: Path


def photographs(pool: Path, test: Path, n_pool: int) -> Photographs:
    """A sample of each zip; images at the size a project would train on."""
    names, classes = _names(pool), sorted({Path(name).parent.name for name in _names(pool)})
    chosen = [(pool, name) for name in _drawn(names, n_pool)]
    chosen += [(test, name) for name in _drawn(_names(test), N_TEST)]
    archives = {path: zipfile.ZipFile(path) for path in {pool, test}}
    sizes = [image_size(archives[path].read(name)) for path, name in chosen[:50]]
    px = training_px([width for width, _ in sizes], [height for _, height in sizes])
    images = np.stack([decode(archives[path].read(name), px) for path, name in chosen])
    targets = np.array([classes.index(Path(name).parent.name) for _, name in chosen], np.int64)
    identity = hashlib.sha256(images.tobytes() + targets.tobytes()).hexdigest()[:12]
    return Photographs(images, targets, len(chosen) - min(N_TEST, len(_names(test))), len(classes), identity)


def _names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return sorted(name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png", ".webp")))


def _drawn(names: list[str], n: int) -> list[str]:
    return [names[row] for row in np.random.default_rng(0).permutation(len(names))[:n]]


def labelled(given: Photographs, n: int, seed: int) -> np.ndarray:
    """n rows of the pool by lot, ascending; more labels of a seed hold its fewer ones."""
    return np.sort(np.random.default_rng([seed, 2]).permutation(given.n_pool)[:n])


@contextmanager
def processor_minutes(clock: str) -> Iterator[None]:
    """Let the time limits of the training loop and the encoder count what the processor did."""
    if clock == "wall":
        yield
        return
    kept = loop.time, self_supervised.time
    loop.time = self_supervised.time = SimpleNamespace(monotonic=time.process_time)  # type: ignore[assignment]
    try:
        yield
    finally:
        loop.time, self_supervised.time = kept  # type: ignore[assignment]


# --- methods


def embedded(given: Photographs, encoder: str, seed: int, work: Work) -> tuple[Pool, dict[str, float]]:
    """The images through an encoder, from the cache if they are there, and the time that took."""
    name, taught = {"pixels": ("pca_pixels", {}), "self_supervised": ("self_supervised", _teaching(work))}[encoder]
    path = work.cache / f"{given.identity}-{name}-{_digest(taught)}-{seed}.npz"
    indexed = np.arange(len(given.images)) < given.n_pool
    if path.exists():
        kept = np.load(path)
        pool = Pool(kept["embeddings"], kept["neighbours"], kept["distances"], indexed)
        return pool, {"seconds": float(kept["seconds"]), "processor": float(kept["processor"])}
    with measured() as spent:
        chosen = {key: value for key, value in taught.items() if key != "clock"}
        taught_by = encoders.load(name)(seed=seed, **clean_parameters("encoder", name, chosen))
        with processor_minutes(work.clock):
            taught_by.fit(given.images[indexed])
        embeddings = taught_by.embed(given.images)
        neighbours, distances = nearest(embeddings, indexed)
    np.savez(path, embeddings=embeddings, neighbours=neighbours, distances=distances, **spent)
    return Pool(embeddings, neighbours, distances, indexed), spent


def _teaching(work: Work) -> dict[str, Any]:
    settings = {"variant": work.variant, "network": work.network, "minutes": work.minutes}
    return settings | {"epochs": 10_000, "flip": "yes", "clock": work.clock}


def with_head(given: Photographs, method: str, n: int, seed: int, work: Work) -> dict[str, float]:
    encoder, _, head = method.partition("+")
    pool, spent_before = embedded(given, encoder, seed, work)
    rows = labelled(given, n, seed)
    settings = fast_loop.LoopSettings(head, clean_parameters("head", head, {}), "margin", seed=seed)
    none = np.zeros(0, np.int64)
    with measured() as spent:
        said = fast_loop.learn(
            pool,
            fast_loop.Answers(rows, given.targets[rows]),
            fast_loop.Answers(none, none),
            given.n_classes,
            settings,
        )
    right = (said.probs.argmax(axis=1) == given.targets)[given.n_pool :]
    return {"accuracy": float(right.mean())} | {key: value + spent_before[key] for key, value in spent.items()}


def with_trainer(given: Photographs, method: str, n: int, seed: int, work: Work) -> dict[str, float]:
    rows, none = labelled(given, n, seed), np.zeros(0, np.int64)
    pool = given.images[: given.n_pool]
    examples = Examples(
        images=pool,
        labeled=rows,
        targets=given.targets[rows],
        weights=np.ones(n, np.float32),
        label_versions=np.zeros(n, np.int64),
        unlabeled=np.arange(given.n_pool),
        audit=none,
        audit_targets=none,
        n_classes=given.n_classes,
        prior=estimated_prior(np.bincount(given.targets[rows], minlength=given.n_classes)),
    )
    recipe = loop.Recipe(
        trainer=method,
        trainer_parameters=clean_parameters("trainer", method, {}),
        net="small",
        steps=2**20,
        seconds=60.0 * work.minutes,
        batch=work.batch,
        ratio=work.ratio,
        evaluate_every=2**20,
        seed=seed,
        alignment="estimated",
    )
    with measured() as spent:
        with processor_minutes(work.clock):
            policy = Policy.for_images(pool[:256])
            trained = loop.train(examples, recipe, policy, folder=None, report=lambda progress: None)
        said = predict(trained.net, given.images, np.arange(len(given.images)), device="cpu", batch=512)
    right = (said.probs.argmax(axis=1) == given.targets)[given.n_pool :]
    return {"accuracy": float(right.mean()), "steps": trained.step} | spent


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Seconds of the clock and of the processor, in the dictionary once it is over."""
    spent: dict[str, float] = {}
    wall, processor = time.perf_counter(), time.process_time()
    yield spent
    spent |= {"seconds": time.perf_counter() - wall, "processor": time.process_time() - processor}


# --- rows


def row(given: Photographs, method: str, n: int, seed: int, work: Work) -> dict[str, Any]:
    """One method, number of labels and seed, from the cache if it is there."""
    is_trainer = "+" not in method
    settings = {"minutes": work.minutes, "clock": work.clock, "batch": work.batch, "ratio": work.ratio}
    digest = _digest(settings if is_trainer else _teaching(work))
    path = work.cache / f"{given.identity}-{method.replace('+', '-')}-{digest}-{n}-{seed}.json"
    if not path.exists():
        found = (with_trainer if is_trainer else with_head)(given, method, n, seed, work)
        path.write_text(json.dumps(found))
    return {"method": method, "labels": n, "seed": seed, "minutes": work.minutes} | json.loads(path.read_text())


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def line(rows: list[dict[str, Any]]) -> str:
    """Mean and half of its interval over the seeds, and the mean time."""
    found = [100 * each["accuracy"] for each in rows]
    interval = "-"
    if len(found) > 1:
        interval = f"{student.ppf(0.975, len(found) - 1) * statistics.stdev(found) / len(found) ** 0.5:.1f}"
    spent = [statistics.fmean(each[key] for each in rows) for key in ("seconds", "processor")]
    steps = f"{statistics.fmean(each['steps'] for each in rows):,.0f}" if "steps" in rows[0] else "-"
    return (
        f"{rows[0]['method']:36}{rows[0]['labels']:>7}{statistics.fmean(found):>10.1f}{interval:>7}{len(rows):>7}"
        f"{spent[0]:>10.1f}{spent[1]:>11.1f}{steps:>8}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--pool", type=int, default=5000)
    parser.add_argument("--labels", default="40,100,250,1000")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5.0, help="for each encoder and each network")
    parser.add_argument("--only", default=",".join(METHODS), help="methods, comma between")
    parser.add_argument("--variant", default="contrastive", help="of the self-supervised encoder")
    parser.add_argument("--network", default="quick", help="of the self-supervised encoder")
    parser.add_argument("--batch", type=int, default=32, help="labelled images in a step of a trainer")
    parser.add_argument("--ratio", type=int, default=4, help="unlabelled ones for each of them")
    parser.add_argument("--clock", choices=("processor", "wall"), default="processor")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "winnow-label-efficiency")
    parser.add_argument("--json", type=Path, help="write every row here")
    asked = parser.parse_args()
    methods = asked.only.split(",")
    for method in methods:
        encoder, plus, head = method.partition("+")
        known = encoder in ("pixels", "self_supervised") and head in HEADS if plus else method in _trainers()
        if not known:
            parser.error(f"--only: {method!r} is not a method; there are: {', '.join(METHODS)}, and every trainer")
    torch.set_num_threads(1)
    asked.cache.mkdir(parents=True, exist_ok=True)
    given = photographs(asked.images, asked.test, asked.pool)
    work = Work(asked.minutes, asked.variant, asked.network, asked.batch, asked.ratio, asked.clock, asked.cache)
    print(
        f"pool {given.n_pool:,}, test {len(given.images) - given.n_pool:,}, {given.n_classes} classes, "
        f"{given.images.shape[1]} px; {asked.minutes:g} minutes ({asked.clock}) for each encoder and each network\n"
    )
    print(
        f"{'method':36}{'labels':>7}{'accuracy':>10}{'+-':>7}{'seeds':>7}{'seconds':>10}{'processor':>11}{'steps':>8}"
    )
    rows: list[dict[str, Any]] = []
    for method in methods:
        for n in map(int, asked.labels.split(",")):
            found = [row(given, method, n, seed, work) for seed in range(asked.seeds)]
            rows += found
            print(line(found), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


def _trainers() -> set[str]:
    return {trainer.name for trainer in catalogue("trainer")}


if __name__ == "__main__":
    main()
