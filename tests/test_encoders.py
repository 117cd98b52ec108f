"""What every encoder keeps to, and a case by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotator.algorithms import catalogue, clean_parameters
from ml_worker import encoders
from tests.tiny_models import save_tiny

NAMES = [algorithm.name for algorithm in catalogue("encoder")]


TAUGHT_ON_A_POOL = [name for name in NAMES if name != "pretrained"]
QUICK: dict[str, dict[str, Any]] = {"self_supervised": {"epochs": 2}, "pretrained": {"amp": "off"}}


@pytest.fixture(scope="module", autouse=True)
def _tiny_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A published model to stand in for the real ones."""
    QUICK["pretrained"]["model"] = str(save_tiny("vit", tmp_path_factory.mktemp("vit")))


def images(n: int = 30, px: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, px, px, 3), dtype=np.uint8)


def fitted(name: str, given: np.ndarray, seed: int = 0, **parameters: Any) -> Any:
    encoder = encoders.load(name)(seed=seed, **clean_parameters("encoder", name, QUICK.get(name, {}) | parameters))
    encoder.fit(given)
    return encoder


def embedded(name: str, given: np.ndarray, **parameters: Any) -> np.ndarray:
    """Embeddings (N, D), after checking what holds for every encoder."""
    embeddings = fitted(name, given, **parameters).embed(given)
    assert embeddings.dtype == np.float32
    assert embeddings.ndim == 2 and len(embeddings) == len(given) and embeddings.shape[1] >= 1
    assert np.isfinite(embeddings).all()
    return np.asarray(embeddings)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_embeddings(name: str) -> None:
    np.testing.assert_array_equal(embedded(name, images()), embedded(name, images()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_it_copes_with_fewer_images_than_dimensions(name: str, n: int) -> None:
    assert len(embedded(name, images(n))) == n


@pytest.mark.parametrize("name", NAMES)
def test_it_copes_with_images_without_any_contrast(name: str) -> None:
    embedded(name, np.zeros((10, 6, 6, 3), np.uint8))
    embedded(name, np.full((10, 6, 6, 3), 255, np.uint8))
    flat = np.repeat(np.arange(10, dtype=np.uint8), 6 * 6 * 3).reshape(10, 6, 6, 3)
    assert len(np.unique(embedded(name, flat), axis=0)) == 10
    embedded(name, images(10, px=1))


@pytest.mark.parametrize("name", NAMES)
def test_equal_images_get_equal_embeddings_whatever_comes_with_them(name: str) -> None:
    encoder = fitted(name, images(40))
    alone = encoder.embed(images(40)[7:8])
    np.testing.assert_allclose(encoder.embed(images(40))[7:8], alone, atol=1e-5)
    assert encoder.embed(images(0)).shape == (0, alone.shape[1])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_same_after_saving_and_loading(name: str, tmp_path: Path) -> None:
    encoder = fitted(name, images())
    encoder.save(tmp_path / "encoder")
    again = encoders.load(name).load(tmp_path / "encoder")
    np.testing.assert_array_equal(again.embed(images(5, seed=1)), encoder.embed(images(5, seed=1)))


@pytest.mark.parametrize("name", NAMES)
def test_it_refuses_no_image(name: str) -> None:
    with pytest.raises(ValueError, match="no image"):
        fitted(name, images(0))


@pytest.mark.parametrize("name", TAUGHT_ON_A_POOL)
def test_it_refuses_images_of_another_size(name: str) -> None:
    with pytest.raises(ValueError, match="fitted on"):
        fitted(name, images()).embed(images(px=8))


def test_pixels_on_a_line_keep_their_distances() -> None:
    # Plain grey 0, 100 and 200: one component, equal steps; sample variance 1, so -1, 0 and 1 up to the sign.
    grey = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (0, 100, 200)])
    line = embedded("pca_pixels", grey, whitening=0.0)
    assert line.shape == (3, 1)
    np.testing.assert_allclose(np.sort(line[:, 0]), [-1, 0, 1], atol=1e-4)


def test_full_whitening_makes_all_components_weigh_the_same() -> None:
    embeddings = embedded("pca_pixels", images(200, px=3), whitening=1.0)
    variances = embeddings.var(axis=0)
    assert variances.max() / variances.min() == pytest.approx(1, rel=0.01)
    # A typical item is at distance 1 from the mean.
    assert np.sqrt(np.square(embeddings).sum(axis=1).mean()) == pytest.approx(1, rel=0.01)


def test_components_are_a_limit() -> None:
    assert embedded("pca_pixels", images(200), components=5).shape == (200, 5)


def test_colour_counts_only_where_there_is_any() -> None:
    grey = np.repeat(images()[..., :1], 3, axis=3)
    assert fitted("pca_pixels", grey).projection.shape[0] == 6 * 6
    assert fitted("pca_pixels", images()).projection.shape[0] == 6 * 6 * 3
