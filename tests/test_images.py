"""Every kind of image decodes to the same kind of square; what is no image says so."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml_worker import images
from ml_worker.images import DecodedPool, Selection, UnreadableImage, decode, image_size, training_px


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def half(mode: str, dark: Any, bright: Any, px: int = 8) -> Image.Image:
    """Dark on the left, bright on the right."""
    image = Image.new(mode, (px, px), dark)
    image.paste(bright, (px // 2, 0, px, px))
    return image


def sides(data: bytes) -> tuple[list[int], list[int]]:
    """The colours at the far left and the far right."""
    square = decode(data, 8)
    assert square.shape == (8, 8, 3)
    assert square.dtype == np.uint8
    return square[4, 0].tolist(), square[4, 7].tolist()


def near(colour: list[int], wanted: tuple[int, int, int], slack: int = 6) -> bool:
    return max(abs(a - b) for a, b in zip(colour, wanted, strict=True)) <= slack


@pytest.mark.parametrize(
    "data",
    [
        saved(half("L", 10, 240)),
        saved(half("RGB", (10, 10, 10), (240, 240, 240))),
        saved(half("RGBA", (10, 10, 10, 255), (240, 240, 240, 255))),
        saved(half("LA", (10, 255), (240, 255))),
        saved(half("RGB", (10, 10, 10), (240, 240, 240)).quantize(4)),
        saved(Image.fromarray(np.asarray(half("L", 10, 240)).astype(np.uint16) * 256)),
        saved(half("L", 10, 240), "JPEG", quality=95),
        saved(half("RGB", (10, 10, 10), (240, 240, 240)).convert("CMYK"), "JPEG", quality=95),
        saved(half("L", 10, 240), "GIF"),
        saved(half("L", 10, 240), "BMP"),
        saved(half("RGB", (10, 10, 10), (240, 240, 240)), "WEBP", lossless=True),
        saved(half("L", 10, 240), "TIFF"),
        saved(half("F", 10.0, 240.0), "TIFF"),
    ],
    ids=[
        "grey",
        "rgb",
        "rgba",
        "grey-alpha",
        "palette",
        "16-bit",
        "jpeg",
        "cmyk",
        "gif",
        "bmp",
        "webp",
        "tiff",
        "float",
    ],
)
def test_every_mode_comes_out_as_eight_bit_colour(data: bytes) -> None:
    left, right = sides(data)
    assert near(left, (10, 10, 10))
    assert near(right, (240, 240, 240))


def test_black_and_white_spans_the_whole_range() -> None:
    assert sides(saved(half("1", 0, 1))) == ([0, 0, 0], [255, 255, 255])


def test_transparent_parts_lie_on_white() -> None:
    assert sides(saved(half("RGBA", (10, 20, 30, 0), (200, 0, 0, 255)))) == ([255, 255, 255], [200, 0, 0])
    marked = half("P", 0, 1)
    marked.putpalette([0, 0, 0, 200, 0, 0])
    assert sides(saved(marked, transparency=0)) == ([255, 255, 255], [200, 0, 0])


@pytest.mark.parametrize(
    ("orientation", "bright_at"), [(1, "right"), (2, "left"), (3, "left"), (6, "bottom"), (8, "top")]
)
def test_images_are_turned_as_the_camera_says(orientation: int, bright_at: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    square = decode(saved(half("L", 0, 255, 32), "JPEG", exif=exif, quality=95), 8)[..., 0].astype(int)
    ends = {"left": square[:, 0], "right": square[:, -1], "top": square[0], "bottom": square[-1]}
    assert max(ends, key=lambda end: float(ends[end].mean())) == bright_at


def test_a_broken_exif_block_does_not_cost_the_image() -> None:
    left, right = sides(saved(half("L", 10, 240), "JPEG", exif=b"Exif\x00\x00garbage", quality=95))
    assert near(left, (10, 10, 10)) and near(right, (240, 240, 240))


def test_a_long_image_is_squashed_and_keeps_both_ends() -> None:
    image = half("L", 0, 255, 64).resize((640, 10))
    assert sides(saved(image)) == ([0, 0, 0], [255, 255, 255])


def test_a_single_pixel_is_an_image() -> None:
    assert decode(saved(Image.new("RGB", (1, 1), (9, 8, 7))), 4).tolist() == [[[9, 8, 7]] * 4] * 4


GOOD = saved(Image.effect_noise((64, 64), 90), "PNG")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        GOOD[:40],
        GOOD[: len(GOOD) // 2],
        b"GIF89a",
        b"\xff\xd8\xff\xe0",
        b"<svg></svg>",
        b"BM" + b"\0" * 60,
    ],
    ids=["empty", "text", "header only", "cut short", "gif magic", "jpeg magic", "svg", "bmp zeros"],
)
def test_what_is_no_image_is_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(UnreadableImage, match=r"\w"):
        decode(data, 8)


@pytest.mark.filterwarnings("ignore")  # Pillow warns about what it skips
def test_flipping_bytes_never_raises_anything_else() -> None:
    rng = np.random.default_rng(0)
    for good in (
        GOOD,
        saved(half("L", 10, 240, 32), "JPEG"),
        saved(half("L", 10, 240), "GIF"),
        saved(half("L", 1, 2), "TIFF"),
    ):
        for _ in range(100):
            bad = bytearray(good)
            for place in rng.integers(0, len(bad), 4):
                bad[place] = rng.integers(0, 256)
            try:
                assert decode(bytes(bad), 8).shape == (8, 8, 3)
            except UnreadableImage:
                continue


def test_a_header_that_promises_a_giant_is_refused_before_anything_is_unpacked() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(UnreadableImage):
        decode(bomb, 8)


def test_too_many_pixels_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 63)
    with pytest.raises(UnreadableImage, match="8 x 8 pixels; at most 63"):
        decode(saved(half("L", 0, 1)), 8)


def test_the_size_is_read_from_the_header() -> None:
    assert image_size(saved(Image.new("L", (7, 5)))) == (7, 5)
    with pytest.raises(UnreadableImage):
        image_size(b"no")


def test_the_training_size_is_the_typical_longer_side_within_bounds() -> None:
    assert training_px([8, 8, 6], [8, 8, 9]) == 8
    assert training_px([640], [480]) == 64
    assert training_px([], []) == 64


# --- the decoded pool


def squares(n: int, value: int) -> np.ndarray:
    return np.full((n, 4, 4, 3), value, np.uint8)


def test_a_decoded_pool_grows_and_is_there_after_reopening(tmp_path: Path) -> None:
    pool = DecodedPool(tmp_path / "decoded", 4)
    assert pool.images().shape == (0, 4, 4, 3)
    pool.append(np.array([7, 3]), squares(2, 1))
    pool.append(np.array([5]), squares(1, 2))
    again = DecodedPool(tmp_path / "decoded", 4)
    assert again.item_ids.tolist() == [7, 3, 5]
    assert again.images()[:, 0, 0, 0].tolist() == [1, 1, 2]
    assert again.rows(np.array([5, 7])).tolist() == [2, 0]
    assert again.missing(np.array([9, 3, 1])).tolist() == [9, 1]


def test_a_crash_between_images_and_ids_loses_only_that_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = DecodedPool(tmp_path, 4)
    pool.append(np.array([1]), squares(1, 1))
    with monkeypatch.context() as crash:
        crash.setattr(DecodedPool, "_replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pool.append(np.array([2, 3]), squares(2, 9))
    again = DecodedPool(tmp_path, 4)
    assert again.item_ids.tolist() == [1]
    again.append(np.array([4]), squares(1, 4))
    assert DecodedPool(tmp_path, 4).images()[:, 0, 0, 0].tolist() == [1, 4]


def test_ids_without_their_image_are_dropped(tmp_path: Path) -> None:
    DecodedPool(tmp_path, 4).append(np.array([1, 2]), squares(2, 1))
    with (tmp_path / "images.u8").open("r+b") as file:
        file.truncate(4 * 4 * 3 + 5)
    assert DecodedPool(tmp_path, 4).item_ids.tolist() == [1]


def test_an_item_twice_or_a_wrong_shape_or_an_unknown_item_is_refused(tmp_path: Path) -> None:
    pool = DecodedPool(tmp_path, 4)
    with pytest.raises(KeyError, match="item 1"):
        pool.rows(np.array([1]))
    pool.append(np.array([1]), squares(1, 1))
    for ids in ([1], [2, 2]):
        with pytest.raises(ValueError, match="already, or twice"):
            pool.append(np.array(ids), squares(len(ids), 1))
    with pytest.raises(ValueError, match="wanted uint8"):
        pool.append(np.array([2]), squares(2, 1))
    with pytest.raises(KeyError, match="item 9"):
        pool.rows(np.array([1, 9]))


def test_what_could_not_be_read_is_asked_for_again_and_put_where_the_grey_stood(tmp_path: Path) -> None:
    pool, ids, grey = DecodedPool(tmp_path, 4), np.array([5, 6, 7]), np.full((1, 4, 4, 3), 128, np.uint8)
    images = squares(3, 1)
    pool.store(ids, np.concatenate([images[:1], grey, images[2:]]), np.array([True, False, True]))
    assert pool.missing(np.array([5, 6, 7, 8])).tolist() == [6, 8]
    pool.store(np.array([6, 8]), np.concatenate([grey, images[:1]]), np.array([False, True]))  # still not there
    again = DecodedPool(tmp_path, 4)
    assert again.unreadable.tolist() == [6]
    again.store(np.array([6]), images[1:2], np.array([True]))
    whole = DecodedPool(tmp_path, 4)
    assert whole.unreadable.tolist() == whole.missing(np.array([5, 6, 7, 8])).tolist() == []
    assert whole.item_ids.tolist() == [5, 6, 7, 8]
    np.testing.assert_array_equal(whole.images(), np.concatenate([images, images[:1]]))


# --- a selection of a pool


def test_a_selection_is_indexed_like_the_array_it_stands_for() -> None:
    images = np.arange(6 * 2 * 2 * 3, dtype=np.uint8).reshape(6, 2, 2, 3)
    selection, array = Selection(images, np.array([5, 0, 3])), images[[5, 0, 3]]
    assert (len(selection), selection.shape, selection.dtype) == (3, (3, 2, 2, 3), np.uint8)
    for which in (1, slice(1, None), np.array([2, 0]), np.array([True, False, True])):
        np.testing.assert_array_equal(selection[which], array[which])
    np.testing.assert_array_equal(np.asarray(selection), array)
    np.testing.assert_array_equal(np.asarray(selection.only(np.array([False, True, True]))), array[1:])
