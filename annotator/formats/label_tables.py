"""A table that says which file shows which class: CSV, or JSON Lines, with whatever column names it came with."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from annotator.errors import InvalidImport
from annotator.formats.csv_rows import unguarded
from annotator.formats.sources import clean_name

FILE_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_path", "name")
LABEL_COLUMNS = ("label", "class", "category", "target", "labels")


class LabelTable:
    """Labels by file. Paths are compared cleaned; a table may name more or fewer leading folders than the source."""

    def __init__(self, rows: Iterator[dict[str, Any]], name: str) -> None:
        """rows: as ``read_rows`` gives them. Raises InvalidImport for a file with two labels, or no usable column."""
        self.by_path: dict[str, str] = {}
        self._of_file: dict[str, str] = {}
        # Rows that name no file, and rows that may mean several: nobody is labelled by guessing.
        self.unmatched: list[str] = []
        self.ambiguous: list[str] = []
        for number, row in enumerate(rows, start=1):
            path = clean_name(column(row, FILE_COLUMNS, name))
            label = column(row, LABEL_COLUMNS, name)
            if self.by_path.setdefault(path, label) != label:
                raise InvalidImport(
                    f"{name}, row {number}: {path} is labelled {label!r}, before that {self.by_path[path]!r}"
                )

    def match(self, files: Iterable[str]) -> None:
        """Find the file that each row means among these cleaned paths: by its path, or as the only one so called."""
        base_names: dict[str, list[str]] = {}
        for row in self.by_path:
            base_names.setdefault(PurePosixPath(row).name, []).append(row)
        meant: dict[str, list[str]] = {row: [] for row in self.by_path}
        for file in dict.fromkeys(files):
            meant_by = self._row_of(file, base_names)
            if meant_by is not None:
                meant[meant_by].append(file)
        for row, found in meant.items():
            if row in found:
                found = [row]
            if len(found) == 1:
                self._of_file[found[0]] = self.by_path[row]
        self.unmatched = [row for row, found in meant.items() if not found]
        self.ambiguous = [row for row, found in meant.items() if len(found) > 1 and row not in found]

    def _row_of(self, file: str, base_names: dict[str, list[str]]) -> str | None:
        parts = file.split("/")
        for start in range(len(parts)):
            if (row := "/".join(parts[start:])) in self.by_path:
                return row
        # The table may name more leading folders than the source has.
        rows = [row for row in base_names.get(parts[-1], []) if row.endswith(f"/{file}")]
        return rows[0] if len(rows) == 1 else None

    def label_of(self, path: str) -> str:
        """The label of the file with this cleaned path, after ``match``; empty when no row means it."""
        return self._of_file.get(path, "")


def read_rows(file: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    """One dictionary a row, keys in lower case. JSON Lines where the first line begins with a brace, CSV otherwise."""
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    try:
        first = text.readline()
        text.seek(0)
        if first.lstrip().startswith("{"):
            yield from _json_lines(text, name)
        else:
            yield from _csv_rows(text, first, name)
    except UnicodeDecodeError:
        raise InvalidImport(f"{name} is not text in UTF-8; save it as UTF-8 and try again") from None
    except csv.Error as error:
        raise InvalidImport(f"{name} is not a CSV file that can be read: {error}") from None
    finally:
        text.detach()


def _csv_rows(text: io.TextIOWrapper, header: str, name: str) -> Iterator[dict[str, Any]]:
    delimiter = max(",;\t", key=header.count)
    rows = csv.DictReader(text, delimiter=delimiter)
    _refuse_twins(rows.fieldnames or [], name)
    for row in rows:
        yield {_key(key): unguarded(value or "") for key, value in row.items() if key is not None}


class _Object(dict[str, Any]):
    """A JSON object that still knows which of its names were there twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.names = [name for name, _ in pairs]


def _json_lines(text: io.TextIOWrapper, name: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_Object)
        except (ValueError, RecursionError):
            raise InvalidImport(f"{name}, line {number}: not JSON") from None
        if not isinstance(row, _Object):
            raise InvalidImport(f"{name}, line {number}: not a JSON object")
        _refuse_twins(row.names, f"{name}, line {number},")
        yield {_key(key): value for key, value in row.items()}


def _key(name: str) -> str:
    """A column's name as it is compared, and fit to be shown."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name).strip().lower()


def _refuse_twins(names: Iterable[str], table: str) -> None:
    """Raises InvalidImport when a column that is read is there twice: nobody can say which of them is meant."""
    counts = Counter(map(_key, names))
    for name in (*FILE_COLUMNS, *LABEL_COLUMNS):
        if counts[name] > 1:
            raise InvalidImport(f"{table} has the column {name!r} {counts[name]} times; rename all but one of them")


def column(row: dict[str, Any], names: tuple[str, ...], table: str) -> str:
    """The text in the first of these columns that the row has. Raises InvalidImport when it has none of them."""
    for name in names:
        if name in row:
            value = row[name]
            if isinstance(value, list) and len(value) <= 1:
                value = value[0] if value else ""
            if isinstance(value, list | dict):
                raise InvalidImport(f"{table}: column {name!r} holds several values; an image has one class")
            return "" if value is None else str(value).strip()
    raise InvalidImport(f"{table} has no column {' or '.join(names[:3])}; it has {', '.join(map(str, row)) or 'none'}")
