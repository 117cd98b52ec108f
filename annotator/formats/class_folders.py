"""A zip with one folder for each class, written while it is sent: only one image is in memory at a time.

Folder and file names are made safe for every operating system; what would then collide is told apart. ``labels.csv``
at the end holds the true names and everything else that is known, with the path in the zip as its last column. The
path of an image that is missing from storage is empty, and ``problems.txt`` says why.
"""

import contextlib
import csv
import io
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

from annotator.formats import csv_rows
from annotator.formats.rows import COLUMNS, Row

# Folders that are no classes, here and when such a zip is imported again.
NONE_OF_THESE, UNLABELLED = "_none_of_these", "_unlabelled"
NOT_A_CLASS = (NONE_OF_THESE, UNLABELLED)

MANIFEST = "labels.csv"
CLASSES = "classes.txt"
PROBLEMS = "problems.txt"
_SUFFIXES = {
    "image/png": (".png",),
    "image/jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "image/webp": (".webp",),
    "image/gif": (".gif",),
    "image/bmp": (".bmp", ".dib"),
    "image/tiff": (".tif", ".tiff"),
}
# Letters that some operating system refuses in a name, and names that Windows keeps for itself.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_NAME_AT_MOST = 150
# Dates in a zip have no time zone and begin here; a fixed one makes equal exports equal files.
_DATE = (1980, 1, 1, 0, 0, 0)
_CHUNK = 256 * 1024


@dataclass(frozen=True)
class ImageRow:
    """A row, the mime type of its image, and how to open its bytes."""

    row: Row
    mime: str
    open: Callable[[], IO[bytes]]


def safe_name(name: str) -> str:
    """The name as one folder or file name on any operating system; different names may become the same."""
    name = _UNSAFE.sub("_", name).strip().rstrip(". ")[:_NAME_AT_MOST].rstrip(". ") or "_"
    return f"_{name}" if name.startswith(".") or _RESERVED.match(name) else name


def folder_names(classes: Iterable[str]) -> dict[str, str]:
    """A folder for each class name, all different even where letters are compared without case."""
    taken = {name.casefold() for name in NOT_A_CLASS}
    folders = {}
    for name in classes:
        folder, number = safe_name(name), 1
        while folder.casefold() in taken:
            number += 1
            folder = f"{safe_name(name)} ({number})"
        taken.add(folder.casefold())
        folders[name] = folder
    return folders


def write(images: Iterable[ImageRow], classes: list[str], problems: list[str] | None = None) -> Iterator[bytes]:
    """The zip in pieces. classes: every class name of the rows, in the project's order, which classes.txt keeps.

    problems: receives a sentence for each image that could not be opened.
    """
    problems = [] if problems is None else problems
    pipe = _Pipe()
    folders = folder_names(classes)
    taken: set[int] = set()  # hashes: a false alarm only makes a name longer
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive, tempfile.TemporaryFile() as manifest:
        manifest.write(_line([*COLUMNS, "path"]))
        for image in images:
            path = ""
            # Opened before its entry begins: an entry once begun cannot be taken back.
            with contextlib.ExitStack() as stack:
                try:
                    source = stack.enter_context(image.open())
                    chunk = source.read(_CHUNK)
                except OSError as error:
                    problems.append(_problem(image.row, error))
                else:
                    path = _path(image, folders, taken)
                    with archive.open(_entry(path), "w", force_zip64=True) as target:
                        while chunk:
                            target.write(chunk)
                            yield pipe.taken()
                            chunk = source.read(_CHUNK)
            manifest.write(_line([*csv_rows.cells(image.row), csv_rows.guarded(path)]))
        manifest.seek(0)
        with archive.open(_entry(MANIFEST), "w", force_zip64=True) as target:
            while chunk := manifest.read(_CHUNK):
                target.write(chunk)
                yield pipe.taken()
        archive.writestr(_entry(CLASSES), "".join(f"{' '.join(name.split())}\n" for name in classes))
        if problems:
            archive.writestr(_entry(PROBLEMS), "".join(f"{problem}\n" for problem in problems))
    yield pipe.taken()


def _problem(row: Row, error: OSError) -> str:
    return f"{row.file_name} (item {row.item_id}) is not in this zip: {error.strerror or error}"


def _path(image: ImageRow, folders: dict[str, str], taken: set[int]) -> str:
    row = image.row
    folder = folders[row.label] if row.label else NONE_OF_THESE if row.origin == "none_of_these" else UNLABELLED
    name = PurePosixPath(safe_name(row.file_name.rsplit("/", 1)[-1]))
    suffixes = _SUFFIXES.get(image.mime, (name.suffix,))
    stem, suffix = (name.stem, name.suffix) if name.suffix.lower() in suffixes else (str(name), suffixes[0])
    for candidate in (stem, f"{stem}-{row.sha256[:8]}", f"{stem}-{row.sha256}"):
        path = f"{folder}/{candidate}{suffix}"
        key = hash(path.casefold())
        if key not in taken:
            break
    taken.add(key)
    return path


def _entry(path: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(path, _DATE)
    entry.external_attr = 0o644 << 16
    return entry


def _line(cells: list[Any]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue().encode()


class _Pipe(io.RawIOBase):
    """Where the zip writes to: keeps what was written until it is taken. Not seekable, so sizes follow the data."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._pieces.append(bytes(piece))
        return len(piece)

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
