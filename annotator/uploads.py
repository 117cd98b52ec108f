"""Receiving many files in one request without holding them: each is on disk, and closed, before the next begins.

Django's own handler keeps every file of a request open to its end, and a process may have about a thousand open.
"""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import IO, Any, Self

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler

from annotator.actions.importing import no_room


class ArrivedFile(UploadedFile):
    """An upload that lies closed on disk until it is opened; gone when the request ends, unless it was moved away."""

    def __init__(self, path: Path, name: str, size: int, content_type: str | None) -> None:
        super().__init__(None, name, content_type, size)
        self.path = path

    def temporary_file_path(self) -> str:
        """Lets storage on the same disk move the file instead of copying it."""
        return str(self.path)

    def open(self, mode: str | None = None, *_: Any, **__: Any) -> Self:
        if self.file is None or self.file.closed:
            self.file = self.path.open("rb")
        self.file.seek(0)
        return self

    def __exit__(self, *_: object) -> None:
        """Close, and stay on disk."""
        if self.file is not None:
            self.file.close()

    def close(self) -> None:
        """The request is over."""
        self.__exit__()
        self.path.unlink(missing_ok=True)


class ClosingUploadHandler(FileUploadHandler):
    """Writes each file to FILE_UPLOAD_TEMP_DIR and closes it. Raises InvalidImport where there is no room for it."""

    def __init__(self, request: Any = None) -> None:
        super().__init__(request)
        self._writing: IO[bytes] | None = None

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        try:
            handle, path = tempfile.mkstemp(prefix="upload-", dir=settings.FILE_UPLOAD_TEMP_DIR)
        except OSError as error:
            raise no_room(error) from None
        self._path, self._writing = Path(path), os.fdopen(handle, "wb")

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        assert self._writing is not None
        try:
            self._writing.write(raw_data)
        except OSError as error:
            self.upload_interrupted()
            raise no_room(error) from None

    def file_complete(self, file_size: int) -> ArrivedFile:
        assert self._writing is not None
        try:
            self._writing.close()  # writes what is left
        except OSError as error:
            self.upload_interrupted()
            raise no_room(error) from None
        self._writing = None
        return ArrivedFile(self._path, self.file_name or "unnamed", file_size, self.content_type)

    def upload_interrupted(self) -> None:
        if self._writing is not None:
            with contextlib.suppress(OSError):
                self._writing.close()
            self._writing = None
            self._path.unlink(missing_ok=True)
