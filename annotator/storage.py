"""Where item files lie when there is no object store: the data folder."""

import tempfile
from pathlib import Path

from django.core.files.base import File
from django.core.files.storage import FileSystemStorage


class AtomicFileStorage(FileSystemStorage):
    """A file is there whole or not at all, and writing it again replaces it, as in an object store.

    Two imports of the same image, or one that was killed and starts over, then never see half a file.
    """

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        """The name itself: whoever saves under a name means that one."""
        return name

    def _save(self, name: str, content: "File[bytes]") -> str:
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".part-", delete=False) as file:
            part = Path(file.name)
            try:
                for chunk in content.chunks():
                    file.write(chunk)
                file.flush()
                part.chmod(self.file_permissions_mode or 0o644)
                part.replace(target)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        return name
