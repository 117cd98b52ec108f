"""The data folder, the PostgreSQL server in it, and the processes beside it, one at a time."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from annotator import embedded, supervisor
from annotator.embedded import CannotStart, DataFolderInUse, Postgres
from annotator.settings import BASE_DIR, _socket_folder
from annotator.supervisor import Child
from tests.running_site import wait_until


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def dead_process() -> int:
    """An id that no process has any more."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    return gone.pid


# --- the data folder ---------------------------------------------------------------------------------------


def test_a_new_data_folder_is_closed_to_others(tmp_path: Path) -> None:
    embedded.make_folders(tmp_path / "data", tmp_path / "elsewhere")
    assert mode(tmp_path / "data") == mode(tmp_path / "data" / "media") == mode(tmp_path / "elsewhere") == 0o700


def test_the_key_is_made_once_and_readable_by_this_user_alone(tmp_path: Path) -> None:
    key = embedded.keep_secret_key(tmp_path)
    assert len(key) > 50
    assert embedded.keep_secret_key(tmp_path) == key
    assert mode(tmp_path / "secret_key") == 0o600


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with embedded.locked(tmp_path) as was_killed:
        assert not was_killed
        with (
            pytest.raises(DataFolderInUse, match=f"in use by another Winnow .process {os.getpid()}"),
            embedded.locked(tmp_path),
        ):
            pass
    with embedded.locked(tmp_path) as was_killed:
        assert not was_killed


def test_the_next_holder_learns_that_the_last_was_killed(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(f"{dead_process()}\n")
    with embedded.locked(tmp_path) as was_killed:
        assert was_killed


def test_a_folder_that_a_dead_holders_guard_clears_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(f"{dead_process()}\n")
    hold = (
        "import fcntl, sys, time\n"
        "lock = open(sys.argv[1], 'a')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "time.sleep(1)\n"
    )
    guard = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "lock")], stdout=subprocess.PIPE)
    assert guard.stdout is not None
    guard.stdout.readline()
    with embedded.locked(tmp_path) as was_killed:
        assert was_killed
    guard.communicate()


# --- the server --------------------------------------------------------------------------------------------


def make_server(data: Path) -> Postgres:
    embedded.make_folders(data)
    folder = data / "postgres"
    return Postgres(folder, _socket_folder(folder), data / "logs" / "postgres.log")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Postgres]:
    """A server that is not started yet, under a path that no shell likes."""
    made = make_server(tmp_path / 'it\'s "här" $HOME')
    yield made
    made.stop(at_once=True)


