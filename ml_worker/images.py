"""Decoding images once, to a pool of small uint8 squares that every later step reads."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ml_worker.pool import Rows
from ml_worker.whole_files import whole_file

Images = NDArray[np.uint8]

MAX_PX = 64
MAX_PIXELS = 100_000_000  # a header may promise more than memory holds

# Pillow's decoders raise many kinds of error on hostile bytes; each means the same to the caller.
_DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class UnreadableImage(ValueError):
    """These bytes are not an image that can be decoded; the message says why."""


def training_px(widths: Sequence[int], heights: Sequence[int]) -> int:
    """Side of the decoded squares: the typical longer side of these images, at most 64."""
    if len(widths) == 0:
        return MAX_PX
    longer = np.maximum(np.asarray(widths), np.asarray(heights))
    return int(max(1, min(MAX_PX, np.median(longer))))


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height as the header says, before any turning. Raises UnreadableImage."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except _DECODER_ERRORS as error:
        raise UnreadableImage(f"cannot be decoded: {error}") from error


def decode(data: bytes, image_px: int) -> Images:
    """Image bytes -> uint8 (image_px, image_px, 3), turned as EXIF says, transparent parts on white.

    Squashed to a square, not letterboxed: at this size the bars of a letterbox would be the strongest pattern
    in the pool, and items would group by the shape of the frame instead of by what is in it; a crop would
    lose content. Raises UnreadableImage.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width} x {image.height} pixels; at most {MAX_PIXELS} are read")
            image.draft("RGB", (2 * image_px, 2 * image_px))
            upright = _rgb(ImageOps.exif_transpose(image))
            small = upright.resize((image_px, image_px), Image.Resampling.BICUBIC, reducing_gap=3.0)
            return np.asarray(small, np.uint8)
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage("not an image of a known kind") from error
    except _DECODER_ERRORS as error:
        raise UnreadableImage(f"cannot be decoded: {error}") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # 16-bit grey; Pillow's own conversion would clip everything above 255.
        values = np.asarray(image).astype(np.int64)
        shift = 8 if values.max(initial=0) > 255 else 0
        return Image.fromarray(np.clip(values >> shift, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


class DecodedPool:
    """Decoded images of a project in a folder; it only ever grows, and a crash loses at most the last chunk.

    `images.u8`: raw uint8, one (image_px, image_px, 3) square after another. `item_ids.npy`: int64, whose
    image stands where. `unreadable.npy`: those of them that are plain grey, because their files could not be read;
    they are asked for again until they can. An append writes the images through to the disk, then replaces the ids in
    one step: only images named there exist, and what a crash left behind them is cut off by the next append. One
    writer at a time.
    """

    def __init__(self, folder: Path, image_px: int) -> None:
        self.folder, self.image_px = folder, image_px
        self._images, self._ids = folder / "images.u8", folder / "item_ids.npy"
        self._unreadable = folder / "unreadable.npy"
        self.item_ids, self.unreadable = _numbers(self._ids), _numbers(self._unreadable)
        whole = self._images.stat().st_size // self.row_bytes if self._images.exists() else 0
        self.item_ids = self.item_ids[:whole]  # a copy cut short elsewhere must not be read past its end

    @property
    def row_bytes(self) -> int:
        """What one image takes on the disk."""
        return self.image_px * self.image_px * 3

    def __len__(self) -> int:
        return len(self.item_ids)

    def missing(self, item_ids: Rows) -> Rows:
        """Those of the items that have no image here yet, or only plain grey in place of it, in the order given."""
        item_ids = np.asarray(item_ids, np.int64)
        return item_ids[~np.isin(item_ids, np.setdiff1d(self.item_ids, self.unreadable))]

    def store(self, item_ids: Rows, images: Images, readable: NDArray[np.bool_]) -> None:
        """Add a chunk of `missing` items: ids int64 (n,), images uint8 (n, px, px, 3), and which of them are no plain
        grey, bool (n,). Images that were grey so far are put where those stand."""
        # First what is grey, so that a crash leaves nothing grey that passes for an image.
        self._replace(self._unreadable, np.union1d(self.unreadable, item_ids[~readable]))
        self.unreadable = _numbers(self._unreadable)
        stood = np.isin(item_ids, self.item_ids)
        healed = stood & readable
        if healed.any():
            with self._images.open("r+b") as file:
                for row, image in zip(self.rows(item_ids[healed]), images[healed], strict=True):
                    file.seek(int(row) * self.row_bytes)
                    file.write(np.ascontiguousarray(image).tobytes())
                file.flush()
                os.fsync(file.fileno())
        if not stood.all():
            self.append(item_ids[~stood], images[~stood])
        self._replace(self._unreadable, np.setdiff1d(self.unreadable, item_ids[healed]))
        self.unreadable = _numbers(self._unreadable)

    def append(self, item_ids: Rows, images: Images) -> None:
        """Add a chunk: ids int64 (n,), none of them here yet, and images uint8 (n, px, px, 3)."""
        item_ids = np.asarray(item_ids, np.int64)
        wanted = (len(item_ids), self.image_px, self.image_px, 3)
        if images.shape != wanted or images.dtype != np.uint8:
            raise ValueError(f"images are {images.dtype} {images.shape}; wanted uint8 {wanted}")
        if len(np.unique(item_ids)) < len(item_ids) or np.isin(item_ids, self.item_ids).any():
            raise ValueError("an item of this chunk is in the pool already, or twice in the chunk")
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._images.open("r+b" if self._images.exists() else "w+b") as file:
            file.truncate(len(self) * self.row_bytes)
            file.seek(0, os.SEEK_END)
            file.write(np.ascontiguousarray(images).tobytes())
            file.flush()
            os.fsync(file.fileno())
        whole = np.concatenate([self.item_ids, item_ids])
        self._replace(self._ids, whole)
        self.item_ids = whole

    def _replace(self, path: Path, numbers: Rows) -> None:
        with whole_file(path) as file:
            np.save(file, numbers)

    def images(self) -> Images:
        """All images, uint8 (n, px, px, 3), memory-mapped and read-only, in the order of `item_ids`."""
        shape = (len(self), self.image_px, self.image_px, 3)
        if len(self) == 0:
            return np.zeros(shape, np.uint8)
        return np.memmap(self._images, np.uint8, "r", shape=shape)

    def rows(self, item_ids: Rows) -> Rows:
        """Where the images of these items stand, int64. Raises KeyError naming the first without one."""
        item_ids = np.asarray(item_ids, np.int64)
        sorter = np.argsort(self.item_ids, kind="stable")
        places = np.searchsorted(self.item_ids, item_ids, sorter=sorter)
        found = np.take(sorter, places, mode="clip") if len(sorter) else np.zeros(len(item_ids), np.int64)
        absent = self.item_ids[found] != item_ids if len(sorter) else np.ones(len(item_ids), bool)
        if absent.any():
            raise KeyError(f"item {item_ids[absent][0]} has no decoded image here")
        return found


def _numbers(path: Path) -> Rows:
    return np.load(path, allow_pickle=False) if path.exists() else np.zeros(0, np.int64)


class Selection:
    """Some images of a pool in an order of their own, read when they are asked for: the pool stays on the disk.

    images: uint8 (n, px, px, 3), usually memory-mapped. rows: int64, which of them, in order. Stands in for an array
    where only length, shape and indexing by number, slice, mask or rows are used; `np.asarray` reads everything.
    """

    def __init__(self, images: Images, rows: Rows) -> None:
        self.images, self.rows = images, np.asarray(rows, np.int64)
        self.shape, self.dtype = (len(self.rows), *images.shape[1:]), images.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: Any) -> Images:
        return np.asarray(self.images[self.rows[which]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def only(self, wanted: NDArray[np.bool_]) -> Selection:
        """Those for which `wanted`, bool (n,), is true."""
        return Selection(self.images, self.rows[wanted])
