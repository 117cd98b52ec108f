"""When the cold start is over: what the clusters know is held against what the model knows, on the random checks.

The cold start asks about typical images of dense regions; after it an acquisition function asks, by the doubt of the
model as a rule. That doubt is worth asking about once the model knows more than the regions alone do. Pure functions
over arrays; what was decided is handed back in, so that the order does not go back and forth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import comb
from typing import Any

import numpy as np

from ml_worker.clustering import Floats, unit_rows
from ml_worker.pool import Rows

BEATS = 0.95  # how sure it must be that the model beats the clusters
ABLE = 0.9  # or how sure that it is more often right than wrong, where it is not behind the clusters
SEEKING = 0.25  # share of the questions that look for classes without an answer, once the cold start is over


@dataclass(frozen=True)
class Phase:
    """Who leads the queue, and why.

    why: before the hand-over `first_answers` (too few answers for any other order), `clusters` (they are right more
    often on the random checks) or `unproven`; after it `beats`, `able` or `enough` (the cold start has had its most).
    since: answers, random checks among them, there were at the hand-over; None before. checks, model_right,
    clusters_right: random checks answered, and how many of them each is right on, now or at the hand-over.
    unmet: classes no answer names; unmet_since: answers there were when they were first missed after the hand-over.
    is_seeking: whether a share of the questions looks for them.
    """

    why: str = "first_answers"
    since: int | None = None
    checks: int = 0
    model_right: int = 0
    clusters_right: int = 0
    unmet: int = 0
    unmet_since: int | None = None
    is_seeking: bool = False

    @property
    def is_overview(self) -> bool:
        return self.since is None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> Phase | None:
        """What `to_json` gave; None for None. What other versions stored beside it is left out."""
        if stored is None:
            return None
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})


def answers_at_least(n_classes: int) -> int:
    """Training answers below which the cold start always leads: a first model's doubt is about everything."""
    return max(20, 2 * n_classes)


def answers_at_most(n_classes: int) -> int:
    """Training answers at which the cold start ends whatever the checks say, so that it does end where there are few
    checks or none, and where a model never gets the better of the clusters."""
    return max(100, 20 * n_classes)


def decide(
    previous: Phase | None,
    *,
    answers: int,
    met: int,
    n_classes: int,
    model_right: Rows | None,
    clusters_right: Rows,
) -> Phase:
    """The phase that follows `previous` (None: the first).

    answers: training answers; met: classes they name. model_right, clusters_right: bool (A,), of the random checks
    answered; None where there is no model yet. The hand-over comes when the model is right on no fewer checks than the
    clusters, and either surely (95 %) beats them, counting the checks only one of both is right on, or is surely
    (90 %) more often right than wrong; never before `answers_at_least`, always at `answers_at_most`. It is never taken
    back; but classes that no answer names, as when one is added, bring back a share of the cold start's questions for
    as many answers as a cold start takes at least.

    Sure: the posterior probability of more than a half under a uniform prior, so three checks can suffice and none
    decides nothing. Tried on digits and photographs, `benchmarks/handover.py`: the mere count of right
    checks hands over by luck at the first look where the two are equal; what is sure to beat the clusters but no more
    comes too late where both are nearly always right.
    """
    if previous is not None and not previous.is_overview:
        return _seeking(previous, answers, n_classes - met, n_classes)
    counted = Phase(checks=len(clusters_right), clusters_right=int(clusters_right.sum()), unmet=n_classes - met)
    if model_right is None:
        return counted
    counted = replace(counted, model_right=int(model_right.sum()))
    if answers < answers_at_least(n_classes):
        return counted
    why = _verdict(np.asarray(model_right, bool), np.asarray(clusters_right, bool))
    if why in ("clusters", "unproven"):
        if answers < answers_at_most(n_classes):
            return replace(counted, why=why)
        why = "enough"
    handed = replace(counted, why=why, since=answers + len(clusters_right), unmet=0)
    return _seeking(handed, answers, n_classes - met, n_classes)


def _verdict(model_right: Rows, clusters_right: Rows) -> str:
    if model_right.sum() < clusters_right.sum():
        return "clusters"
    if surely_more(int((model_right & ~clusters_right).sum()), int((clusters_right & ~model_right).sum())) >= BEATS:
        return "beats"
    right = int(model_right.sum())
    return "able" if surely_more(right, len(model_right) - right) >= ABLE else "unproven"


def surely_more(wins: int, losses: int) -> float:
    """The probability that one wins more often than not, after so many wins and losses; 0.5 after none.

    Of a rate with a uniform prior, Beta(wins + 1, losses + 1): as much of it lies above a half as a fair coin thrown
    once more often shows at most `wins` heads.
    """
    throws = wins + losses + 1
    return sum(comb(throws, heads) for heads in range(wins + 1)) / 2**throws


def _seeking(handed: Phase, answers: int, unmet: int, n_classes: int) -> Phase:
    since = handed.unmet_since
    if unmet > handed.unmet or since is None:
        since = answers
    is_seeking = unmet > 0 and answers < since + answers_at_least(n_classes)
    return replace(handed, unmet=unmet, unmet_since=since if unmet else None, is_seeking=is_seeking)


def by_clusters(embeddings: Floats, rows: Rows, targets: Rows, asked: Rows, n_classes: int) -> Rows:
    """The class whose answered images each asked one resembles most, int64 (A,), without any model.

    Each class lies where the mean of its answered images' directions is; a class without an answer is nobody's. Of
    four such baselines (k-means clusters named by their answers, three to a class or one, the nearest answer, this)
    none was right more often on photographs, where it beat label spreading, too.
    embeddings: float32 (N, D); rows, targets: answered, at least one; asked: rows (A,). Reads no other rows.
    """
    known = unit_rows(np.asarray(embeddings[rows], np.float32))
    sums = np.zeros((n_classes, known.shape[1]), np.float32)
    np.add.at(sums, targets, known)
    likeness = unit_rows(np.asarray(embeddings[asked], np.float32)) @ unit_rows(sums).T
    likeness[:, np.bincount(targets, minlength=n_classes) == 0] = -np.inf
    return np.asarray(likeness.argmax(axis=1), np.int64)
