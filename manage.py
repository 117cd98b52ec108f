#!/usr/bin/env python
"""Winnow's command line: `python manage.py up`, `import_items`, `export_dataset`, `simulate`, ..."""

import os
import sys


def main() -> None:
    """Run one management command; a malformed setting is one sentence on stderr, not a traceback."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "annotator.settings")
    from django.conf import settings
    from django.core.management import execute_from_command_line
    from environs import EnvError

    try:
        settings.DEBUG  # noqa: B018  the first access imports the settings module
    except EnvError as error:
        sys.exit(f"winnow: {error}")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
