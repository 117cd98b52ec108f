"""How many labels would it have taken? The product's loop on a labelled source; an oracle answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_worker import encoders, gate
from ml_worker.calibrate import softmax
from ml_worker.evaluate import wilson
from ml_worker.fast_loop import Answers, Learned, LoopSettings, NotEnoughLabels, learn, order
from ml_worker.labelled import DIGITS, BadSource, Source, load_source
from ml_worker.neighbours import nearest
from ml_worker.pool import Pool, Rows

_DIGITS_TEST = 200  # as many as the demo project holds out
_TEST_FRACTION = 0.2
_AUDIT_SHARE, _AUDIT_MIN = 0.05, 50
_POOL_MIN = 4

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to run. Names and parameters as the catalogue cleans them; acquisition: one or more names.

    test_fraction: None holds out a fifth, and of the digits as many as the demo project does.
    """

    encoder: str
    encoder_parameters: Mapping[str, Any]
    head: str
    head_parameters: Mapping[str, Any]
    acquisition: Sequence[str]
    trainer: str = "none"
    budget: int = 100
    batch: int = 10
    seeds: int = 3
    test_fraction: float | None = None
    target_precision: float = 0.99

    def __post_init__(self) -> None:
        if min(self.budget, self.batch, self.seeds) < 1:
            raise BadSource("budget, batch and seeds must each be at least 1")
        shares = [self.target_precision] if self.test_fraction is None else [self.target_precision, self.test_fraction]
        if not all(0 < share < 1 for share in shares):
            raise BadSource("test fraction and target precision must lie between 0 and 1")


def run(
    source: str, *, test: str | None = None, progress: Progress = lambda line: None, **plan: Any
) -> dict[str, Any]:
    """Back-test a source; `plan` holds the fields of Plan. Returns what `simulate --json` writes.

    source: `digits`, or a folder or zip of class folders. test: a second such source to test on; without it a
    part of the source is held out, drawn anew by each seed. progress: called with a line for each file that is
    skipped and each point of a curve. Raises BadSource.
    """
    wanted = Plan(**plan)
    labelled = load_source(source)
    held_out = load_source(test, len(labelled.images[0])) if test else None
    for name, why in labelled.skipped + (held_out.skipped if held_out else []):
        progress(f"skipped {name}: {why}")
    runs: list[dict[str, Any]] = []
    sizes = (0, 0)
    for seed in range(wanted.seeds):
        project = _draw_project(source, labelled, held_out, wanted, seed)
        sizes = int(project.pool.indexed.sum()), int((~project.pool.indexed).sum())
        for name in wanted.acquisition:
            curve = []
            for step in _steps(project, name, wanted, seed):
                curve.append(step)
                progress(_line(name, seed, step))
            runs.append(
                {
                    "acquisition": name,
                    "head": wanted.head,
                    "trainer": wanted.trainer,
                    "encoder": wanted.encoder,
                    "seed": seed,
                    "curve": curve,
                }
            )
    return {
        "source": source,
        "n_pool": sizes[0],
        "n_test": sizes[1],
        "classes": labelled.classes,
        "runs": runs,
    }


def _line(name: str, seed: int, step: Mapping[str, Any]) -> str:
    accuracy = step["test_accuracy"]
    shown = "no model yet" if accuracy is None else f"test accuracy {accuracy:.3f}"
    return f"{name}, seed {seed}: {step['labels']} answers, {shown}, {step['seconds']:.2f} s"


# --- the simulated project


@dataclass(frozen=True, eq=False)
class _Project:
    """A pool with its truth. Test rows are those that are not indexed; audit: bool (N,)."""

    pool: Pool
    targets: Rows
    n_classes: int
    audit: NDArray[np.bool_]


def _draw_project(source: str, labelled: Source, held_out: Source | None, plan: Plan, seed: int) -> _Project:
    rng = np.random.default_rng(seed)
    n = len(labelled.targets)
    images, targets = labelled.images, labelled.targets
    if held_out is not None:
        images = np.concatenate([images, held_out.images])
        targets = np.concatenate([targets, _columns(held_out, labelled.classes)])
        test = np.arange(n, len(targets))
    else:
        test = rng.permutation(n)[: _test_size(source, n, plan)]
    indexed = np.ones(len(targets), bool)
    indexed[test] = False
    n_pool = int(indexed.sum())
    if len(labelled.classes) < 2:
        raise BadSource(f"all images are in the class {labelled.classes[0]!r}; at least 2 classes are needed")
    if n_pool < _POOL_MIN:
        raise BadSource(f"{n_pool} images to label are too few for a back-test; at least {_POOL_MIN} are needed")
    # The encoder sees the pool only: what it learns must not come from the test split.
    encoder = encoders.load(plan.encoder)(seed=seed, **plan.encoder_parameters)
    encoder.fit(images[indexed])
    embeddings = encoder.embed(images)
    pool = Pool(embeddings, *nearest(embeddings, indexed), indexed)
    audit = np.zeros(len(targets), bool)
    audit[rng.choice(np.flatnonzero(indexed), audit_size(n_pool), replace=False)] = True
    return _Project(pool, targets, len(labelled.classes), audit)


