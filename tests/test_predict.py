"""What a network says of a pool, read batch by batch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ml_worker.predict import predict
from tests.pictures import N_CLASSES, POLICY, examples, tiny_network


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    net = tiny_network("", N_CLASSES, 8, mean=torch.full((3,), 0.5), std=torch.full((3,), 0.2))
    net.train()
    with torch.no_grad():
        net(torch.rand(64, 3, 8, 8))
    return net


def test_rows_come_back_in_their_order_whatever_the_batch(tmp_path: Path) -> None:
    images = examples().images
    np.save(tmp_path / "images.npy", images)
    mapped, rows = np.load(tmp_path / "images.npy", mmap_mode="r"), np.array([7, 2, 2, 31, 0])
    net, told = network(), []
    said = predict(net, mapped, rows, device="cpu", batch=2, amp="off", progress=lambda *done: told.append(done))
    with torch.no_grad():
        features = net.eval().features(torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float() / 255)
        logits = net.classify(features)
    np.testing.assert_allclose(said.features, features, atol=1e-5)
    np.testing.assert_allclose(said.logits, logits, atol=1e-5)
    np.testing.assert_allclose(said.probs, logits.softmax(dim=1), atol=1e-5)
    assert {array.dtype for array in said} == {np.dtype(np.float32)}
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_predicting_leaves_the_network_as_it_was() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    predict(net, examples().images, np.arange(9), device="cpu", batch=4)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_no_rows_give_empty_arrays() -> None:
    said = predict(network(), examples().images, np.zeros(0, np.int64), device="cpu", batch=4)
    assert [array.shape for array in said] == [(0, 3), (0, 16), (0, 3)]


def test_several_views_are_averaged_and_drawn_the_same_again() -> None:
    net, images, rows = network(), examples().images, np.arange(8)
    once = predict(net, images, rows, device="cpu", batch=4, amp="off")
    several = [predict(net, images, rows, device="cpu", batch=4, views=4, policy=POLICY, amp="off") for _ in "ab"]
    np.testing.assert_array_equal(several[0].probs, several[1].probs)
    assert np.abs(several[0].probs - once.probs).max() > 1e-4
    np.testing.assert_allclose(several[0].probs.sum(axis=1), 1.0, rtol=1e-5)
    with pytest.raises(ValueError, match="4 views need a policy"):
        predict(net, images, rows, device="cpu", batch=4, views=4)


def test_it_can_be_called_off() -> None:
    def cancel(done: int, total: int) -> None:
        raise InterruptedError

    net = network()
    with pytest.raises(InterruptedError):
        predict(net, examples().images, np.arange(8), device="cpu", batch=4, progress=cancel)
    assert net.training
