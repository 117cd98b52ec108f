"""`manage.py up`: the whole of Winnow in one terminal, and nothing of it left when the terminal says stop."""

import errno
import os
import shutil
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from argparse import ArgumentParser
from contextlib import ExitStack
from getpass import getuser
from pathlib import Path
from types import FrameType
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import OperationalError, connections

from annotator import embedded, environment
from annotator.embedded import CannotStart, Postgres
from annotator.management.commands.login_link import ADDRESS_FILE
from annotator.supervisor import Child

GRACE_S = {"web server": 3, "scheduler": 2, "worker": 5}  # in this order; what is not done by then is killed
HEALTH_TIMEOUT_S = 60


class Stop(BaseException):
    """The person said stop. No Exception: nothing on the way may take it for a failure."""


class Command(BaseCommand):
    help = "Start everything: database, web server, worker and scheduler. Ctrl-C stops it all."
    requires_system_checks: list[str] = []  # migrate runs them, once there is a database

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--no-demo", action="store_true", help="do not create the demo project")
        parser.add_argument("--port", type=int, default=settings.PORT, help="default: %(default)s (PORT)")

    def handle(self, *args: Any, **options: Any) -> None:
        up = Up(options["port"], with_demo=not options["no_demo"])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup
                signal.signal(number, up.on_signal)
        try:
            up.run()
        except Stop:
            say("Stopped.")
        except CannotStart as error:
            sys.exit(f"winnow: {error}")


class Up:
    """One run of `up`."""

    def __init__(self, port: int, *, with_demo: bool) -> None:
        self.port = port
        self.with_demo = with_demo
        self.stopping_since: float | None = None
        self.is_in_a_hurry = False
        self.postgres = None if settings.DATABASE_URL else Postgres.from_settings()
        self.children = self._children()

    def run(self) -> None:
        """Start everything in order and watch over it until Stop; whatever was started is stopped."""
        data = settings.WINNOW_DATA
        embedded.make_folders(data, settings.MEDIA_ROOT)
        with ExitStack() as stack:
            preparation = stack.enter_context(ExitStack())
            preparation.enter_context(embedded.preparing(data))
            was_killed = stack.enter_context(embedded.locked(data, patience_s=2))
            # The web server of an `up` that was killed takes a moment to notice.
            check_port(settings.HOST, self.port, patience_s=6 if was_killed else 0)
            if self.postgres is not None:
                stack.enter_context(embedded.guarded(data))
            reading, writing = os.pipe()  # the children read; only this process keeps the other end open
            stack.callback(os.close, reading)
            stack.callback(os.close, writing)
            stack.callback(self.stop)
            self.start_database()
            hello = self.prepare(data)
            preparation.close()
            for child in self.children:
                child.start(reading)
            self.wait_for_health(reading)
            say(hello)
            while True:
                self.tend(reading)
                time.sleep(0.2)

    def start_database(self) -> None:
        if self.postgres is not None:
            self.postgres.start()
            self.postgres.create_database(settings.DATABASES["default"]["NAME"])

    def prepare(self, data: Path) -> str:
        """Bring the tables up to date, make the first owner and the demo. Returns the greeting."""
        if not environment.text("SECRET_KEY"):
            # This process read the settings before there was a key; the web server must accept its links.
            settings.SECRET_KEY = embedded.keep_secret_key(data)
        shutil.rmtree(data / "tmp", ignore_errors=True)
        (data / "tmp").mkdir(mode=0o700)
        try:
            call_command("migrate", verbosity=0, interactive=False)
        except OperationalError as error:
            reason = str(error).strip().splitlines()[0]
            raise CannotStart(f"the database does not let Winnow in ({reason}); check DATABASE_URL") from error
        from annotator.actions import demo

        owner = first_owner()
        if self.with_demo:
            demo.create_demo_project(owner)
        hello = self.greeting(owner)
        connections.close_all()
        return hello

    def greeting(self, owner: User) -> str:
        from annotator.actions import accounts

        host = "127.0.0.1" if settings.HOST in {"0.0.0.0", "localhost", "::"} else settings.HOST
        address = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        if settings.ADMIN_PASSWORD and owner.check_password(settings.ADMIN_PASSWORD):
            way_in = f"Sign in as {owner.username}: {address}{settings.LOGIN_URL}"
        else:
            way_in = f"One-time login link: {address}{accounts.create_login_link(owner)}"
        (settings.WINNOW_DATA / ADDRESS_FILE).write_text(address)
        lines = [f"Winnow is running at {address}/", way_in, f"Data folder: {settings.WINNOW_DATA}"]
        return "\n".join(["", *lines, "Ctrl-C stops everything.", ""])

    def wait_for_health(self, reading: int) -> None:
        deadline = time.monotonic() + HEALTH_TIMEOUT_S
        while not answers(settings.HOST, self.port):
            if time.monotonic() > deadline:
                raise CannotStart(f"the web server did not answer within {HEALTH_TIMEOUT_S} s; its messages are above")
            self.tend(reading)
            time.sleep(0.1)

    def tend(self, reading: int) -> None:
        """Start again what died; one line says so.

        Raises Stop where the signal's own was lost on its way: Python drops what is raised while it clears up objects.
        """
        if self.stopping_since is not None:
            raise Stop
        if self.postgres is not None and self.postgres.process() is None:
            say("winnow: the database ended; starting it again")
            self.postgres.start()
        for child in self.children:
            if sentence := child.tend(reading):
                say(f"winnow: {sentence}")

    def stop(self) -> None:
        """Stop the children and the database, in this order."""
        (settings.WINNOW_DATA / ADDRESS_FILE).unlink(missing_ok=True)
        self.stopping_since = self.stopping_since or time.monotonic()
        for child in self.children:
            child.stop(GRACE_S[child.name], lambda: self.is_in_a_hurry)
        connections.close_all()
        if self.postgres is not None:
            self.postgres.stop(at_once=self.is_in_a_hurry)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """First signal: stop. Another, a second later: in a hurry. (make may pass on the same Ctrl-C.)"""
        now = time.monotonic()
        if self.stopping_since is None:
            self.stopping_since = now
            say("\nStopping ...")
            raise Stop
        if now - self.stopping_since > 1:
            self.is_in_a_hurry = True

    def _children(self) -> list[Child]:
        variables = {
            "PORT": str(self.port),
            # They run in another folder, where a relative path would mean something else.
            "WINNOW_DATA": str(settings.WINNOW_DATA),
            "MEDIA_ROOT": str(settings.MEDIA_ROOT),
            # Uploads wait here: on the disk they go to, not in a small /tmp.
            "TMPDIR": str(settings.WINNOW_DATA / "tmp"),
            "PYTHONUNBUFFERED": "1",
        }
        celery = ["celery", "--app=ml_worker.celery:app", "--quiet"]
        worker = ["worker", "--pool=threads", "--concurrency=3", "--loglevel=WARNING"]
        worker += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        commands = {
            "web server": ["annotator.wsgi"],
            "scheduler": [*celery, "beat", "--loglevel=WARNING", "--pidfile="],
            "worker": [*celery, *worker],
        }
        return [Child(name, command, settings.BASE_DIR, variables) for name, command in commands.items()]


