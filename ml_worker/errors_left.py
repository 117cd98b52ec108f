"""How many labels of a dataset are wrong still, by where they came from. Pure functions over counts.

An interval speaks of the labels there are, not of a rate: of n + rest labels of one kind n were checked, drawn by
chance, and k of those were wrong. How many of the rest are wrong is bounded by the exact interval of sampling without
replacement (hypergeometric; Clopper and Pearson 1934 is its limit for an endless rest).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ml_worker.gate import rest_bound

LEVEL = 0.95


@dataclass(frozen=True)
class Origin:
    """Labels of one kind. count: labels; checked: of such labels looked at again, wrong: of those.

    checked 0: nothing measures them. is_ceiling: those checked are worse than the rest, so that they bound it from
    above only (labels that were suspected, or proposals before a person looked).
    """

    name: str
    count: int
    checked: int = 0
    wrong: int = 0
    is_ceiling: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.wrong <= self.checked or self.count < 0:
            raise ValueError(f"{self.wrong} of {self.checked} wrong, {self.count} labels: not possible")

    @property
    def is_measured(self) -> bool:
        return self.checked > 0


@dataclass(frozen=True)
class Left:
    """Wrong labels: between low and high at the stated level, most likely so many; None where only a ceiling is
    known."""

    low: int
    expected: float | None
    high: int


def left(origin: Origin, level: float = LEVEL) -> Left | None:
    """How many of these labels are wrong; None where nothing measures them."""
    if not origin.is_measured:
        return None
    n, k, rest = origin.checked, origin.wrong, origin.count
    tail = (1 - level) / 2
    # The tail that a ceiling does not spend below it has above.
    above = 2 * tail if origin.is_ceiling else tail
    high = round(rest * (1 - rest_bound(n - k, n, rest, above)))
    if origin.is_ceiling:
        return Left(0, None, high)
    return Left(round(rest * rest_bound(k, n, rest, tail)) if rest else 0, rest * k / n, high)


def total(origins: Sequence[Origin], level: float = LEVEL) -> Left | None:
    """Of all that is measured: low ends and high ends are added up, which holds whatever ties them together.

    Each at 1 - (1 - level) / J of J origins, so that all hold together at the level (Bonferroni). expected: None where
    one of them has only a ceiling.
    """
    measured = [origin for origin in origins if origin.is_measured and origin.count]
    if not measured:
        return None
    each = [found for origin in measured if (found := left(origin, 1 - (1 - level) / len(measured)))]
    known = [found.expected for found in each if found.expected is not None]
    expected = sum(known) if len(known) == len(each) else None
    return Left(sum(found.low for found in each), expected, sum(found.high for found in each))
