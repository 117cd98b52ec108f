"""Rows as JSON Lines: one object a line, UTF-8, absent values as null."""

import json
from collections.abc import Iterable, Iterator

from annotator.formats.rows import Row


def write(rows: Iterable[Row]) -> Iterator[bytes]:
    """The file, line by line."""
    for row in rows:
        yield json.dumps(row.as_json(), ensure_ascii=False).encode() + b"\n"
