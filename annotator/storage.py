"""Where item files lie when there is no object store: the data folder."""

import errno
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
        if self._moved(content, target):
            return name
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".part-", delete=False) as file:
            part = Path(file.name)
            try:
                for chunk in content.chunks():
                    file.write(chunk)
                file.flush()
                part.chmod(self._mode)
                part.replace(target)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        return name

    def _moved(self, content: "File[bytes]", target: Path) -> bool:
        """Whether the content was a temporary file on the same disk, and is now the target: no second copy needs room.

        Whoever made the temporary file must allow for its absence, as Django's and our own uploads do.
        """
        if not hasattr(content, "temporary_file_path"):
            return False
        source = Path(content.temporary_file_path())
        try:
            source.chmod(self._mode)
            source.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return False
        return True

    @property
    def _mode(self) -> int:
        return self.file_permissions_mode or 0o644
