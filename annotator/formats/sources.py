"""Where images come from: a folder, a zip, a single file. Names are hostile until cleaned, and nothing is unpacked."""

import io
import os
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

from annotator.errors import InvalidImport

NAME_AT_MOST = 500
# Images hardly shrink in a zip; what unpacks to this many times its size is a bomb, not a picture.
RATIO_AT_MOST = 200
RATIO_FREE_BYTES = 1024 * 1024
ENTRIES_AT_MOST = 1_000_000
# Halves of a letter, as JSON may spell them. Those from DC80 to DCFF stand for bytes of a file name instead.
_LONE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
# How the kinds of images begin, which are no zips even where one is hidden at their end.
_IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_IGNORED_NAMES = {"thumbs.db", "desktop.ini", "ehthumbs.db"}


class UnreadableFile(ValueError):
    """This file of the source cannot be read; the message is the reason people read."""


@dataclass(frozen=True)
class SourceFile:
    """One file. name: its cleaned path inside the source. ``open`` may raise UnreadableFile."""

    name: str
    open: Callable[[], IO[bytes]]

    @property
    def is_ignored(self) -> bool:
        """Whether it is the litter of an operating system, which nobody meant to bring."""
        parts = self.name.split("/")
        return any(part.startswith(".") or part == "__MACOSX" for part in parts) or (
            parts[-1].lower() in _IGNORED_NAMES
        )

    @property
    def folder(self) -> str:
        """The name of the folder it lies in, empty at the top."""
        return self.name.split("/")[-2] if "/" in self.name else ""


def clean_name(name: str) -> str:
    """A path that is safe to show and store: no way up, no control characters, composed letters, 500 characters."""
    name = _LONE_SURROGATE.sub("\ufffd", name).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    name = unicodedata.normalize("NFC", name.replace("\\", "/"))
    name = "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
    parts = [part for part in name.split("/") if part.strip() not in ("", ".", "..")]
    name = "/".join(parts) or "unnamed"
    return name if len(name) <= NAME_AT_MOST else "…" + name[1 - NAME_AT_MOST :]


def folder_files(folder: Path) -> Iterator[SourceFile]:
    """Every file below the folder, in the order of the names. Links to folders are not followed."""
    root = folder.resolve()
    for where, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(where, name)
            yield SourceFile(clean_name(str(path.relative_to(root))), partial(open_file, path, within=root))


def listed_files(folder: Path, names: Iterable[str]) -> Iterator[SourceFile]:
    """The files of these names below the folder, each once; a name that leads out of it opens as unreadable."""
    root = folder.resolve()
    for name in dict.fromkeys(names):
        yield SourceFile(clean_name(name), partial(_open_listed, root, name))


def _open_listed(root: Path, name: str) -> IO[bytes]:
    try:
        path = (root / name).resolve()
    except (OSError, ValueError, RuntimeError):
        raise UnreadableFile("not a name of a file") from None
    if not path.is_relative_to(root):
        raise UnreadableFile("a name that leads out of the folder of the list")
    return open_file(path)


def open_file(path: Path, within: Path | None = None) -> IO[bytes]:
    """A regular file, opened. A pipe or a device would never end; a link must not lead out of ``within``."""
    try:
        if within is not None and path.is_symlink() and not path.resolve().is_relative_to(within):
            raise UnreadableFile("a link that leads out of the folder")
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableFile("not a regular file")
        return path.open("rb")
    except OSError as error:
        raise UnreadableFile(f"cannot be read: {error.strerror or error}") from None


def read(file: SourceFile, max_bytes: int) -> bytes:
    """The whole file, never more than max_bytes of it whatever its header says. Raises UnreadableFile."""
    try:
        with file.open() as opened:
            content = opened.read(max_bytes + 1)
    except UnreadableFile:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise UnreadableFile(f"damaged: {error}"[:200]) from None
    if len(content) > max_bytes:
        raise UnreadableFile(f"larger than {max_bytes // 2**20} MB")
    if not content:
        raise UnreadableFile("empty")
    return content


def is_zip(file: IO[bytes]) -> bool:
    """Whether the bytes begin like a zip, or end like one: a program that unpacks itself has its zip at the end."""
    file.seek(0)
    start = file.read(4)
    found = start in (b"PK\x03\x04", b"PK\x05\x06")
    if not found and not start.startswith(_IMAGE_STARTS):
        found = zipfile.is_zipfile(file)
    file.seek(0)
    return found


def open_zip(file: IO[bytes], name: str) -> zipfile.ZipFile:
    """The archive with its table of contents read. Raises InvalidImport where that is damaged or absurd."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError) as error:
        raise InvalidImport(f"{name} is not a whole zip file ({error}); was it cut off on the way?") from None
    entries = archive.infolist()
    if len(entries) > ENTRIES_AT_MOST:
        raise InvalidImport(f"{name} holds {len(entries):,} files; split it, at most {ENTRIES_AT_MOST:,} are taken")
    file.seek(0, io.SEEK_END)
    if sum(entry.compress_size for entry in entries) > file.tell():
        raise InvalidImport(f"{name} names the same bytes several times, as a zip bomb does; zip the images anew")
    return archive


def zip_files(archive: zipfile.ZipFile) -> Iterator[SourceFile]:
    """Every file of the archive, in its order; each is read from the archive, none is written by its name.

    One folder around everything else is left out, as it is when that folder itself is imported.
    """
    files = [
        SourceFile(clean_name(_zip_name(entry)), partial(_open_entry, archive, entry))
        for entry in archive.infolist()
        if not entry.is_dir()
    ]
    return iter(without_wrapper(files))


def without_wrapper(files: list[SourceFile]) -> list[SourceFile]:
    """The files without the one folder around them all, where there is such a folder."""
    wrapper = _wrapper([file.name for file in files if not file.is_ignored])
    return [replace(file, name=file.name.removeprefix(wrapper)) for file in files]


def _wrapper(names: list[str]) -> str:
    """The folder, with its slash, around all others; empty where there is none: the only folder is a class."""
    top = names[0].split("/")[0] + "/" if names else "/"
    is_around = all(name.startswith(top) for name in names) and any(name.count("/") > 1 for name in names)
    return top if is_around else ""


def _zip_name(entry: zipfile.ZipInfo) -> str:
    """The name as meant: many programs write UTF-8 without saying so, which reads as the letters of 1981."""
    if entry.flag_bits & 0x800:
        return entry.filename
    try:
        return entry.orig_filename.encode("cp437").decode("utf-8")
    except ValueError:
        return entry.filename


def _open_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes]:
    if entry.filename.startswith("/") or ".." in entry.filename.replace("\\", "/").split("/"):
        raise UnreadableFile("its name leads out of the archive")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise UnreadableFile("a link, not a file")
    if entry.flag_bits & 0x1:
        raise UnreadableFile("locked with a password")
    if entry.file_size > RATIO_FREE_BYTES and entry.file_size > RATIO_AT_MOST * max(1, entry.compress_size):
        raise UnreadableFile(f"unpacks to more than {RATIO_AT_MOST} times its size, as a zip bomb does")
    try:
        return archive.open(entry)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise UnreadableFile(f"damaged in the zip: {error}") from None