def first_owner() -> User:
    """Who may do everything: ADMIN_USERNAME, else the first one ever made. Made if there is none.

    ADMIN_PASSWORD is for who has none yet; it never replaces a password somebody chose.
    """
    people = get_user_model().objects
    name = settings.ADMIN_USERNAME
    if name and (owner := people.filter(username=name).first()):
        if settings.ADMIN_PASSWORD and not owner.has_usable_password():
            owner.set_password(settings.ADMIN_PASSWORD)
            owner.save(update_fields=["password"])
        return owner
    if not name and (owner := people.filter(is_superuser=True, is_active=True).order_by("pk").first()):
        return owner
    # Without a password nobody signs in by guessing: the login link is the only way in.
    return people.create_superuser(name or local_name(), settings.ADMIN_EMAIL, settings.ADMIN_PASSWORD or None)


def local_name() -> str:
    """The name this person has on this machine."""
    try:
        name = getuser()
    except (KeyError, OSError):
        return "owner"
    return "owner" if name == "root" else name[:150]


def check_port(host: str, port: int, patience_s: float = 0) -> None:
    """Raises CannotStart unless the web server could listen there, after trying for patience_s seconds."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                with socket.socket(family, kind, protocol) as listener:
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    listener.bind(address)
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise CannotStart(f"cannot listen on {host}:{port} ({error.strerror}); check HOST and PORT") from error
            if time.monotonic() > deadline:
                raise CannotStart(
                    f"port {port} on {host} is already in use; stop the program that uses it"
                    f" or choose another port, as in PORT={port + 1} make run"
                ) from error
            time.sleep(0.2)


def answers(host: str, port: int) -> bool:
    """Whether the web server answers at all; what it says is its own affair."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        with urllib.request.urlopen(f"http://{f'[{host}]' if ':' in host else host}:{port}/health/", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def say(sentence: str) -> None:
    """Print at once; a terminal that is gone must not keep anything from being stopped."""
    try:
        print(sentence, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
