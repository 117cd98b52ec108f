"""Winnow as a person runs it: `manage.py up` in a process of its own, for tests that need the real thing."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import psycopg

from annotator.settings import BASE_DIR, _socket_folder

START_TIMEOUT_S = 120
T = TypeVar("T")


def wait_until(question: Callable[[], T], timeout_s: float, what: str) -> T:
    """The first true answer to the question; fails naming `what` when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while not (answer := question()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain until {what}"
        time.sleep(0.1)
    return answer


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def slowed(process: psutil.Process) -> Iterator[None]:
    """Lets this process run in a sixth of the time: enough for its heartbeat, and others get ahead of it."""
    over = threading.Event()

    def stop_and_go() -> None:
        while not over.wait(0.2):
            process.suspend()
            over.wait(1.0)
            process.resume()

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class RunningSite:
    """One run of `up`. `lines`: what it printed."""

    def __init__(self, data: Path, *options: str, **environment: str) -> None:
        self.data = data
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.lines: list[str] = []
        self.environment = {**os.environ, "WINNOW_DATA": str(data), "PYTHONUNBUFFERED": "1", **environment}
        self.environment.pop("SECRET_KEY", None)  # the data folder's own
        self._process = subprocess.Popen(
            [sys.executable, "manage.py", "up", "--port", str(self.port), *options],
            cwd=BASE_DIR,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
        self._process.stdout.close()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait(self) -> "RunningSite":
        """Return once it serves."""
        wait_until(
            lambda: "Ctrl-C stops everything" in self.output or self._process.poll() is not None,
            START_TIMEOUT_S,
            f"the site started; it said {self.output!r}",
        )
        assert self._process.poll() is None, self.output
        return self

    @property
    def login_link(self) -> str:
        found = re.search(r"One-time login link: (\S+)", self.output)
        assert found, self.output
        return found[1]

    def processes(self) -> list[psutil.Process]:
        """Everything it started, PostgreSQL included."""
        found = psutil.Process(self._process.pid).children(recursive=True)
        for process in psutil.process_iter(["cmdline"]):
            if str(self.data) in " ".join(process.info["cmdline"] or []):
                found.append(process)
        return found

    def worker(self) -> psutil.Process:
        """The Celery worker's process."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        return wait_until(
            lambda: next((each for each in children if "worker" in each.cmdline()), None),
            10,
            "there was a worker",
        )

    @contextmanager
    def another_worker(self) -> Iterator[psutil.Popen]:
        """A second worker beside the site's own, started as on another machine."""
        celery = ["celery", "--app=ml_worker.celery:app", "--quiet", "worker", "--hostname=another@%h"]
        options = ["--pool=threads", "--concurrency=3", "--loglevel=WARNING", "--without-gossip", "--without-mingle"]
        process = psutil.Popen([sys.executable, "-m", *celery, *options], cwd=BASE_DIR, env=self.environment)
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Ask the site's own database."""
        host = str(_socket_folder(self.data / "postgres"))
        with psycopg.connect(host=host, port=5432, user="postgres", dbname="winnow") as connection:
            return connection.execute(sql, parameters).fetchall()

    def manage(self, *arguments: str, timeout_s: float = 120) -> str:
        """Run a management command beside it; what it printed. Fails when the command does."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=BASE_DIR,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def stop(self, number: int = signal.SIGINT) -> int:
        """Signal it as Ctrl-C would, wait, check that nothing of it is left. Returns its exit status."""
        if self._process.poll() is not None:
            return self._process.returncode
        started = self.processes()
        self._process.send_signal(number)
        status = self._process.wait(30)
        _, left = psutil.wait_procs(started, timeout=10)
        assert not left, f"left behind: {left}"
        self._reader.join(10)
        return status
