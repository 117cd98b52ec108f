"""`manage.py export_model PROJECT OUT.zip`: the project's model, to be run anywhere."""

import json
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotator import jobs
from annotator.actions.packaging import MINUTES, zip_folder
from annotator.errors import WinnowError
from annotator.management.commands.export_dataset import write_whole
from annotator.management.commands.import_items import find_project
from annotator.models import Project


class Command(BaseCommand):
    help = (
        "Write the model of a project to a zip: weights (safetensors), graph (ONNX), class names, calibration and a"
        " short script that runs it without Winnow."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="name or number")
        parser.add_argument("out", type=Path, help="the zip to write")
        parser.add_argument(
            "--distil", action="store_true", help="teach a small network what the newest model says of the pool"
        )
        parser.add_argument("--minutes", type=float, default=MINUTES, help="how long it learns (default: %(default)g)")
        parser.add_argument("--json", action="store_true", help="print what model.json says")

    def handle(self, *args: Any, **options: Any) -> None:
        project, out = find_project(options["project"]), options["out"]
        if project is None:
            raise CommandError(f"there is no project {options['project']!r}")
        if not 0 < options["minutes"] < 60 * 24 * 7:
            raise CommandError(f"--minutes is {options['minutes']:g}; wanted more than 0, and less than a week")
        if out.is_dir() or not out.absolute().parent.is_dir():
            raise CommandError(f"wanted the name of a file in a folder there is; found {out}")
        with tempfile.TemporaryDirectory() as folder:
            made, packed = Path(folder, "model"), Path(folder, "model.zip")
            about = self._export(project, made, options["distil"], options["minutes"])
            zip_folder(made, packed, out.stem)
            write_whole(out, iter([packed.read_bytes()]))
        self.stdout.write(json.dumps(about, ensure_ascii=False) if options["json"] else _sentence(about, out))

    def _export(self, project: Project, folder: Path, distil: bool, minutes: float) -> dict[str, Any]:
        try:
            about: dict[str, Any] = jobs.call(
                "ml_worker.take_home.write",
                project,
                folder,
                student=distil,
                seconds=60 * minutes,
                tell=lambda share, said: self.stderr.write(f"{share:4.0%} {said}"),
            )
        except WinnowError as error:
            raise CommandError(error.message) from None
        except KeyboardInterrupt:
            raise CommandError("stopped; nothing was written") from None
        return about


def _sentence(about: dict[str, Any], out: Path) -> str:
    audit, distilled = about["audit"], about["distilled"]
    said = f"{out}: {len(about['classes'])} classes, images of {about['image_px']} px"
    if audit:
        said += f", {audit['accuracy']:.1%} of {audit['n']:,} random checks right"
        said += f" ({audit['low']:.1%} to {audit['high']:.1%})"
    if distilled and distilled["agreement"] is not None:
        said += f"; agrees with {distilled['teacher']} on {distilled['agreement']:.1%} of {distilled['held_out']:,}"
    return said + ("" if about["temperature"] else "; not calibrated: too few random checks were answered")