def _test_size(source: str, n: int, plan: Plan) -> int:
    if plan.test_fraction is None and source == DIGITS:
        return _DIGITS_TEST
    return max(1, round((plan.test_fraction or _TEST_FRACTION) * n))


def audit_size(n_pool: int) -> int:
    """Items drawn as audit split: 5 % of the pool, at least 50, never more than half."""
    return min(max(_AUDIT_MIN, round(_AUDIT_SHARE * n_pool)), n_pool // 2)


def _columns(held_out: Source, classes: list[str]) -> Rows:
    unknown = sorted(set(held_out.classes) - set(classes))
    if unknown:
        raise BadSource(f"the test source has classes the pool does not: {', '.join(unknown)}")
    return np.asarray([classes.index(held_out.classes[t]) for t in held_out.targets], np.int64)


def _steps(project: _Project, acquisition: str, plan: Plan, seed: int) -> Iterator[dict[str, Any]]:
    """The points of one learning curve: a batch of answers from the head of the queue, a refit, a look."""
    settings = LoopSettings(plan.head, plan.head_parameters, acquisition, seed=seed)
    rng = np.random.default_rng([seed, 1])
    answered = np.zeros(len(project.targets), bool)
    open_rows = project.pool.indexed & ~answered
    learned: Learned | None = None
    while answered.sum() < plan.budget and open_rows.any():
        started = time.perf_counter()
        train_rows = np.flatnonzero(answered & ~project.audit)
        queue = order(
            project.pool,
            learned,
            np.flatnonzero(open_rows & ~project.audit),
            np.flatnonzero(open_rows & project.audit),
            train_rows,
            settings,
            rng,
        )
        batch = min(plan.batch, plan.budget - int(answered.sum()))
        answered[[entry.row for entry in queue[:batch]]] = True
        train = _answers(project, answered & ~project.audit)
        audit = _answers(project, answered & project.audit)
        try:
            learned = learn(project.pool, train, audit, project.n_classes, settings)
        except NotEnoughLabels:
            learned = None
        open_rows = project.pool.indexed & ~answered
        seconds = time.perf_counter() - started
        yield _point(project, learned, train, audit, open_rows, plan.target_precision) | {"seconds": seconds}


def _answers(project: _Project, chosen: NDArray[np.bool_]) -> Answers:
    rows = np.flatnonzero(chosen)
    return Answers(rows, project.targets[rows])


def _point(
    project: _Project,
    learned: Learned | None,
    train: Answers,
    audit: Answers,
    open_rows: NDArray[np.bool_],
    target_precision: float,
) -> dict[str, Any]:
    """One point of a curve. `labels` counts every answer given, audit answers too; accuracies are None
    while there is no model."""
    point: dict[str, Any] = {
        "labels": len(train.rows) + len(audit.rows),
        "test_accuracy": None,
        "test_accuracy_low": None,
        "test_accuracy_high": None,
        "pseudo_label_accuracy": None,
        "auto_accepted": 0.0,
        "auto_accepted_precision": None,
    }
    if learned is None:
        return point
    right = learned.probs.argmax(axis=1) == project.targets
    test = ~project.pool.indexed
    low, high = wilson(int(right[test].sum()), int(test.sum()))
    point |= {
        "test_accuracy": float(right[test].mean()),
        "test_accuracy_low": low,
        "test_accuracy_high": high,
    }
    if open_rows.any():
        point["pseudo_label_accuracy"] = float(right[open_rows].mean())
    # Before any temperature: that was fitted on the very answers the certificate rests on.
    confidence = softmax(learned.logits).max(axis=1)
    eligible = open_rows & ~project.audit
    certificate = gate.certify(confidence[eligible], confidence[audit.rows], right[audit.rows], target_precision)
    if certificate:
        accepted = eligible & (confidence >= certificate.threshold)
        point["auto_accepted"] = float(accepted.sum() / project.pool.indexed.sum())
        point["auto_accepted_precision"] = float(right[accepted].mean())
    return point
