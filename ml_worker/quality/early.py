"""What a network believed of the labels it learnt from, in a file that outlives the training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml_worker.pool import Floats, Rows
from ml_worker.quality import label_errors


@dataclass(frozen=True, eq=False)
class Early:
    """One entry for each label of M: item_ids int64 (M,), versions int64 (M,), another number when the answer changed,
    doubt float32 (M,) in 0..1 as `label_errors.doubt`, of what the network believed in place of probabilities."""

    item_ids: Rows
    versions: Rows
    doubt: Floats

    def of(self, item_ids: Rows, versions: Rows) -> Floats:
        """The doubt about these labels, float32 (L,), NaN about any that is not the very one it was learnt with."""
        told = dict(zip(zip(self.item_ids.tolist(), self.versions.tolist(), strict=True), self.doubt, strict=True))
        asked = zip(item_ids.tolist(), versions.tolist(), strict=True)
        return np.array([told.get(key, np.nan) for key in asked], np.float32)

    def save(self, path: Path) -> None:
        """Some twenty bytes a label."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, item_ids=self.item_ids, versions=self.versions, doubt=self.doubt.astype(np.float16))

    @classmethod
    def load(cls, path: Path) -> Early:
        with np.load(path, allow_pickle=False) as kept:
            return cls(kept["item_ids"], kept["versions"], kept["doubt"].astype(np.float32))


def remembered(beliefs: Floats, item_ids: Rows, versions: Rows, targets: Rows) -> Early:
    """Of running mean predictions float32 (L, C), a row of zeros for an item that was never seen, and the labels int64
    (L,) that they were learnt beside."""
    mass = beliefs.sum(axis=1)
    seen = mass > 0
    doubt = label_errors.doubt(beliefs[seen] / mass[seen, None], targets[seen])
    return Early(item_ids[seen], versions[seen], doubt)
