"""Encoding a pool: it goes on where it was stopped, mixes nothing, tells how long it takes, and stays on the disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotator.algorithms import clean_parameters
from ml_worker import encoders, encoding
from ml_worker.encoders import pca_pixels, self_supervised
from ml_worker.encoding import NotFinite, check_finite, encode
from ml_worker.images import Selection

MADE_FOR = {"encoder": "shift", "seed": 0}
TOLD: list[str] = []


class Shift:
    """Mean colour plus what it was made with; writes down what is asked of it."""

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift

    def fit(self, images: Any, progress: Callable[[float, str], None]) -> None:
        TOLD.append(f"fit {len(images)}")
        progress(1.0, "learnt")

    def embed(self, images: Any) -> Any:
        TOLD.append(f"embed {len(images)}")
        return np.asarray(images, np.float64).mean(axis=(1, 2)) + self.shift

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "encoder.json").write_text(json.dumps({"shift": self.shift}))

    @classmethod
    def load(cls, folder: Path) -> "Shift":
        return cls(**json.loads((folder / "encoder.json").read_text()))


class Stopped(Exception):
    """Somebody pressed cancel, or pulled the plug."""


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    TOLD.clear()
    monkeypatch.setattr(encoding, "BLOCK", 4)


@pytest.fixture
def pool() -> Selection:
    """Ten images, of which the encoder may learn from eight."""
    images = np.random.default_rng(0).integers(0, 256, (12, 2, 2, 3), dtype=np.uint8)
    return Selection(images, np.arange(11, 1, -1))


INDEXED = np.arange(10) >= 2


def quiet(share: float, sentence: str) -> None:
    assert 0.0 <= share <= 1.0
    assert sentence


def stop_after(blocks: int) -> Callable[[float, str], None]:
    def progress(share: float, sentence: str) -> None:
        if sentence.startswith(f"embedded {4 * blocks} "):
            raise Stopped

    return progress


def run(pool: Selection, folder: Path, encoder: Any = None, progress: Any = quiet, **made_for: Any) -> Any:
    return encode(encoder or Shift(), pool, INDEXED, folder=folder, made_for=MADE_FOR | made_for, progress=progress)


def test_every_row_is_embedded_and_only_indexed_ones_are_learnt_from(pool: Selection, tmp_path: Path) -> None:
    embeddings = run(pool, tmp_path / "work")
    np.testing.assert_allclose(embeddings, np.asarray(pool).mean(axis=(1, 2)), rtol=1e-6)
    assert embeddings.dtype == np.float32
    assert TOLD == ["fit 8", "embed 1", "embed 4", "embed 4", "embed 2"]
    assert (tmp_path / "work" / "encoder").is_dir()


def test_a_run_that_was_stopped_goes_on_where_it_was(pool: Selection, tmp_path: Path) -> None:
    whole = np.array(run(pool, tmp_path / "whole"))
    with pytest.raises(Stopped):
        run(pool, tmp_path / "work", progress=stop_after(2))
    TOLD.clear()
    np.testing.assert_array_equal(run(pool, tmp_path / "work"), whole)
    assert TOLD == ["embed 1", "embed 2"]


def test_a_block_that_was_half_written_is_made_again(pool: Selection, tmp_path: Path) -> None:
    whole = np.array(run(pool, tmp_path))
    with (tmp_path / "embeddings.f32").open("r+b") as file:
        file.truncate(7 * 3 * 4 + 5)
    TOLD.clear()
    np.testing.assert_array_equal(run(pool, tmp_path), whole)
    assert TOLD == ["embed 1", "embed 4", "embed 2"]


def test_numbers_that_are_not_finite_are_counted_a_block_at_a_time() -> None:
    embeddings = np.zeros((1010, 3), np.float32)
    check_finite(embeddings)
    check_finite(embeddings[:0])
    embeddings[0, 1] = embeddings[0, 2] = np.nan
    embeddings[1009, 0], embeddings[500, 2] = np.inf, -np.inf
    with pytest.raises(NotFinite, match="not finite for 3 of 1,010 images"):
        check_finite(embeddings)


def test_embedding_ends_at_the_first_block_that_is_not_finite(pool: Selection, tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match="not finite for 4 of 4 images"):
        run(pool, tmp_path, Shift(float("nan")))
    assert (tmp_path / "embeddings.f32").stat().st_size == 0


def test_what_was_made_for_other_settings_or_images_is_thrown_away(pool: Selection, tmp_path: Path) -> None:
    run(pool, tmp_path)
    embeddings = run(pool, tmp_path, Shift(100.0), seed=1)
    np.testing.assert_allclose(embeddings, np.asarray(pool).mean(axis=(1, 2)) + 100.0, rtol=1e-6)


def test_embeddings_of_two_encoders_are_never_mixed(pool: Selection, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(pool, tmp_path, progress=stop_after(1))
    (tmp_path / "encoder" / "encoder.json").write_text('{"shift": 5.0}')  # the files were replaced meanwhile
    embeddings = run(pool, tmp_path, Shift(100.0))
    np.testing.assert_allclose(embeddings, np.asarray(pool).mean(axis=(1, 2)) + 100.0, rtol=1e-6)


def test_an_encoder_gets_of_progress_and_folder_what_it_takes(pool: Selection, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    class Keeps(Shift):
        def fit(self, images: Any, *, folder: Path | None = None) -> None:  # type: ignore[override]
            given["folder"] = folder

    run(pool, tmp_path, Keeps())
    assert given == {"folder": tmp_path}


def test_the_time_left_is_told_once_it_can_be_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[float, str]] = []
    clock = iter([0.0, 0.0, 1.0, 30.0, 60.0, 6000.0])
    monkeypatch.setattr(encoding.time, "monotonic", lambda: next(clock))
    progress = encoding.with_time_left(lambda share, sentence: said.append((share, sentence)), 0.5, 1.0)
    for share in (0.2, 0.3, 0.5, 0.6, 0.8):  # it went on from 0.2
        progress(share, "x")
    # 30 s brought 0.3, so the other 0.5 take 50 s; 60 s brought 0.4, so 0.4 take 60 s; 6000 s brought 0.6: 2000 s
    assert [sentence for _, sentence in said] == ["x", "x", "x, 50 s left", "x, 60 s left", "x, 33 min left"]
    assert [share for share, _ in said] == pytest.approx([0.6, 0.65, 0.75, 0.8, 0.9])


class OnDisk:
    """Images as a memory-mapped file holds them; notes how many are read at once."""

    def __init__(self, images: Any) -> None:
        self.images, self.shape, self.dtype = images, images.shape, images.dtype
        self.most = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: Any) -> Any:
        read = self.images[which]
        self.most = max(self.most, len(read) if read.ndim == 4 else 1)
        return read


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pca_pixels", {}),
        ("self_supervised", {"epochs": 1, "network": "small"}),
        ("self_supervised", {"epochs": 1, "network": "small", "batches": "clustered"}),
    ],
)
@pytest.mark.slow
def test_no_encoder_holds_the_pool_in_memory(
    name: str, told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "BLOCK", 256)
    monkeypatch.setattr(pca_pixels, "_FIT_SAMPLE", 300)
    monkeypatch.setattr(self_supervised, "_SAMPLE", 300)
    monkeypatch.setattr(self_supervised, "_BLOCK", 256)
    images = OnDisk(np.random.default_rng(0).integers(0, 256, (1000, 8, 8, 3), dtype=np.uint8))
    encoder = encoders.load(name)(seed=0, **clean_parameters("encoder", name, told))
    pool = Selection(images, np.arange(1000))  # type: ignore[arg-type]
    embeddings = encode(encoder, pool, np.ones(1000, bool), folder=tmp_path, made_for={}, progress=quiet)
    assert len(embeddings) == 1000
    assert images.most == 300
    assert isinstance(embeddings, np.memmap)


def test_a_sample_of_large_images_is_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pca_pixels, "_FIT_VALUES", 50 * 8 * 8 * 3)
    images = OnDisk(np.random.default_rng(0).integers(0, 256, (100, 8, 8, 3), dtype=np.uint8))
    pca_pixels.Encoder(components=4, whitening=0.5, seed=0).fit(Selection(images, np.arange(100)))  # type: ignore[arg-type]
    assert images.most == 50
