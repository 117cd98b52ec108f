"""How this process rings for a worker: a Celery application that only sends, and the folder as a broker."""

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):
    """Kombu's folder of messages, where a message appears whole.

    Kombu opens the file under its final name and then writes; a reader in between takes an empty file, and
    the worker dies of it (21 of 5,000 messages in a tight loop). A rename closes the gap.
    """

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:  # type: ignore[override]  # as kombu's own
        # Names are read in order: the oldest message first.
        final = Path(self.data_folder_out) / f"{time.time_ns():020}_{uuid4().hex}.{queue}.msg"
        partial = final.with_suffix(".part")
        partial.write_text(dumps(payload))
        partial.rename(final)


class Transport(filesystem.Transport):
    Channel = Channel

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:  # type: ignore[override]
        """Celery waits two seconds for a message before it looks whether it should stop; half a one will do."""
        super().drain_events(connection, timeout=None if timeout is None else min(timeout, 0.5))


TRANSPORT_ALIASES["filesystem"] = "annotator.broker:Transport"

app = Celery("annotator")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.set_default()  # celery.current_app in every thread; Celery by itself sets it in this thread only
