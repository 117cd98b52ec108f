"""`manage.py up` as a person meets it: it serves, it stops whole, and what is in its way gets one sentence."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from annotator.embedded import Postgres
from annotator.jobs import WORKER_SIGN
from annotator.management.commands.up import Stop, Up
from annotator.settings import BASE_DIR, _socket_folder
from tests.running_site import RunningSite, free_port, wait_until

pytestmark = pytest.mark.slow


def is_healthy(site: RunningSite) -> bool:
    with urllib.request.urlopen(f"{site.address}/health/", timeout=10) as answer:
        return answer.status == 200


def up(data: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A run of `up` that is expected to end by itself."""
    return manage("up", "--no-demo", "--port", str(free_port()), *options, WINNOW_DATA=str(data), **environment)


def manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=BASE_DIR,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence it said; fails when it said more, or ended well."""
    assert done.returncode == 1, done.stdout + done.stderr
    (sentence,) = (done.stdout + done.stderr).splitlines()
    assert sentence.startswith("winnow: ")
    return sentence


def server(data: Path) -> Postgres:
    return Postgres(data / "postgres", _socket_folder(data / "postgres"), data / "logs" / "postgres.log")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    running = RunningSite(tmp_path_factory.mktemp("site") / "data", "--no-demo")
    try:
        yield running.wait()
    finally:
        status = running.stop()
    assert status == 0, running.output


# --- serving and stopping ----------------------------------------------------------------------------------


def test_it_serves_and_says_how_to_get_in(site: RunningSite) -> None:
    assert is_healthy(site)
    with urllib.request.urlopen(site.login_link, timeout=10) as page:
        assert page.status == 200


def test_a_second_run_starts_in_seconds_with_everything_still_there(tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = RunningSite(data, "--no-demo").wait()
    first.manage("shell", "-c", "from django.contrib.auth.models import User; User.objects.create_user('bob')")
    owners = first.query("SELECT id, username FROM auth_user ORDER BY id")
    secret = (data / "secret_key").read_text()
    assert first.stop(signal.SIGINT) == 0
    assert first.lines[-1] == "Stopped.\n"
    assert "Traceback" not in first.output

    began = time.monotonic()
    second = RunningSite(data, "--no-demo").wait()
    took_s = time.monotonic() - began
    assert second.query("SELECT id, username FROM auth_user ORDER BY id") == owners
    assert (data / "secret_key").read_text() == secret
    assert second.stop(signal.SIGTERM) == 0
    assert took_s < 20, "seconds on a quiet machine"


def test_killed_outright_it_leaves_no_process_and_starts_again(tmp_path: Path) -> None:
    first = RunningSite(tmp_path / "data", "--no-demo").wait()
    assert server(first.data).process() is not None
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    second = RunningSite(first.data, "--no-demo").wait()
    assert is_healthy(second)
    assert second.stop() == 0


def test_stopped_while_it_starts_it_leaves_no_process(tmp_path: Path) -> None:
    for pause_s in (0.8, 1.6, 3.2):
        starting = RunningSite(tmp_path / "data", "--no-demo")
        time.sleep(pause_s)
        starting.stop(signal.SIGINT)
        assert "Traceback" not in starting.output
        assert server(tmp_path / "data").process() is None


def test_a_signal_that_python_swallowed_is_heeded_all_the_same() -> None:
    starting = Up(8080, with_demo=False)
    with contextlib.suppress(Stop):  # as while an object is cleared up
        starting.on_signal(signal.SIGINT, None)
    with pytest.raises(Stop):
        starting.tend(0)


# --- what dies comes back ----------------------------------------------------------------------------------


def test_a_killed_database_comes_back(site: RunningSite) -> None:
    killed = server(site.data).process()
    assert killed is not None
    killed.kill()
    wait_until(lambda: "the database ended; starting it again" in site.output, 20, "the end was told")
    wait_until(lambda: server(site.data).is_accepting(), 30, "it answered again")
    wait_until(lambda: is_healthy(site), 10, "the pages came back")


def test_a_worker_is_counted_as_long_as_it_lives(site: RunningSite) -> None:
    sign = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {WORKER_SIGN}"
    wait_until(lambda: site.query(sign) == [(1,)], 20, "the worker held its sign")
    worker = site.worker()
    worker.kill()
    wait_until(lambda: "the worker ended (SIGKILL); starting it again in 1 s" in site.output, 10, "the end was told")
    assert site.query(sign) == [(0,)]
    wait_until(lambda: site.query(sign) == [(1,)], 20, "another worker held the sign")


def test_a_stale_process_id_is_not_believed(tmp_path: Path) -> None:
    first = RunningSite(tmp_path / "data", "--no-demo").wait()
    assert first.stop() == 0
    # As after a power cut: files of a run that never ended, naming a process that is now somebody else's.
    (first.data / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{first.data / 'postgres'}\n1\n5432\n")
    (first.data / "lock").write_text(f"{os.getpid()}\n")
    second = RunningSite(first.data, "--no-demo").wait()
    assert is_healthy(second)
    assert second.stop() == 0


# --- what is in the way ------------------------------------------------------------------------------------


def test_a_busy_port_gets_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        sentence = refusal(up(tmp_path / "data", "--port", str(port)))
    assert f"port {port} on 127.0.0.1 is already in use" in sentence


def test_an_unwritable_data_folder_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert f"the data folder {tmp_path}/file/data cannot be written" in refusal(up(tmp_path / "file" / "data"))


def test_a_data_folder_in_use_gets_a_sentence(site: RunningSite) -> None:
    assert f"the data folder {site.data} is already in use by another Winnow" in refusal(up(site.data))
    assert is_healthy(site)


def test_files_of_another_postgresql_get_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("17\n")
    sentence = refusal(up(tmp_path))
    assert "was made by PostgreSQL 17, and this Winnow brings PostgreSQL 18" in sentence
    assert (tmp_path / "postgres" / "PG_VERSION").read_text() == "17\n"


def test_an_address_that_is_not_ours_gets_a_sentence(tmp_path: Path) -> None:
    assert "check HOST and PORT" in refusal(up(tmp_path / "data", HOST="192.0.2.1"))


def test_a_database_that_does_not_answer_gets_a_sentence(tmp_path: Path) -> None:
    done = up(tmp_path / "data", DATABASE_URL=f"postgresql://postgres@127.0.0.1:{free_port()}/winnow")
    assert "check DATABASE_URL" in refusal(done)


# --- the first owner ---------------------------------------------------------------------------------------


def test_the_first_owner_is_the_one_named(tmp_path: Path) -> None:
    named = {"ADMIN_USERNAME": "alice", "ADMIN_PASSWORD": "correct horse battery", "ADMIN_EMAIL": "alice@example.org"}
    first = RunningSite(tmp_path / "data", "--no-demo", **named).wait()
    assert "Sign in as alice" in first.output
    assert "login link" not in first.output
    kept = first.query("SELECT username, email, is_superuser, password FROM auth_user")
    assert [row[:3] for row in kept] == [("alice", "alice@example.org", True)]
    # Another password in the environment replaces none that is in use.
    assert first.stop() == 0
    second = RunningSite(tmp_path / "data", "--no-demo", **named | {"ADMIN_PASSWORD": "another one"}).wait()
    assert "One-time login link" in second.output
    assert second.query("SELECT username, email, is_superuser, password FROM auth_user") == kept
    assert second.stop() == 0


# --- commands beside it, and alone -------------------------------------------------------------------------


COUNT = ["shell", "-v", "0", "-c", "from annotator.models import Item; print(Item.objects.count())"]


def test_a_command_uses_the_server_of_the_running_site(site: RunningSite) -> None:
    before = server(site.data).process()
    assert site.manage(*COUNT).strip() == "0"
    assert server(site.data).process() == before


def test_a_command_alone_makes_a_new_data_folder_and_stops_what_it_started(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for _ in range(2):
        done = manage(*COUNT, WINNOW_DATA=str(data))
        assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
        assert server(data).process() is None


def test_a_killed_command_leaves_no_server(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = subprocess.Popen(
        [
            sys.executable,
            "manage.py",
            "shell",
            "-v",
            "0",
            "-c",
            "import time; print('here', flush=True); time.sleep(60)",
        ],
        cwd=BASE_DIR,
        env={**os.environ, "WINNOW_DATA": str(data)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert command.stdout is not None
    assert command.stdout.readline() == "here\n"
    running = server(data).process()
    assert running is not None
    # Another command comes and goes meanwhile; the server stays for the first.
    assert manage(*COUNT, WINNOW_DATA=str(data)).stdout == "0\n"
    assert running.is_running()
    command.kill()
    command.wait()
    command.stdout.close()
    running.wait(20)


def test_up_takes_over_the_server_of_a_command(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = subprocess.Popen(
        [
            sys.executable,
            "manage.py",
            "shell",
            "-v",
            "0",
            "-c",
            "import time; print('here', flush=True); time.sleep(60)",
        ],
        cwd=BASE_DIR,
        env={**os.environ, "WINNOW_DATA": str(data)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert command.stdout is not None
    assert command.stdout.readline() == "here\n"
    site = RunningSite(data, "--no-demo").wait()
    command.terminate()
    assert command.wait(20) == 143
    command.stdout.close()
    assert is_healthy(site)
    assert "the database ended" not in site.output
    assert site.stop() == 0


@pytest.mark.usefixtures("django_db_modify_db_settings")
def test_a_team_brings_its_own_database(tmp_path: Path) -> None:
    host = str(_socket_folder(Path(os.environ["WINNOW_DATA"]) / "postgres"))
    Postgres.from_settings().create_database("team")
    url = f"postgresql://postgres@{host.replace('/', '%2F')}:5432/team"
    site = RunningSite(tmp_path / "data", "--no-demo", DATABASE_URL=url).wait()
    assert is_healthy(site)
    assert not (site.data / "postgres").exists()
    assert site.manage(*COUNT).strip() == "0"
    assert site.stop() == 0
    assert Postgres.from_settings().is_accepting(), "a server that is not ours is left alone"


# --- for anybody -------------------------------------------------------------------------------------------


def as_ordinary_user() -> tuple[int, list[str]]:
    """The id of a user that is not root, and what goes before a command to run it so."""
    if os.geteuid() != 0:
        return os.geteuid(), []
    account = pwd.getpwnam("nobody")
    drop = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    # Whether it can run what runs it; setpriv itself still starts it with root's eyes.
    again = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    if subprocess.run([*drop, sys.executable, "-c", again], capture_output=True, check=False).returncode:
        # Root's own Python, in root's closed home: to be read all the same.
        drop += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return account.pw_uid, drop


def test_it_runs_for_an_ordinary_user_and_under_a_relative_path() -> None:
    home = Path(tempfile.mkdtemp(prefix="winnow-ordinary-")).resolve()
    user, drop = as_ordinary_user()
    os.chown(home, user, -1)
    port = free_port()
    process = subprocess.Popen(
        [*drop, sys.executable, str(BASE_DIR / "manage.py"), "up", "--no-demo", "--port", str(port)],
        cwd=home,
        env={"PATH": os.environ["PATH"], "WINNOW_DATA": "relative/data", "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        while "Ctrl-C stops everything" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/", timeout=10) as answer:
            assert answer.status == 200
        running = server(home / "relative" / "data").process()
        assert running is not None
        assert running.uids().real == user
        started = [running, *psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert not psutil.wait_procs(started, timeout=10)[1]
        assert {each.stat().st_uid for each in (home / "relative" / "data").iterdir()} == {user}
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(home, ignore_errors=True)
