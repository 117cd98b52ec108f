"""A table that says which file shows which class: CSV, or JSON Lines, with whatever column names it came with."""

import csv
import io
import json
from collections.abc import Iterator
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
        self._by_base_name: dict[str, str | None] = {}  # None: several files of this name, so it says nothing
        for number, row in enumerate(rows, start=1):
            path = clean_name(column(row, FILE_COLUMNS, name))
            label = column(row, LABEL_COLUMNS, name)
            if self.by_path.setdefault(path, label) != label:
                raise InvalidImport(
                    f"{name}, row {number}: {path} is labelled {label!r}, before that {self.by_path[path]!r}"
                )
        for path, label in self.by_path.items():
            base_name = PurePosixPath(path).name
            known = self._by_base_name.setdefault(base_name, label)
            if known != label:
                self._by_base_name[base_name] = None

    def label_of(self, path: str) -> str:
        """The label of the file with this cleaned path; empty when the table does not name it."""
        parts = path.split("/")
        for start in range(len(parts)):
            if (label := self.by_path.get("/".join(parts[start:]))) is not None:
                return label
        return self._by_base_name.get(parts[-1]) or ""


def read_rows(file: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    """One dictionary a row, keys in lower case. JSON Lines where the first line begins with a brace, CSV otherwise."""
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    try:
        first = text.readline()
        text.seek(0)
        if first.lstrip().startswith("{"):
            yield from _json_lines(text, name)
        else:
            yield from _csv_rows(text, first)
    except UnicodeDecodeError:
        raise InvalidImport(f"{name} is not text in UTF-8; save it as UTF-8 and try again") from None
    except csv.Error as error:
        raise InvalidImport(f"{name} is not a CSV file that can be read: {error}") from None
    finally:
        text.detach()


def _csv_rows(text: io.TextIOWrapper, header: str) -> Iterator[dict[str, Any]]:
    delimiter = max(",;\t", key=header.count)
    for row in csv.DictReader(text, delimiter=delimiter):
        yield {str(key).strip().lower(): unguarded(value or "") for key, value in row.items() if key is not None}


def _json_lines(text: io.TextIOWrapper, name: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise InvalidImport(f"{name}, line {number}: not JSON") from None
        if not isinstance(row, dict):
            raise InvalidImport(f"{name}, line {number}: not a JSON object")
        yield {key.strip().lower(): value for key, value in row.items()}


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
