"""How many labels would it have taken? The product's loop on a labelled source; an oracle answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_worker import encoders, gate
from ml_worker.calibrate import softmax
from ml_worker.evaluate import wilson
from ml_worker.fast_loop import Answers, Learned, LoopSettings, NotEnoughLabels, learn, order
from ml_worker.images import Images
from ml_worker.labelled import DIGITS, BadSource, Source, load_source
from ml_worker.neighbours import nearest
from ml_worker.pool import Floats, Pool, Rows

_DIGITS_TEST = 200  # as many as the demo project holds out
_TEST_FRACTION = 0.2
_AUDIT_SHARE, _AUDIT_MIN = 0.05, 50
_POOL_MIN = 4
SCREENFUL = 60  # proposals, as many as the review page shows at a time

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to run. Names and parameters as the catalogue cleans them; acquisition: one or more names. views: the head
    goes by views of the images.

    trainer: "none", or what trains a network for so many minutes, each time the answers have come to one of train_at,
    or, where that names none, at the end of the budget; "auto" chooses anew each time. trainer_parameters: by trainer,
    of each that may be used. review: so many screenfuls of proposals are decided once the
    budget is spent; propose_above, proposals_at_most: which proposals there are, as in a project's settings.
    test_fraction: None holds out a fifth, and of the digits as many as the demo project does.
    """

    encoder: str
    encoder_parameters: Mapping[str, Any]
    head: str
    head_parameters: Mapping[str, Any]
    acquisition: Sequence[str]
    views: bool = False
    trainer: str = "none"
    trainer_parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    minutes: float = 1.0
    train_at: Sequence[int] = ()
    budget: int = 100
    batch: int = 10
    seeds: int = 3
    review: int = 0
    propose_above: float = 0.9
    proposals_at_most: int = 2000
    test_fraction: float | None = None
    target_precision: float = 0.99

    def __post_init__(self) -> None:
        if min(self.budget, self.batch, self.seeds) < 1:
            raise BadSource("budget, batch and seeds must each be at least 1")
        if self.review < 0:
            raise BadSource(f"{self.review} screenfuls cannot be reviewed; wanted 0 or more")
        if not 0 < self.minutes < float("inf"):
            raise BadSource(f"a network cannot train for {self.minutes} minutes; wanted more than 0")
        most = self.budget + SCREENFUL * self.review
        if not all(1 <= answers <= most for answers in self.train_at):
            raise BadSource(f"train at {list(self.train_at)}: wanted numbers of answers from 1 to {most}")
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

    A run's `trainer` names what made the points of its curve: "none", the encoder and head of the fast loop, after
    each batch of answers. A plan with a trainer gives a second run beside each of these, named after the trainer,
    whose curve has a point for each network, trained on the same answers. The queue goes on being led by the fast
    loop, so that both runs speak of the same answers; in a project a network that is better takes the lead.
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
            curves: dict[str, list[dict[str, Any]]] = {"none": [], wanted.trainer: []}
            for trainer, point in _points(project, name, wanted, seed):
                curves[trainer].append(point)
                progress(_line(name, trainer, seed, point))
            runs += [
                {
                    "acquisition": name,
                    "head": wanted.head,
                    "trainer": trainer,
                    "encoder": wanted.encoder,
                    "seed": seed,
                    "curve": curve,
                }
                for trainer, curve in curves.items()
            ]
    return {
        "source": source,
        "n_pool": sizes[0],
        "n_test": sizes[1],
        "classes": labelled.classes,
        "runs": runs,
    }


def _line(name: str, trainer: str, seed: int, point: Mapping[str, Any]) -> str:
    accuracy = point["test_accuracy"]
    shown = "no model yet" if accuracy is None else f"test accuracy {accuracy:.3f}"
    who = name if trainer == "none" else f"{name}, {trainer}"
    return f"{who}, seed {seed}: {point['labels']} answers, {shown}, {point['seconds']:.2f} s"


# --- the simulated project


@dataclass(frozen=True, eq=False)
class _Project:
    """A pool with its truth. Test rows are those that are not indexed; images: uint8 (N, px, px, 3); audit: bool
    (N,)."""

    pool: Pool
    images: Images
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
    views = _views(encoder, images, indexed) if plan.views else None
    pool = Pool(embeddings, *nearest(embeddings, indexed), indexed, views)
    audit = np.zeros(len(targets), bool)
    audit[rng.choice(np.flatnonzero(indexed), audit_size(n_pool), replace=False)] = True
    return _Project(pool, images, targets, len(labelled.classes), audit)


def _views(encoder: Any, images: Images, indexed: NDArray[np.bool_]) -> Floats | None:
    from ml_worker import augment, looks  # torch takes seconds to import, and most back-tests need none

    if len(images) > looks.ITEMS_AT_MOST:
        return None
    return looks.look(encoder.embed, images, augment.Policy.for_images(images[indexed][:256]))


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


# --- the simulated person


