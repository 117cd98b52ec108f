"""What a back-test compares, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ml_worker.fast_loop import LoopSettings
from ml_worker.labelled import BadSource
from ml_worker.simulated_gate import Terms

SCREENFUL = 60  # proposals, as many as the review page shows at a time
# In the place of an acquisition function, of a project's past answers: the order in which they were given, and its
# random checks, which are images of the whole pool at random.
AS_IT_HAPPENED, RANDOM_CHECKS = "as_it_happened", "random_checks"


@dataclass(frozen=True)
class Plan:
    """What to run. Names and parameters as the catalogue cleans them; acquisition, head, target_precision, confidence:
    one or more of each, all combined. head_parameters: by head. views: a head goes by views of the images.

    trainer: "none", and what trains a network for so many minutes, each time the answers have come to one of train_at,
    or, where that names none, at the end of the budget; "auto" chooses anew each time. trainer_parameters: by trainer,
    of each that may be used. review: so many screenfuls of proposals are decided once the
    budget is spent; propose_above, proposals_at_most, cold_start, audit_share, queue_length: as in a project's
    settings. test_fraction: None holds out a fifth, and of the digits as many as the demo project does. seeds: how
    many there are, from 0 on; every combination is run with each. target_precision, confidence, threshold_per_class:
    the gates, which are judged by the same answers.
    """

    encoder: str
    encoder_parameters: Mapping[str, Any]
    head: Sequence[str]
    head_parameters: Mapping[str, Mapping[str, Any]]
    acquisition: Sequence[str]
    views: bool = False
    trainer: Sequence[str] = ("none",)
    trainer_parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    minutes: float = 1.0
    train_at: Sequence[int] = ()
    budget: int = 100
    batch: int = 10
    seeds: int = 3
    review: int = 0
    propose_above: float = 0.9
    proposals_at_most: int = 2000
    cold_start: str = LoopSettings.cold_start
    audit_share: float = LoopSettings.audit_share
    queue_length: int = LoopSettings.queue_length
    test_fraction: float | None = None
    target_precision: Sequence[float] = (0.99,)
    confidence: Sequence[float] = (0.95,)
    threshold_per_class: bool = False

    def __post_init__(self) -> None:
        if min(self.budget, self.batch, self.seeds) < 1:
            raise BadSource("budget, batch and seeds must each be at least 1")
        if not self.acquisition or not self.head or not self.target_precision or not self.confidence:
            raise BadSource("wanted at least one acquisition function, head, target precision and confidence")
        if self.review < 0:
            raise BadSource(f"{self.review} screenfuls cannot be reviewed; wanted 0 or more")
        if not 0 < self.minutes < float("inf"):
            raise BadSource(f"a network cannot train for {self.minutes} minutes; wanted more than 0")
        most = self.budget + SCREENFUL * self.review
        if not all(1 <= answers <= most for answers in self.train_at):
            raise BadSource(f"train at {list(self.train_at)}: wanted numbers of answers from 1 to {most}")
        shares = [*self.target_precision, *self.confidence]
        if self.test_fraction is not None:
            shares.append(self.test_fraction)
        if not all(0 < share < 1 for share in shares):
            raise BadSource("test fraction, target precision and confidence must lie between 0 and 1")

    @property
    def terms(self) -> list[Terms]:
        """The gates; the first is the one that the points of a curve speak of."""
        return [
            Terms(target, confidence, self.threshold_per_class)
            for target in self.target_precision
            for confidence in self.confidence
        ]

    @property
    def trainers(self) -> list[str]:
        """Those that train a network."""
        return [name for name in self.trainer if name != "none"]

    def units(self) -> Iterator[Unit]:
        """Every sitting, seed by seed: what is compared meets the same pool, test images and first batch."""
        for seed in range(self.seeds):
            for acquisition in self.acquisition:
                for head in self.head:
                    yield Unit(seed, acquisition, head)


@dataclass(frozen=True)
class Unit:
    """One sitting: what one process does without the others."""

    seed: int
    acquisition: str
    head: str

    @property
    def key(self) -> str:
        """A name for its file."""
        return f"{self.seed}-{self.acquisition}-{self.head}"
