"""Back-test: the product's own loop on labelled images, with an oracle that answers."""

import json
import statistics
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from annotator import algorithms, jobs
from annotator.errors import InvalidSettings


class Command(BaseCommand):
    help = "Run the labelling loop on a labelled source with an oracle: how many labels would it have taken?"
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("source", help="'digits', or a folder or zip of class folders")
        parser.add_argument("--encoder", default=algorithms.DEFAULTS["encoder"], help=_names("encoder"))
        parser.add_argument("--head", default=algorithms.DEFAULTS["head"], help=_names("head"))
        parser.add_argument("--trainer", default="none")
        parser.add_argument(
            "--acquisition", default=algorithms.DEFAULTS["acquisition"], help="comma between: " + _names("acquisition")
        )
        parser.add_argument("--budget", type=int, default=100, help="answers in all, audit answers counted")
        parser.add_argument("--batch", type=int, default=10, help="answers between two refits")
        parser.add_argument("--seeds", type=int, default=3, help="how many runs, each with its own test split")
        held_out = parser.add_mutually_exclusive_group()
        held_out.add_argument("--test-fraction", type=float, help="held out; by default 0.2, of the digits 200 images")
        held_out.add_argument("--test", help="a second labelled source to test on")
        parser.add_argument("--target-precision", type=float, default=0.99)
        parser.add_argument("--json", type=Path, help="write the curves here")

    def handle(self, *args: Any, **options: Any) -> None:
        target = options["json"]
        if target and (target.is_dir() or not target.absolute().parent.is_dir()):
            raise CommandError(f"--json wants the name of a file in a folder there is; found {target}")
        try:
            plan = _plan(options)
            result = jobs.call(
                "ml_worker.backtest.run",
                options["source"],
                test=options["test"],
                progress=lambda line: self.stderr.write(line),
                **plan,
            )
        except (InvalidSettings, ValueError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write("\n".join(_table(result)))
        if target:
            fresh = target.with_name(f".{target.name}.tmp")
            try:
                fresh.write_text(json.dumps(result, indent=1) + "\n")
                fresh.replace(target)
            except OSError as error:
                raise CommandError(f"{target} cannot be written: {error.strerror}") from error


def _names(kind: str) -> str:
    return ", ".join(algorithm.name for algorithm in algorithms.catalogue(kind))


def _plan(options: dict[str, Any]) -> dict[str, Any]:
    """The options with names and parameters checked against the catalogue."""
    names = [name.strip() for name in options["acquisition"].split(",") if name.strip()]
    if not names:
        raise InvalidSettings("--acquisition names no acquisition function")
    for name in names:
        algorithms.get("acquisition", name)
    if options["trainer"] != "none":
        algorithms.get("trainer", options["trainer"])
    plan = {k: options[k] for k in ("encoder", "head", "trainer", "budget", "batch", "seeds")}
    plan |= {k: options[k] for k in ("test_fraction", "target_precision")}
    return plan | {
        "acquisition": list(dict.fromkeys(names)),
        "encoder_parameters": algorithms.clean_parameters("encoder", options["encoder"], {}),
        "head_parameters": algorithms.clean_parameters("head", options["head"], {}),
    }


def _table(result: dict[str, Any]) -> list[str]:
    """One block per acquisition function, one line per number of answers: mean ± deviation over the seeds."""
    sizes = f"pool {result['n_pool']}, test {result['n_test']}, {len(result['classes'])} classes"
    lines = [f"{result['source']}: {sizes}"]
    for name in dict.fromkeys(run["acquisition"] for run in result["runs"]):
        curves = [run["curve"] for run in result["runs"] if run["acquisition"] == name]
        lines += ["", name, "answers  test accuracy  pseudo-labels  auto-accepted  its precision  seconds"]
        for points in zip(*curves, strict=False):
            lines.append(
                f"{points[0]['labels']:7d}"
                f"{_mean(points, 'test_accuracy', deviation=True):>15}"
                f"{_mean(points, 'pseudo_label_accuracy'):>15}"
                f"{_mean(points, 'auto_accepted'):>15}"
                f"{_mean(points, 'auto_accepted_precision'):>15}"
                f"{_mean(points, 'seconds'):>9}"
            )
    return lines


def _mean(points: tuple[dict[str, Any], ...], key: str, deviation: bool = False) -> str:
    values = [point[key] for point in points if point[key] is not None]
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.3f}"
    return f"{mean} ± {statistics.pstdev(values):.3f}" if deviation else mean
