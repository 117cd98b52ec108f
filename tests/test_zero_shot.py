"""Class names alone: probabilities, how common each class is, and quotas that follow from that."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from ml_worker import zero_shot
from ml_worker.vision_models import ModelUnavailable
from ml_worker.zero_shot import class_probs, estimated_prior, first_proposals, quotas, read_names, with_prior
from tests.tiny_models import save_tiny

SHARES = np.array([0.6, 0.25, 0.1, 0.05, 0.0])  # a long tail, and a class that is not there
SPREAD = 0.35


def pool(n: int = 4000, dimensions: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings (N, D) around the directions (C, D) of their classes, and targets: SHARES of each class."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(dimensions, len(SHARES))))[0].T
    targets = rng.choice(len(SHARES), n, p=SHARES)
    points = directions[targets] + rng.normal(0, SPREAD, (n, dimensions))
    return points.astype(np.float32), directions.astype(np.float32), targets


def doubtful() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a pool whose classes overlap, about as sure as they are right, and targets."""
    points, directions, targets = pool()
    lengths = np.linalg.norm(points, axis=1).mean()
    return class_probs(points, directions, temperature=float(SPREAD**2 / lengths)), targets


def test_probabilities_as_by_hand() -> None:
    # Cosines 1 and 0 over a temperature of 0.5: e^2 to 1, whatever the length of the embedding.
    probs = class_probs(np.array([[7.0, 0.0]], np.float32), np.eye(2, dtype=np.float32), temperature=0.5)
    np.testing.assert_allclose(probs, [[np.exp(2) / (np.exp(2) + 1), 1 / (np.exp(2) + 1)]], rtol=1e-5)
    with pytest.raises(ValueError, match="use the same model"):
        class_probs(np.ones((1, 3), np.float32), np.eye(2, dtype=np.float32))


def test_the_prior_of_a_tiny_pool_as_by_hand() -> None:
    # Two items surely of class 0, one of class 1: shares 2/3 and 1/3 at once.
    np.testing.assert_allclose(estimated_prior(np.array([[1, 0], [1, 0], [0, 1.0]])), [2 / 3, 1 / 3], atol=1e-6)
    # Likelihoods 3:1 on each of two items and 1:3 on one: p = (2/3) 3p/(2p+1) + (1/3) p/(3-2p) has its root at 5/6.
    np.testing.assert_allclose(
        estimated_prior(np.array([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75]])), [5 / 6, 1 / 6], atol=1e-4
    )


def test_a_long_tail_is_recovered_and_an_absent_class_is_seen_to_be_absent() -> None:
    probs, _ = doubtful()
    averaged = probs.mean(axis=0)
    assert averaged[4] > 0.01  # which is what averaging makes of doubts
    prior = estimated_prior(probs)
    assert prior.sum() == pytest.approx(1, abs=1e-5)
    assert np.abs(prior - SHARES).max() < 0.02
    assert prior[4] < 0.002


def test_the_estimated_prior_makes_predictions_better_and_the_uniform_one_changes_nothing() -> None:
    probs, targets = doubtful()
    np.testing.assert_allclose(with_prior(probs, np.full(5, 0.2, np.float32)), probs, atol=1e-5)
    before = (probs.argmax(axis=1) == targets).mean()
    assert (with_prior(probs, estimated_prior(probs)).argmax(axis=1) == targets).mean() > before


def test_quotas_follow_the_shares_and_an_absent_class_gets_none() -> None:
    assert quotas(SHARES, 1000, 20).tolist() == [12, 5, 2, 1, 0]
    # A rare class is not rounded away, a class expected on no item at all is not filled with look-alikes.
    assert quotas(np.array([0.98, 0.019, 0.001]), 1000, 10).tolist() == [9, 1, 0]
    # No more than the pool is expected to hold, and no more than there is to give.
    assert quotas(np.array([0.5, 0.5]), 4, 100).tolist() == [2, 2]
    assert quotas(SHARES, 1000, 2).tolist() == [1, 1, 0, 0, 0]
    assert quotas(SHARES, 1000, 0).tolist() == [0] * 5


def test_the_first_proposals_are_the_surest_of_each_class_and_mostly_right() -> None:
    probs, targets = doubtful()
    probs = with_prior(probs, estimated_prior(probs))
    rows = first_proposals(probs, 40)
    proposed = probs[rows].argmax(axis=1)
    assert len(rows) == len(set(rows.tolist())) == 40
    assert np.bincount(proposed, minlength=5).tolist() == [24, 10, 4, 2, 0]
    assert (targets[rows] == proposed).mean() > 0.9
    assert (np.diff(probs[rows].max(axis=1)) <= 0).all(), "the surest first"
    assert len(first_proposals(probs, 0)) == len(first_proposals(probs[:0], 40)) == 0


def test_a_share_that_is_gone_leaves_probabilities_that_sum_to_1() -> None:
    # Nothing but the class without a share fits the second item.
    found = with_prior(np.array([[0.5, 0.5], [0.0, 1.0]], np.float32), np.array([1.0, 0.0], np.float32))
    np.testing.assert_allclose(found, [[1, 0], [0, 1]], atol=1e-6)


def test_probabilities_of_a_large_pool_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    points, directions, _ = pool(100)
    whole = with_prior(class_probs(points, directions), SHARES)
    monkeypatch.setattr(zero_shot, "_BLOCK", 7)
    np.testing.assert_allclose(with_prior(class_probs(points, directions), SHARES), whole, rtol=1e-5)


def test_an_empty_pool_has_no_prior() -> None:
    with pytest.raises(ValueError, match="empty"):
        estimated_prior(np.zeros((0, 3), np.float32))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_class_names_become_directions_of_length_one(kind: str, tmp_path: Path) -> None:
    folder = save_tiny(kind, tmp_path)
    names = ["cat", "dog", "ship"]
    directions, temperature = read_names(folder, names)
    assert directions.dtype == np.float32
    assert directions.shape == (3, 12 if kind == "clip" else 16)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-5)
    # Each name for itself, in the order asked; templates matter.
    np.testing.assert_allclose(read_names(folder, names[::-1])[0][::-1], directions, atol=1e-5)
    assert not np.allclose(read_names(folder, names, ["{}"])[0], directions, atol=1e-3)
    # What the model was trained to: one over e to the power of its logit scale.
    scale = load_file(folder / "model.safetensors")["logit_scale"].item()
    assert temperature == pytest.approx(np.exp(-scale))


def test_a_model_that_does_not_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="does not read"):
        read_names(save_tiny("vit", tmp_path), ["cat"])
