#!/usr/bin/env python
"""Winnow's command line: `python manage.py up`, `import_items`, `export_dataset`, `simulate`, ..."""

import os
import signal
import sys

# Commands that start their own server, or need none. All others find the embedded one running.
WITHOUT_DATABASE = {
    "up",
    "check",
    "help",
    "makemigrations",
    "spectacular",
    "findstatic",
    "version",
    "--version",
}


def main() -> None:
    """Run one management command. What stands in the way outside Winnow is one sentence, not a traceback."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "annotator.settings")
    from django.conf import settings

    from annotator.embedded import CannotStart
    from annotator.environment import InvalidEnvironment

    try:
        _ = settings.DEBUG  # the first access reads the settings file
        run(sys.argv)
    except (InvalidEnvironment, CannotStart) as error:
        sys.exit(f"winnow: {error}")


def run(arguments: list[str]) -> None:
    """Run the command, with the embedded PostgreSQL up while it needs one."""
    from django.conf import settings
    from django.core.management import call_command, execute_from_command_line

    from annotator.embedded import Postgres, server_for_command

    command = arguments[1] if len(arguments) > 1 else "help"
    if command in WITHOUT_DATABASE or "--help" in arguments or settings.DATABASE_URL:
        execute_from_command_line(arguments)
        return
    # A killed command must leave no server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    postgres = Postgres.from_settings()
    with server_for_command(settings.WINNOW_DATA, postgres, settings.DATABASES["default"]["NAME"]) as is_new:
        if is_new and command != "migrate":
            import django

            django.setup()
            call_command("migrate", verbosity=0)
        execute_from_command_line(arguments)


if __name__ == "__main__":
    main()
