"""Telling an image of another class from one of no class, among labels that are doubted.

Both look unlike their class. What to do about them differs: the one is worth a new label, the other none at all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml_worker.calibrate import softmax, temperature
from ml_worker.pool import Floats, Rows

# No class comes near to being as likely as the others together. (At 0.5, of digits suspected for wrong labels alone
# 22 % to 25 % were called foreign, at 0.4 11 % to 13 %; of strangers 62 % and 51 % were suspected.)
AT_HOME = 0.4
# Few are as homeless: a model that is unsure of everything knows no strangers.
AT_MOST = 0.1


def foreign(probs: Floats, targets: Rows, n_classes: int) -> NDArray[np.bool_]:
    """Which items seem to belong to none of the first `n_classes` columns, bool (L,).

    probs: float32 (L, n_classes), out of sample; or one column more, for what people called none of the classes: then
    those of which it is the likeliest. Without that column, those whose largest probability is below AT_HOME, at most
    AT_MOST of all, once the probabilities are brought to the temperature that makes the given labels likeliest: where
    labels are unreliable the model is that unsure of all of them, and a stranger has to stand out against it.

    How far an item lies from the labels of every class, in units of the class's own spread, tells strangers worse:
    they lie between classes as often as far from all (digits with a tenth of the labels on strangers: area under the
    curve against other wrong labels 0.70, by the largest probability 0.96, with 15 answers "none of these" 0.98).
    """
    if probs.shape[1] > n_classes:
        return np.asarray(probs.argmax(axis=1) == n_classes)
    largest = tempered(probs, targets).max(axis=1)
    return np.asarray((largest < AT_HOME) & (largest <= np.quantile(largest, AT_MOST)))


def tempered(probs: Floats, targets: Rows) -> Floats:
    """The same probabilities float32 (L, C) at the temperature that makes the labels likeliest; as they are below 30
    labels."""
    logits = np.log(np.maximum(probs, 1e-12))
    degrees = temperature(logits, targets)
    return probs if degrees is None else softmax(logits, degrees)