def _points(project: _Project, acquisition: str, plan: Plan, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The points of one sitting in the order they come, each with the trainer that made it ("none": the fast loop)."""
    sitting = _Sitting(project, acquisition, plan, seed)
    due = {min(answers, len(sitting.pool_rows)) for answers in plan.train_at or [plan.budget]}
    for seconds in sitting.turns():
        yield "none", sitting.point(sitting.learned) | {"seconds": seconds}
        reached = {answers for answers in due if answers <= sitting.answered.sum()}
        if plan.trainer != "none" and reached:
            due -= reached
            started = time.perf_counter()
            network = sitting.train()
            yield plan.trainer, sitting.point(network) | {"seconds": time.perf_counter() - started}


class _Sitting:
    """Somebody answers what the queue asks, then decides what is proposed. answered: bool (N,)."""

    def __init__(self, project: _Project, acquisition: str, plan: Plan, seed: int) -> None:
        self.project, self.plan, self.seed = project, plan, seed
        self.settings = LoopSettings(
            plan.head, plan.head_parameters, acquisition, seed=seed, n_classes=project.n_classes
        )
        self.pool_rows = np.flatnonzero(project.pool.indexed)
        self.answered = np.zeros(len(project.targets), bool)
        self.learned: Learned | None = None
        self._rng = np.random.default_rng([seed, 1])
        self._reviewed_class = 0

    @property
    def open(self) -> NDArray[np.bool_]:
        return self.project.pool.indexed & ~self.answered

    @property
    def train_answers(self) -> Answers:
        return self._answers(self.answered & ~self.project.audit)

    @property
    def audit_answers(self) -> Answers:
        return self._answers(self.answered & self.project.audit)

    def _answers(self, chosen: NDArray[np.bool_]) -> Answers:
        rows = np.flatnonzero(chosen)
        return Answers(rows, self.project.targets[rows])

    def turns(self) -> Iterator[float]:
        """Batches of answers until the budget is spent, then screenfuls of the review; seconds each took, with the
        refit after it."""
        while self.answered.sum() < self.plan.budget and self.open.any():
            yield self._turn(self._asked)
        for _ in range(self.plan.review):
            if not len(self._proposed()):
                return
            yield self._turn(self._proposed)

    def _turn(self, choose: Callable[[], Rows]) -> float:
        started = time.perf_counter()
        self.answered[choose()] = True
        try:
            self.learned = learn(
                self.project.pool, self.train_answers, self.audit_answers, self.project.n_classes, self.settings
            )
        except NotEnoughLabels:
            self.learned = None
        return time.perf_counter() - started

    def _asked(self) -> Rows:
        """The head of the queue, a batch of it."""
        queue = order(
            self.project.pool,
            self.learned,
            np.flatnonzero(self.open & ~self.project.audit),
            np.flatnonzero(self.open & self.project.audit),
            self.train_answers.rows,
            self.settings,
            self._rng,
            self.train_answers,
        )
        batch = min(self.plan.batch, self.plan.budget - int(self.answered.sum()))
        return np.asarray([entry.row for entry in queue[:batch]], np.int64)

    def _proposed(self) -> Rows:
        """A screenful of the review page: proposals of one class, the most doubtful first; random checks are never
        proposed. The page stays with a class until nothing of it waits, then shows the first that has something."""
        if self.learned is None:
            return np.zeros(0, np.int64)
        rows = np.flatnonzero(self.open & ~self.project.audit)
        probs = self.learned.probs[rows]
        classes, confidence = probs.argmax(axis=1), probs.max(axis=1)
        surest = np.argsort(-confidence, kind="stable")
        waiting = surest[confidence[surest] >= self.plan.propose_above][: self.plan.proposals_at_most]
        if len(waiting) and self._reviewed_class not in classes[waiting]:
            self._reviewed_class = int(classes[waiting].min())
        shown = waiting[classes[waiting] == self._reviewed_class]
        return rows[shown[np.lexsort((shown, confidence[shown]))][:SCREENFUL]]

    def train(self) -> Learned | None:
        """A network that learnt from the answers so far, and what it says of every row; None while one class or none
        is labelled."""
        from ml_worker import simulated_training  # torch takes seconds to import, and most back-tests need none

        train = self.train_answers
        if len(np.unique(train.targets)) < 2:
            return None
        return simulated_training.train(
            self.project.images,
            self.pool_rows,
            train,
            self.audit_answers,
            drawn_for_audit=np.flatnonzero(self.project.audit),
            n_classes=self.project.n_classes,
            trainer=self.plan.trainer,
            trainer_parameters=self.plan.trainer_parameters,
            minutes=self.plan.minutes,
            seed=self.seed,
        )

    def point(self, learned: Learned | None) -> dict[str, Any]:
        """Where this model stands at these answers."""
        return _point(
            self.project, learned, self.train_answers, self.audit_answers, self.open, self.plan.target_precision
        )


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
