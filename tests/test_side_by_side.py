"""The same work here and in processes beside, and what ends with them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from annotator.settings import BASE_DIR
from ml_worker.side_by_side import SideBySide, WorkerDied
from tests.running_site import wait_until


def square(number: int, say: Callable[..., None]) -> int:
    say("thinking about", number)
    return number * number


def fail(number: int, say: Callable[..., None]) -> None:
    raise ValueError(f"{number} is not to be had")


def last(number: int, say: Callable[..., None]) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def sleep(path: str, say: Callable[..., None]) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def everything(processes: int) -> tuple[dict[int, int], list[tuple[int, str, int]]]:
    heard: list[tuple[int, str, int]] = []
    with SideBySide(processes) as workers:
        found = dict(workers.results(square, [2, 3, 4], lambda place, *words: heard.append((place, *words))))
    return found, sorted(heard)


def test_with_one_process_everything_happens_here_in_turn() -> None:
    assert everything(1) == (
        {0: 4, 1: 9, 2: 16},
        [(0, "thinking about", 2), (1, "thinking about", 3), (2, "thinking about", 4)],
    )


@pytest.mark.slow
def test_two_processes_find_and_say_the_same() -> None:
    assert everything(2) == everything(1)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_the_work_raises_ends_everything(processes: int) -> None:
    with SideBySide(processes) as workers, pytest.raises(ValueError, match="is not to be had"):
        list(workers.results(fail, [1, 2], lambda *words: None))


@pytest.mark.slow
def test_a_process_that_is_killed_from_outside_is_said_to_be_missing() -> None:
    with SideBySide(2) as workers, pytest.raises(WorkerDied, match="ended from outside"):
        list(workers.results(last, [1, 2], lambda *words: None))


@pytest.mark.slow
def test_whoever_stops_listening_ends_what_runs_at_once(tmp_path: Path) -> None:
    noted = [tmp_path / name for name in ("a", "b")]

    def tick() -> None:
        if all(path.exists() and path.read_text() for path in noted):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), SideBySide(2) as workers:
        list(workers.results(sleep, [str(path) for path in noted], lambda *words: None, tick))
    assert not any(psutil.pid_exists(int(path.read_text())) for path in noted)


@pytest.mark.slow
def test_the_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    noted = tmp_path / "a"
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(BASE_DIR)!r})\n"
        "from ml_worker.side_by_side import SideBySide\n"
        "from tests.test_side_by_side import sleep\n"
        "if __name__ == '__main__':\n"
        "    with SideBySide(1, polite=True) as workers:\n"
        f"        list(workers.results(sleep, [{str(noted)!r}], print))\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: noted.exists() and noted.read_text() != "", 60, "it works")
        child = int(noted.read_text())
        parent.kill()
        parent.wait()
        wait_until(
            lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie", 20, "it has ended"
        )
    finally:
        parent.kill()
        parent.wait()
