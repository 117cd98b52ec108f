"""`manage.py export_dataset PROJECT OUT --format csv`: the labels of a project as a file."""

import json
import os
import sys
import tempfile
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotator.actions import exporting
from annotator.errors import WinnowError
from annotator.management.commands.import_items import find_project


class Command(BaseCommand):
    help = "Write the labels of a project to a file: CSV, JSON Lines, or a zip with a folder for each class."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="name or number")
        parser.add_argument("out", help="the file to write; - for standard output")
        parser.add_argument("--format", default="csv", metavar="|".join(exporting.FORMATS))
        parser.add_argument(
            "--include",
            default=",".join(exporting.DEFAULT_INCLUDE),
            metavar=",".join(exporting.INCLUDE),
            help="default: %(default)s",
        )
        parser.add_argument("--json", action="store_true", help="print the counts as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        project = find_project(options["project"])
        if project is None:
            raise CommandError(f"there is no project {options['project']!r}")
        counts: Counter[str] = Counter()
        problems: list[str] = []
        try:
            pieces = exporting.export(
                project=project,
                format_name=options["format"],
                include=options["include"].split(","),
                counts=counts,
                problems=problems,
            )
        except WinnowError as error:
            raise CommandError(error.message) from None
        out, tell = options["out"], self.stdout
        if out == "-":
            sys.stdout.buffer.writelines(pieces)
            tell = self.stderr
        else:
            write_whole(Path(out), pieces)
        for problem in problems:
            self.stderr.write(problem)
        rows = sum(counts.values())
        if options["json"]:
            report = {"project": project.pk, "format": options["format"], "rows": rows, "by_origin": dict(counts)}
            tell.write(json.dumps(report))
        else:
            tell.write(f"{rows:,} rows" + "".join(f", {count:,} {origin}" for origin, count in sorted(counts.items())))


def write_whole(path: Path, pieces: Iterator[bytes]) -> None:
    """The file appears when it is whole; until then, and after a failure, what was there before stays."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror or error}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(pieces)
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        Path(name).unlink(missing_ok=True)
