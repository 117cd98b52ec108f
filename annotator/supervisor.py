"""The processes under `manage.py up`: started, restarted when dead, stopped together, never left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

PARENT_FD = "WINNOW_PARENT_FD"
ORPHAN_GRACE_S = 3
LONGEST_PAUSE_S = 30
STEADY_S = 60  # a child that lived this long gets its next restart at once


def die_with_parent() -> None:
    """End this process when the one that started it is gone, even by SIGKILL.

    The supervisor holds the writing end of a pipe and never writes; the kernel closes it with the supervisor,
    and the read in the thread below returns. Without a supervisor this does nothing.
    """
    descriptor = os.environ.pop(PARENT_FD, None)  # taken out: a grandchild has no such descriptor
    if descriptor is None:
        return
    os.set_inheritable(int(descriptor), False)

    def watch() -> None:
        os.read(int(descriptor), 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_GRACE_S)
        os.killpg(os.getpgid(0), signal.SIGKILL)  # the group is this process's own, with all it started

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()


class Child:
    """One supervised process, `python -m <arguments>`.

    It has a session of its own, so that a Ctrl-C at the terminal reaches the supervisor alone.
    """

    def __init__(self, name: str, arguments: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.arguments = arguments
        self.folder = folder
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.pause_s = 0.0
        self.restart_at: float | None = None

    def start(self, parent_fd: int) -> None:
        self.restart_at = None
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *self.arguments],
            cwd=self.folder,
            env={**os.environ, **self.environment, PARENT_FD: str(parent_fd)},
            stdin=subprocess.DEVNULL,
            pass_fds=[parent_fd],
            start_new_session=True,
        )

    def tend(self, parent_fd: int) -> str | None:
        """Restart the process if it died, after a pause that doubles. Returns a sentence if it just died."""
        if self.process is None or self.process.poll() is None:
            return None
        now = time.monotonic()
        if self.restart_at is None:
            is_steady = now - self.started_at > STEADY_S
            self.pause_s = 1.0 if is_steady or not self.pause_s else min(2 * self.pause_s, LONGEST_PAUSE_S)
            self.restart_at = now + self.pause_s
            how = _ending(self.process.returncode)
            return f"the {self.name} ended ({how}); starting it again in {self.pause_s:.0f} s"
        if now >= self.restart_at:
            self.start(parent_fd)
        return None

    def stop(self, grace_s: float, is_in_a_hurry: Callable[[], bool]) -> None:
        """Ask the process to end, wait unless in a hurry, then kill it with everything it started."""
        if self.process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            self.process.terminate()
        deadline = time.monotonic() + grace_s
        while self.process.poll() is None and time.monotonic() < deadline and not is_in_a_hurry():
            time.sleep(0.02)
        # The group outlives its leader while a grandchild lives; one id, so nobody else's process is hit.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
