"""Back-test: the product's own loop on labelled images, with an oracle that answers."""

import json
import statistics
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from annotator import algorithms, jobs
from annotator.errors import InvalidSettings
from annotator.models.project_settings import ProjectSettings


class Command(BaseCommand):
    help = "Run the labelling loop on a labelled source with an oracle: how many labels would it have taken?"
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("source", help="'digits', or a folder or zip of class folders")
        for kind, default in (
            *((kind, algorithms.DEFAULTS[kind]) for kind in ("encoder", "head")),
            ("trainer", "none"),
        ):
            also = "none, auto, " if kind == "trainer" else ""
            parser.add_argument(f"--{kind}", default=default, help=also + _names(kind))
            parser.add_argument(f"--{kind}-parameters", default="", metavar="NAME=VALUE,...", help="its settings")
        parser.add_argument("--minutes", type=float, default=1.0, help="a trainer may take for one network")
        parser.add_argument("--train-at", default="", help="numbers of answers to train at; by default the budget")
        parser.add_argument(
            "--acquisition", default=algorithms.DEFAULTS["acquisition"], help="comma between: " + _names("acquisition")
        )
        parser.add_argument("--budget", type=int, default=100, help="answers in all, audit answers counted")
        parser.add_argument("--batch", type=int, default=10, help="answers between two refits")
        parser.add_argument("--seeds", type=int, default=3, help="how many runs, each with its own test split")
        parser.add_argument("--review", type=int, default=0, help="then decide so many screenfuls of proposals")
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
    plan = {k: options[k] for k in ("encoder", "head", "trainer", "minutes", "budget", "batch", "seeds", "review")}
    plan |= {k: options[k] for k in ("test_fraction", "target_precision")}
    plan["views"] = algorithms.get("head", options["head"]).by_views
    for kind in ("encoder", "head"):
        plan[f"{kind}_parameters"] = _parameters(kind, options[kind], options[f"{kind}_parameters"])
    plan["trainer_parameters"] = _trainer_parameters(options["trainer"], options["trainer_parameters"])
    usual = ProjectSettings()
    return plan | {
        "acquisition": list(dict.fromkeys(names)),
        "train_at": _numbers(options["train_at"]),
        "propose_above": usual.propose_above,
        "proposals_at_most": usual.proposals_at_most,
    }


def _parameters(kind: str, name: str, raw: str) -> dict[str, Any]:
    """The parameters of an algorithm, those named in `raw` ("minutes=2,variant=vicreg") in place of the defaults."""
    given: dict[str, str] = {}
    for each in raw.split(",") if raw.strip() else ():
        key, equals, value = (part.strip() for part in each.partition("="))
        if not equals or not key or key in given:
            raise InvalidSettings(f"--{kind}-parameters: found {each!r}, wanted name=value, each name once")
        given[key] = value
    return algorithms.clean_parameters(kind, name, given)


def _trainer_parameters(name: str, raw: str) -> dict[str, dict[str, Any]]:
    """The parameters of each trainer that may be used, by its name."""
    if name in ("none", "auto") and raw.strip():
        raise InvalidSettings("--trainer-parameters wants a --trainer, one by name")
    if name == "auto":
        return {each.name: _parameters("trainer", each.name, "") for each in algorithms.catalogue("trainer")}
    return {} if name == "none" else {name: _parameters("trainer", name, raw)}


def _numbers(raw: str) -> list[int]:
    given = [each.strip() for each in raw.split(",") if each.strip()]
    if not all(each.isascii() and each.isdigit() and len(each) < 10 for each in given):
        raise InvalidSettings(f"--train-at: found {raw!r}, wanted numbers of answers, comma between")
    return [int(each) for each in given]


def _table(result: dict[str, Any]) -> list[str]:
    """One block per acquisition function and trainer, one line per number of answers: mean ± deviation over the
    seeds."""
    sizes = f"pool {result['n_pool']}, test {result['n_test']}, {len(result['classes'])} classes"
    lines = [f"{result['source']}: {sizes}"]
    for name, trainer in dict.fromkeys((run["acquisition"], run["trainer"]) for run in result["runs"]):
        same = [run for run in result["runs"] if (run["acquisition"], run["trainer"]) == (name, trainer)]
        lines += ["", name if trainer == "none" else f"{name}, network trained by {trainer}"]
        lines.append("answers  test accuracy  pseudo-labels  auto-accepted  its precision  seconds")
        for points in zip(*(run["curve"] for run in same), strict=False):
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
