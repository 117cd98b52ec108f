"""Labelled images as people have them: folders and zips of class folders, and the bundled digits."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from sklearn.datasets import load_digits

from ml_worker.images import Images, UnreadableImage, decode, image_size, training_px
from ml_worker.pool import Rows

DIGITS = "digits"
# As a class-folder export of the product names the folders that are no classes: images of which people said that
# they belong to none, and those of which nobody said anything.
_NONE_OF_THESE, _UNLABELLED = "_none_of_these", "_unlabelled"
_MAX_FILE_BYTES = 64 * 2**20
_SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"}


class BadSource(ValueError):
    """The source cannot be back-tested; the message says why."""


@dataclass(frozen=True, eq=False)
class Source:
    """images: uint8 (N, px, px, 3). targets: int64 (N,), columns of classes, -1 for an image of none of them. skipped:
    (file name, why)."""

    images: Images
    targets: Rows
    classes: list[str]
    skipped: list[tuple[str, str]]


def load_source(source: str, image_px: int | None = None) -> Source:
    """Images and classes of a source; image_px: side of the squares, by default as the product chooses.

    Raises BadSource if nothing is there to read. A file that cannot be decoded is skipped and listed.
    """
    if source == DIGITS:
        return _digits()
    path = Path(source)
    if path.is_dir():
        return _decoded(list(_folder_files(path)), image_px, source)
    if path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _decoded(list(_zip_files(archive)), image_px, source)
    raise BadSource(f"{source} is neither 'digits' nor a folder or zip of class folders")


def _digits() -> Source:
    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=3)
    return Source(images, digits.target.astype(np.int64), [str(name) for name in digits.target_names], [])


_File = tuple[PurePosixPath, Callable[[], bytes]]


def _folder_files(root: Path) -> Iterator[_File]:
    for path in sorted(root.rglob("*")):
        if path.is_file():
            yield PurePosixPath(path.relative_to(root).as_posix()), partial(_read_file, path)


def _read_file(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise UnreadableImage(f"larger than {_MAX_FILE_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"cannot be read: {error.strerror}") from error


def _zip_files(archive: zipfile.ZipFile) -> Iterator[_File]:
    """Entries are read in memory and never written to disk; a name with .. in it is no class, so left out."""
    for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if not entry.is_dir() and not name.is_absolute() and ".." not in name.parts:
            yield name, partial(_read_entry, archive, entry)


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.file_size > _MAX_FILE_BYTES:
        raise UnreadableImage(f"larger than {_MAX_FILE_BYTES >> 20} MiB")
    try:
        with archive.open(entry) as file:
            return file.read(_MAX_FILE_BYTES)
    except (RuntimeError, NotImplementedError, zipfile.BadZipFile, EOFError, OSError, zlib.error) as error:
        raise UnreadableImage(f"cannot be read from the zip: {error}") from error


def _decoded(files: list[_File], image_px: int | None, source: str) -> Source:
    pictures = [(name, read) for name, read in files if _is_picture(name)]
    files = [(name, read) for name, read in pictures if _UNLABELLED not in name.parts]
    depth = _class_depth([name for name, _ in files if _NONE_OF_THESE not in name.parts])
    if depth is None:
        raise BadSource(f"{source} holds no class folders with images in them")
    px = image_px or _typical_px([read for _, read in files[:: max(1, len(files) // 50)]])
    images: list[Images] = []
    names: list[str | None] = []  # None: of none of the classes
    skipped: list[tuple[str, str]] = []
    if len(files) < len(pictures):
        skipped.append((_UNLABELLED, f"{len(pictures) - len(files)} images without a class"))
    first_of: dict[bytes, PurePosixPath] = {}  # copies are left out, as they are at import
    for name, read in files:
        try:
            if len(name.parts) <= depth + 1 and _NONE_OF_THESE not in name.parts:
                raise UnreadableImage("lies in no class folder")
            data = read()
            original = first_of.setdefault(hashlib.sha256(data).digest(), name)
            if original is not name:
                raise UnreadableImage(f"a copy of {original}")
            images.append(decode(data, px))
            names.append(None if _NONE_OF_THESE in name.parts else name.parts[depth])
        except UnreadableImage as error:
            skipped.append((str(name), str(error)))
    if not images:
        raise BadSource(f"{source} holds no image that can be read")
    classes = sorted({name for name in names if name is not None})
    column: dict[str | None, int] = {name: place for place, name in enumerate(classes)} | {None: -1}
    return Source(np.stack(images), np.asarray([column[name] for name in names], np.int64), classes, skipped)


def _is_picture(name: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return not hidden and name.suffix.lower() in _SUFFIXES


def _class_depth(names: list[PurePosixPath]) -> int | None:
    """Which part of a path names the class: the first where folders differ, the last folder where none do; None
    when there is no folder at all. So one folder around the class folders, as many zips have, is seen through."""
    deepest = max((len(name.parts) - 2 for name in names), default=-1)
    for depth in range(deepest + 1):
        folders = {name.parts[depth] for name in names if len(name.parts) > depth + 1}
        if len(folders) > 1 or depth == deepest:
            return depth
    return None


def _typical_px(reads: Sequence[Callable[[], bytes]]) -> int:
    sizes = []
    for read in reads:
        try:
            sizes.append(image_size(read()))
        except UnreadableImage:
            continue
    return training_px([w for w, _ in sizes], [h for _, h in sizes])
