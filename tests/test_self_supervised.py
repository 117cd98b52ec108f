"""Teaching a network on the pool itself: views, losses by hand, order of batches, going on after a stop."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from annotator.algorithms import clean_parameters
from ml_worker import encoders
from ml_worker.encoders import self_supervised
from ml_worker.encoders.self_supervised import _half_whitening, _nt_xent, _order, _vicreg
from ml_worker.views import contrastive


def images(n: int = 64, px: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, px, px, 3), dtype=np.uint8)


def encoder(**parameters: Any) -> Any:
    given = {"epochs": 3} | parameters
    return encoders.load("self_supervised")(seed=0, **clean_parameters("encoder", "self_supervised", given))


def embedded(**parameters: Any) -> np.ndarray:
    made = encoder(**parameters)
    made.fit(images())
    return np.asarray(made.embed(images()))


@pytest.mark.parametrize("other", [{"variant": "vicreg"}, {"batches": "clustered"}, {"flip": "yes"}, {"colour": 0}])
def test_every_option_trains_and_makes_a_difference(other: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_supervised, "BATCH", 16)
    embeddings = embedded(**other)
    np.testing.assert_array_equal(embeddings, embedded(**other))
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert not np.allclose(embeddings, embedded(), atol=1e-3)


def test_an_unknown_variant_is_refused_with_the_ones_there_are() -> None:
    settings = encoder()._settings() | {"variant": "magic"}
    with pytest.raises(ValueError, match="there are: contrastive, vicreg"):
        encoders.load("self_supervised")(**settings)


def test_minutes_end_a_run_that_epochs_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(10_000))
    monkeypatch.setattr(self_supervised.time, "monotonic", lambda: float(next(now)))
    shares: list[float] = []
    encoder(epochs=10_000, minutes=0.5).fit(images(), progress=lambda share, text: shares.append(share))
    assert 5 < len(shares) < 40  # the clock moves on by a second whenever it is read, 30 s in all
    assert shares == sorted(shares)


# --- stop and go on


class Stopped(Exception):
    pass


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_supervised, "CHECKPOINT_S", 0.0)
    monkeypatch.setattr(self_supervised, "BATCH", 16)
    straight = encoder()
    straight.fit(images())
    seen: list[float] = []

    def stop_at_half(share: float, text: str) -> None:
        seen.append(share)
        if share >= 0.5:
            raise Stopped

    with pytest.raises(Stopped):
        encoder().fit(images(), progress=stop_at_half, folder=tmp_path)
    resumed = encoder()
    later: list[float] = []
    resumed.fit(images(), progress=lambda share, text: later.append(share), folder=tmp_path)
    assert len(seen) + len(later) == 12  # 3 epochs of 4 steps, none of them twice
    np.testing.assert_array_equal(resumed.embed(images()), straight.embed(images()))
    assert list(tmp_path.iterdir()) == []  # a finished run leaves nothing to go on from


def test_a_state_of_other_images_or_settings_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_supervised, "CHECKPOINT_S", 0.0)

    def stop(share: float, text: str) -> None:
        raise Stopped

    for given, parameters in [(images(seed=1), {}), (images(), {"variant": "vicreg"})]:
        with pytest.raises(Stopped):
            encoder(**parameters).fit(given, progress=stop, folder=tmp_path)
        steps: list[str] = []
        encoder().fit(images(), progress=lambda share, text, kept=steps: kept.append(text), folder=tmp_path)
        assert len(steps) == 3


# --- views


def draws(n: int) -> torch.Tensor:
    return torch.from_numpy(images(n)).permute(0, 3, 1, 2)


def look(given: torch.Tensor, seed: int = 0, **options: Any) -> torch.Tensor:
    return contrastive(given, torch.Generator().manual_seed(seed), **({"colour": 0.5, "flip": True} | options))


def test_two_looks_differ_and_the_same_seed_gives_the_same() -> None:
    first = look(draws(20))
    assert first.shape == (20, 3, 8, 8) and first.dtype == torch.float32
    assert first.min() >= 0 and first.max() <= 1
    torch.testing.assert_close(look(draws(20)), first, rtol=0, atol=0)
    assert ((look(draws(20), seed=1) - first).abs().amax(dim=(1, 2, 3)) > 0.01).all()


def test_a_crop_shows_a_part_at_full_size_and_never_what_is_not_there() -> None:
    # A ramp from left to right stays a ramp of smaller slope; mirrored only where that is allowed.
    ramp = torch.arange(0, 240, 15, dtype=torch.uint8).expand(200, 3, 16, 16)
    slopes = look(ramp, colour=0.0, flip=False)[:, 0, 8].diff(dim=1) * 255
    assert (slopes > -1e-3).all()
    inner = slopes[:, 4:-4].median(dim=1).values
    assert inner.max() <= 15.001 and 15 * 0.35 < inner.min() < 15 * 0.6  # sides from sqrt(0.2 * 3 / 4) up to 1
    mirrored = look(ramp, colour=0.0)[:, 0, 8].diff(dim=1).mean(dim=1) < 0
    assert 0.35 < mirrored.float().mean() < 0.65


def test_colours_change_only_as_far_as_they_may() -> None:
    plain = torch.tensor([200, 80, 40], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(400, 3, 4, 4)
    torch.testing.assert_close(look(plain, colour=0.0), plain / 255.0, rtol=0, atol=1e-5)
    seen = look(plain)[:, :, 0, 0]
    grey = seen.amax(dim=1) - seen.amin(dim=1) < 0.01
    assert 0.1 < grey.float().mean() < 0.3
    near = (look(plain, colour=0.01)[:, :, 0, 0] - plain[:, :, 0, 0] / 255).abs().amax(dim=1)
    assert near[~grey].max() < 0.05


# --- losses


def test_nt_xent_as_by_hand() -> None:
    # Two images, both views of each alike, images at right angles: of 3 others one is at cosine 1 and two at 0.
    views = torch.eye(2)
    wanted = -math.log(math.exp(1 / 0.2) / (math.exp(1 / 0.2) + 2))
    assert float(_nt_xent(views, views * 7)) == pytest.approx(wanted, abs=1e-5)
    # Twins at right angles, strangers alike: as bad as it gets, (0 - 1) / 0.2 for each of them.
    assert float(_nt_xent(views, views.flip(0))) == pytest.approx(math.log(2 + math.exp(5)), abs=1e-5)


def test_vicreg_as_by_hand() -> None:
    # Features at -1 and 1 have variance 4/3 ... 2: nothing to pay; equal ones repeat each other: covariance squared.
    spread = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    assert float(_vicreg(spread, spread)) == pytest.approx(0, abs=1e-6)
    repeated = spread[:, :1].expand(4, 2)
    assert float(_vicreg(repeated, repeated)) == pytest.approx(2 * 2 * (4 / 3) ** 2 / 50, abs=1e-5)
    # All alike: a spread of 0.01 (the floor) where 1 is asked for, in either view.
    assert float(_vicreg(torch.ones(4, 2), torch.ones(4, 2))) == pytest.approx(0.99, abs=1e-5)


# --- order of batches and whitening


def test_clustered_order_gives_every_batch_its_share_of_each_cluster() -> None:
    clusters = np.repeat([0, 1, 2], [60, 30, 10])
    order = _order(100, clusters, np.random.default_rng(0))
    assert sorted(order) == list(range(100))
    for start in range(0, 100, 20):
        counts = np.bincount(clusters[order[start : start + 20]], minlength=3)
        assert (np.abs(counts - [12, 6, 2]) <= 1).all()
    assert (order != _order(100, clusters, np.random.default_rng(1))).any()


def test_half_whitening_takes_the_fourth_root_of_every_variance() -> None:
    # Standard deviations 1 and 16: afterwards 1 and 4, up to the floor of a thousandth of the largest variance.
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(5000, 2)) * [1.0, 16.0]).float()
    features -= features.mean(dim=0)
    spread = (features @ _half_whitening(features)).std(dim=0)
    assert sorted(spread.tolist()) == pytest.approx([0.95, 4], abs=0.1)


# --- does what it claims


@pytest.mark.slow
def test_it_tells_digits_apart_better_than_a_network_that_was_not_taught() -> None:
    digits = load_digits()
    grey = np.rint(digits.images[:1000] * (255 / 16)).astype(np.uint8)
    pool, targets = np.repeat(grey[..., None], 3, axis=3), digits.target[:1000]

    def accuracy(**parameters: Any) -> float:
        made = encoder(**parameters)
        made.fit(pool)
        embeddings = made.embed(pool)
        neighbours = KNeighborsClassifier(5).fit(embeddings[:100], targets[:100])
        return float(neighbours.score(embeddings[100:], targets[100:]))

    untaught = accuracy(epochs=1)  # three steps, the first of a warm-up
    assert accuracy(epochs=15) > untaught + 0.05
