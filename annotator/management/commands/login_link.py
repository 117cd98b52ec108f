"""`manage.py login_link NAME`: a link that logs somebody in once."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from annotator.actions import accounts

# Written by `up` while it runs.
ADDRESS_FILE = "address"


class Command(BaseCommand):
    help = f"Print a link that logs this person in, once, within {accounts.LINK_HOURS} hours."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--create", action="store_true", help="make the account if there is none")

    def handle(self, *args: Any, **options: Any) -> None:
        people, name = get_user_model().objects, options["username"]
        user = people.filter(username=name).first()
        if user is None and options["create"]:
            user = people.create_user(name)
        if user is None:
            raise CommandError(f"there is no account called {name!r}; --create makes one")
        if not user.is_active:
            raise CommandError(f"the account {name!r} is switched off")
        self.stdout.write(f"{site_address()}{accounts.create_login_link(user)}")


def site_address() -> str:
    """Where people reach this Winnow: the proxy's address, else what the running `up` said, else the settings."""
    proxied = [origin for origin in settings.CSRF_TRUSTED_ORIGINS if "*" not in origin]
    if proxied:
        return proxied[0].rstrip("/")
    try:
        return (settings.WINNOW_DATA / ADDRESS_FILE).read_text().strip()
    except OSError:
        host = {"0.0.0.0": "127.0.0.1", "::": "localhost"}.get(settings.HOST, settings.HOST)
        return f"http://{host}:{settings.PORT}"
