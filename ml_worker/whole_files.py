"""Files that a crash leaves as they were or as they were to be, never half of either."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: Path, writer: str = "") -> Iterator[IO[bytes]]:
    """A file to write bytes into, which takes the name `path` at the end, and not after an error. Its folder is made.

    writer: a name for whoever writes, where several may write the same path at once; the later one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}{writer.replace('/', '_')}.part")
    with unfinished.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
