"""Multinomial logistic regression on the embeddings."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from ml_worker.heads import origin, with_absent
from ml_worker.pool import Floats, Pool, Rows


class Head:
    """Linear head, fitted by scikit-learn (L-BFGS) on centred embeddings.

    All dimensions are divided by one number, so that the penalty means the same for every encoder.

    inverse_penalty: scikit-learn's C; larger trusts the answers more.
    """

    def __init__(self, n_classes: int, *, inverse_penalty: float) -> None:
        self.n_classes, self.inverse_penalty = n_classes, inverse_penalty
        self.weight: Floats = np.zeros((0, n_classes), np.float32)
        self.bias: Floats = np.zeros(n_classes, np.float32)
        self.present: Rows = np.zeros(0, np.int64)

    def fit(self, pool: Pool, rows: Rows, targets: Rows, weights: Floats) -> None:
        """Fit on the labelled rows. One class only: that class is predicted everywhere."""
        if len(rows) == 0:
            raise ValueError("cannot fit a head on no answer")
        about = origin(pool)
        self.present = np.unique(targets)
        coefficients = np.zeros((pool.embeddings.shape[1], len(self.present)))
        intercepts = np.zeros(len(self.present))
        if len(self.present) > 1:
            features = (pool.embeddings[rows] - about.mean) / about.scale
            model = LogisticRegression(C=self.inverse_penalty, max_iter=200, tol=1e-3)
            # A few hundred answers are too little to share out: with two threads it took ten times as long.
            with threadpool_limits(1):
                model.fit(features, targets, sample_weight=weights)
            coefficients[:, -len(model.coef_) :] = model.coef_.T
            intercepts[-len(model.intercept_) :] = model.intercept_
        # The standardisation is folded into the weights: scoring is one product over the pool.
        self.weight = (coefficients / about.scale).astype(np.float32)
        self.bias = (intercepts - (about.mean / about.scale) @ coefficients).astype(np.float32)

    def logits(self, pool: Pool) -> Floats:
        """Logits float32 (N, C), finite, for every row of the pool."""
        seen = np.asarray(pool.embeddings) @ self.weight + self.bias
        return with_absent(seen, self.present, self.n_classes)
