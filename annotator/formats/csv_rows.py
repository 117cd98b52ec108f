"""Rows as CSV: UTF-8, a header, quotes where needed, and no cell that a spreadsheet would run.

A cell that begins like a formula (= + - @, their full-width twins, tab, line break) gets an apostrophe before it, and
so does one that begins with an apostrophe followed by one of these; ``unguarded`` takes exactly one away again. So
what is read back is what was written, and a label that begins with a plain apostrophe stays as it is.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from annotator.formats.rows import COLUMNS, Row

FORMULA_STARTS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
_BATCH = 500


def guarded(cell: str) -> str:
    """The cell, harmless to a spreadsheet."""
    return f"'{cell}" if cell.lstrip("'")[:1] in tuple(FORMULA_STARTS) else cell


def unguarded(cell: str) -> str:
    """The cell as it was before ``guarded``."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'")[:1] in tuple(FORMULA_STARTS) else cell


def write(rows: Iterable[Row]) -> Iterator[bytes]:
    """The file in pieces."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)  # lines end in CR LF (RFC 4180); with LF alone Python 3.11 leaves a CR unquoted
    writer.writerow(COLUMNS)
    for number, row in enumerate(rows, start=1):
        writer.writerow(cells(row))
        if number % _BATCH == 0:
            yield _emptied(buffer)
    yield _emptied(buffer)


def cells(row: Row) -> list[Any]:
    """The row's cells in the order of COLUMNS, each harmless."""
    named = row.as_json() | {"annotators": "|".join(row.annotators)}
    return [guarded(named[name]) if isinstance(named[name], str) else named[name] for name in COLUMNS]


def _emptied(buffer: io.StringIO) -> bytes:
    written = buffer.getvalue().encode()
    buffer.seek(0)
    buffer.truncate()
    return written
