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
    "simulate",
    "spectacular",
    "findstatic",
    "version",
    "--version",
}


def main() -> None:
    """Run one management command; Ctrl-C ends it without a traceback, from the first import on."""
    try:
        run_or_say_why_not()
    except KeyboardInterrupt:
        sys.exit(130)


def run_or_say_why_not() -> None:
    """What stands in the way outside Winnow is one sentence, not a traceback."""
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
    from django.core.management import execute_from_command_line

    from annotator.embedded import Postgres, server_for_command

    command = arguments[1] if len(arguments) > 1 else "help"
    # A back-test needs none, but for one on the past of a project.
    replays = command == "simulate" and any(each.split("=")[0] == "--project" for each in arguments)
    if (command in WITHOUT_DATABASE and not replays) or "--help" in arguments or settings.DATABASE_URL:
        execute_from_command_line(arguments)
        return
    # A killed command must leave no server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    postgres = Postgres.from_settings()

    def prepare() -> None:
        postgres.create_database(settings.DATABASES["default"]["NAME"])
        if command not in {"migrate", "showmigrations"}:
            bring_tables_up_to_date()

    with server_for_command(settings.WINNOW_DATA, postgres, prepare):
        execute_from_command_line(arguments)


def bring_tables_up_to_date() -> None:
    """Migrate, if there is anything to migrate."""
    import django
    from django.core.management import call_command
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    django.setup()
    migrations = MigrationExecutor(connection)
    if migrations.migration_plan(migrations.loader.graph.leaf_nodes()):
        call_command("migrate", verbosity=0, interactive=False)


if __name__ == "__main__":
    main()
