"""What repaired labels are worth: two models on the same random checks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm

from ml_worker.quality.label_errors import Bools


@dataclass(frozen=True)
class Change:
    """Accuracy of two models on n items both were asked about. difference: after minus before, with its 95 % interval
    from low to high. p: of McNemar's exact test that nothing changed."""

    n: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    p: float


def change(before: Bools, after: Bools) -> Change:
    """From what each model got right, bool (n,), n > 0, in the same order.

    The interval is that of Agresti and Min 2005 for matched pairs: half an item is added to each of the four counts.
    So no change in a hundred is no certainty that there is none, which a bootstrap would claim.
    """
    n = len(before)
    gained, lost = int(np.sum(after & ~before)), int(np.sum(before & ~after))
    up, down, total = gained + 0.5, lost + 0.5, n + 2.0
    centre = (up - down) / total
    half = float(norm.ppf(0.975)) * float(np.sqrt(up + down - (up - down) ** 2 / total)) / total
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    difference = (gained - lost) / n
    return Change(
        n=n,
        before=float(before.mean()),
        after=float(after.mean()),
        difference=difference,
        low=max(-1.0, centre - half),
        high=min(1.0, centre + half),
        p=p,
    )