def ask(server: Postgres, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(
        host=str(server.socket_folder), port=5432, user="postgres", dbname="postgres", autocommit=True
    ) as connection:
        cursor = connection.execute(sql)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


def test_it_starts_once_keeps_what_it_is_given_and_comes_back_after_a_kill(server: Postgres) -> None:
    server.start()
    assert ask(server, "SHOW listen_addresses") == [("",)]
    assert ask(server, "SHOW synchronous_commit") == [("on",)]
    assert (server.create_database("pets"), server.create_database("pets")) == (True, False)
    ask(server, "CREATE TABLE kept AS SELECT 7 AS number")

    first = server.process()
    assert first is not None
    server.start()
    assert server.process() == first, "the one that runs is taken over"

    first.kill()
    first.wait(10)
    assert (server.folder / "postmaster.pid").exists(), "as after a power cut"
    server.start()
    assert server.process() != first
    assert ask(server, "SELECT number FROM kept") == [(7,)]

    server.stop()
    assert server.process() is None
    assert not (server.folder / "postmaster.pid").exists()
    server.stop()  # a second time there is nothing to do

    # The operating system gave the id to another program in the meantime.
    (server.folder / "postmaster.pid").write_text(f"{os.getpid()}\n")
    assert server.process() is None
    server.start()
    assert ask(server, "SELECT number FROM kept") == [(7,)]


@pytest.mark.slow
def test_what_a_killed_server_left_running_ends_before_the_next_starts(server: Postgres) -> None:
    server.start()
    process = server.process()
    assert process is not None
    children = process.children()
    stopped = children[0]
    stopped.suspend()  # it cannot notice that its server is gone
    process.kill()
    process.wait(10)
    assert stopped.is_running()
    server.start()
    assert not stopped.is_running() or stopped.status() == psutil.STATUS_ZOMBIE
    assert server.is_accepting()


def test_a_first_start_cut_short_is_done_again(server: Postgres) -> None:
    half = server.folder.with_name("postgres.new")
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    server.start()
    assert server.is_accepting()
    assert not half.exists()


def test_why_it_did_not_start_is_in_the_sentence(server: Postgres) -> None:
    server.start()
    server.stop()
    with (server.folder / "postgresql.conf").open("a") as configuration:
        configuration.write("nonsense = 1\n")
    with pytest.raises(CannotStart, match=r"did not start: configuration file .* contains errors \(see /.*log\)$"):
        server.start()
    assert server.process() is None


def test_files_of_another_version_are_left_alone(server: Postgres) -> None:
    server.folder.mkdir()
    (server.folder / "PG_VERSION").write_text("14\n")
    with pytest.raises(CannotStart, match="was made by PostgreSQL 14, and this Winnow brings PostgreSQL 18"):
        server.start()
    assert [path.name for path in server.folder.iterdir()] == ["PG_VERSION"]


def test_a_socket_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    server = make_server(tmp_path / ("x" * 120))
    server.socket_folder.mkdir(mode=0o777)
    try:
        with pytest.raises(CannotStart, match="belongs to somebody else; remove it or give WINNOW_DATA a shorter"):
            server.start()
    finally:
        server.socket_folder.rmdir()


def test_a_path_too_long_for_a_socket_works_and_leaves_nothing_in_tmp(tmp_path: Path) -> None:
    server = make_server(tmp_path / ("x" * 120))
    server.start()
    try:
        assert server.socket_folder.parent == Path("/tmp")
        assert ask(server, "SELECT 1") == [(1,)]
    finally:
        server.stop()
    assert not server.socket_folder.exists()


def test_a_long_log_is_put_aside(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOG_BYTES_KEPT", 10)
    server.log.write_text("more than ten bytes\n")
    server.start()
    assert server.log.with_suffix(".log.1").read_text() == "more than ten bytes\n"


# --- the processes -----------------------------------------------------------------------------------------


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    """A process that runs `sleeper.py`: it starts a grandchild, writes both ids, and sleeps."""
    (tmp_path / "sleeper.py").write_text(
        "import os, subprocess, sys, time\n"
        "from annotator.supervisor import die_with_parent\n"
        "die_with_parent()\n"
        "grandchild = subprocess.Popen(['sleep', '100'])\n"
        "open('ids.part', 'w').write(f'{os.getpid()} {grandchild.pid}')\n"
        "os.rename('ids.part', 'ids')\n"
        "time.sleep(100)\n"
    )
    made = Child("sleeper", ["sleeper"], tmp_path, {"PYTHONPATH": str(BASE_DIR)})
    yield made
    made.stop(0, lambda: True)


def ids(folder: Path) -> list[psutil.Process]:
    wait_until(lambda: (folder / "ids").exists(), 20, "the child ran")
    return [psutil.Process(int(number)) for number in (folder / "ids").read_text().split()]


def test_a_stopped_child_takes_its_own_children_along(child: Child, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child.start(reading)
    both = ids(tmp_path)
    child.stop(5, lambda: False)
    assert not psutil.wait_procs(both, timeout=5)[1]
    os.close(reading)
    os.close(writing)


def test_a_child_ends_with_its_parent(child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    child.start(reading)
    os.close(reading)
    sleeper, _ = ids(tmp_path)
    os.close(writing)  # what the kernel does when the parent is gone
    assert child.process is not None
    assert child.process.wait(10) == -signal.SIGTERM
    with suppress(psutil.NoSuchProcess):
        sleeper.wait(10)


def test_a_child_that_keeps_dying_is_started_more_and_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE_S", 4)
    now = 1000.0
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now)
    child = Child("worker", ["broken"], tmp_path, {})
    reading, writing = os.pipe()
    child.start(reading)
    said = []
    for _ in range(4):
        assert child.process is not None
        child.process.wait()
        said.append(child.tend(reading))
        before = child.process
        now += child.pause_s - 0.1
        assert child.tend(reading) is None
        assert child.process is before, "not yet"
        now += 0.2
        child.tend(reading)
        assert child.process is not before
    pauses = [1, 2, 4, 4]
    assert said == [f"the worker ended (exit code 3); starting it again in {pause} s" for pause in pauses]
    # One that lived long enough is trusted again.
    assert child.process is not None
    child.process.wait()
    now += supervisor.STEADY_S + 1
    assert child.tend(reading) == "the worker ended (exit code 3); starting it again in 1 s"
    os.close(reading)
    os.close(writing)


@pytest.mark.slow
def test_the_guard_stops_the_server_of_a_killed_process(tmp_path: Path) -> None:
    data = tmp_path / "data"
    server = make_server(data)
    code = (
        "import os, time, django; django.setup()\n"
        "from django.conf import settings\n"
        "from annotator import embedded\n"
        "server = embedded.Postgres.from_settings()\n"
        "with embedded.locked(settings.WINNOW_DATA), embedded.guarded(settings.WINNOW_DATA):\n"
        "    server.start(); print('up', flush=True); time.sleep(100)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=BASE_DIR,
        env={**os.environ, "WINNOW_DATA": str(data)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "up\n"
    running = server.process()
    assert running is not None
    began = time.monotonic()
    holder.kill()
    holder.communicate()
    running.wait(15)
    assert time.monotonic() - began < 15
    assert not (server.folder / "postmaster.pid").exists(), "it was stopped, not killed"
