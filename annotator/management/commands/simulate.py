"""Back-test: the product's own loop where the answers are known, with an oracle that gives them."""

import json
import os
import time
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from annotator import algorithms, backtest_tables, jobs
from annotator.errors import InvalidSettings, WinnowError
from annotator.management.commands.import_items import find_project
from annotator.models.project_settings import ProjectSettings

# What a replay takes from the project, and needs images or another pool for.
NOT_IN_A_REPLAY = ("encoder", "trainer", "test", "test_fraction", "review")
BAR = 24


class Command(BaseCommand):
    help = (
        "Run the labelling loop where the answers are known, with an oracle: how many labels would it have taken?"
        " On a labelled source, or with --project on the answers people gave in a project."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("source", nargs="?", help="'digits', or a folder or zip of class folders")
        parser.add_argument("--project", help="name or number: replay the answers given in this project")
        for kind, default in (
            *((kind, algorithms.DEFAULTS[kind]) for kind in ("encoder", "head")),
            ("trainer", "none"),
        ):
            also = "" if kind == "encoder" else "comma between: "
            also += "none, auto, " if kind == "trainer" else ""
            # With --project the project's own, so what nobody asked for must be told apart.
            parser.add_argument(f"--{kind}", help=f"{also}{_names(kind)}; by default {default}")
            parser.add_argument(f"--{kind}-parameters", default="", metavar="NAME=VALUE,...", help="its settings")
        parser.add_argument("--minutes", type=float, default=1.0, help="a trainer may take for one network")
        parser.add_argument("--train-at", default="", help="numbers of answers to train at; by default the budget")
        parser.add_argument(
            "--acquisition", default=algorithms.DEFAULTS["acquisition"], help="comma between: " + _names("acquisition")
        )
        parser.add_argument("--budget", type=int, default=100, help="answers in all, audit answers counted")
        parser.add_argument("--batch", type=int, default=10, help="answers between two refits")
        parser.add_argument("--seeds", type=int, default=3, help="how many runs, each with its own test split")
        parser.add_argument("--review", type=int, help="then decide so many screenfuls of proposals")
        held_out = parser.add_mutually_exclusive_group()
        held_out.add_argument("--test-fraction", type=float, help="held out; by default 0.2, of the digits 200 images")
        held_out.add_argument("--test", help="a second labelled source to test on")
        parser.add_argument("--target-precision", default="0.99", help="comma between; of what is accepted unseen")
        parser.add_argument("--confidence", default="0.95", help="comma between; of the promise about it")
        parser.add_argument("--threshold-per-class", action="store_true", help="promise it of each class by itself")
        parser.add_argument("--processes", type=int, help="runs at a time; by default as many as there are processors")
        parser.add_argument("--json", type=Path, help="write the curves here")

    def handle(self, *args: Any, **options: Any) -> None:
        target = options["json"]
        if target and (target.is_dir() or not target.absolute().parent.is_dir()):
            raise CommandError(f"--json wants the name of a file in a folder there is; found {target}")
        line = ProgressLine(self.stderr)
        try:
            result = _replay(options, line) if options["project"] is not None else _back_test(options, line)
        except (WinnowError, ValueError, RuntimeError) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError(f"stopped at {line.share:.0%}; nothing was written", returncode=130) from None
        finally:
            line.end()
        self.stdout.write("\n".join(backtest_tables.tables(result)))
        if target:
            fresh = target.with_name(f".{target.name}.tmp")
            try:
                fresh.write_text(json.dumps(result, indent=1) + "\n")
                fresh.replace(target)
            except OSError as error:
                raise CommandError(f"{target} cannot be written: {error.strerror}") from error


class ProgressLine:
    """A line for each step, and on a terminal a bar below them with the time that is left."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.share = stream, 0.0
        self._is_terminal = bool(getattr(stream, "isatty", lambda: False)())
        self._began = time.monotonic()
        self._drawn = 0.0

    def say(self, line: str) -> None:
        self.stream.write(f"\r\033[K{line}" if self._is_terminal else line, style_func=str)
        self._drawn = 0.0
        self.advance(self.share)

    def advance(self, share: float) -> None:
        self.share = share
        now = time.monotonic()
        if self._is_terminal and now - self._drawn > 0.2:
            self._drawn = now
            self.stream.write(f"\r\033[K{bar(share, now - self._began)}", style_func=str, ending="")
            self.stream.flush()

    def end(self) -> None:
        if self._is_terminal:
            self.stream.write("\r\033[K", style_func=str, ending="")


def bar(share: float, seconds: float) -> str:
    """How far it is, and how long it will take from here at the pace so far."""
    filled = round(BAR * share)
    left = ""
    if share > 0.02:
        minutes, rest = divmod(round(seconds * (1 - share) / share), 60)
        left = f", {minutes}:{rest:02d} left"
    return f"[{'#' * filled}{'.' * (BAR - filled)}] {share:4.0%}{left}"


def _back_test(options: dict[str, Any], line: ProgressLine) -> Any:
    if not options["source"]:
        raise InvalidSettings("simulate wants a source (digits, or a folder or zip of class folders) or a --project")
    plan = _plan(options, ProjectSettings())
    return jobs.call(
        "ml_worker.backtest.run",
        options["source"],
        test=options["test"],
        progress=line.say,
        advance=line.advance,
        processes=_processes(options, plan),
        **plan,
    )


def _replay(options: dict[str, Any], line: ProgressLine) -> Any:
    if options["source"]:
        raise InvalidSettings(f"wanted a source or a --project; found both, {options['source']!r} is the source")
    given = [name for name in NOT_IN_A_REPLAY if options[name] is not None]
    if given:
        name = f"--{given[0].replace('_', '-')}"
        raise InvalidSettings(f"{name} has no meaning with --project: it replays answers on the project's embedding")
    project = find_project(options["project"])
    if project is None:
        raise InvalidSettings(f"there is no project {options['project']!r}")
    plan = _plan(options | {"head": options["head"] or project.settings.head}, project.settings)
    return jobs.call(
        "ml_worker.backtesting.replay",
        project,
        progress=line.say,
        advance=line.advance,
        processes=_processes(options, plan),
        plan=plan,
    )


def _processes(options: dict[str, Any], plan: dict[str, Any]) -> int:
    """As asked for. Networks have minutes to learn in, of a processor each would share with others: one at a time."""
    asked: int | None = options["processes"]
    if asked is None:
        return 1 if plan["trainer"] != ["none"] else os.cpu_count() or 1
    if asked < 1:
        raise InvalidSettings(f"{asked} processes cannot do anything; wanted 1 or more")
    return asked


def _names(kind: str) -> str:
    return ", ".join(algorithm.name for algorithm in algorithms.catalogue(kind))


def _plan(options: dict[str, Any], usual: ProjectSettings) -> dict[str, Any]:
    """The options with names and parameters checked against the catalogue; the rest as in these settings."""
    encoder = options["encoder"] or algorithms.DEFAULTS["encoder"]
    heads = _chosen("head", options["head"] or algorithms.DEFAULTS["head"])
    trainers = _chosen("trainer", options["trainer"] or "none", also=("none", "auto"))
    plan = {k: options[k] for k in ("minutes", "budget", "batch", "seeds", "test_fraction", "threshold_per_class")}
    return plan | {
        "review": options["review"] or 0,
        "encoder": encoder,
        "encoder_parameters": _parameters("encoder", encoder, options["encoder_parameters"]),
        "head": heads,
        "head_parameters": _of_each("head", heads, options["head_parameters"], usual),
        "views": any(algorithms.get("head", name).by_views for name in heads),
        "trainer": trainers,
        "trainer_parameters": _trainer_parameters(trainers, options["trainer_parameters"]),
        "acquisition": _chosen("acquisition", options["acquisition"]),
        "train_at": _numbers(options["train_at"]),
        "target_precision": _rates("--target-precision", options["target_precision"]),
        "confidence": _rates("--confidence", options["confidence"]),
        "propose_above": usual.propose_above,
        "proposals_at_most": usual.proposals_at_most,
        "cold_start": usual.cold_start,
        "audit_share": usual.audit_share,
        "queue_length": usual.queue_length,
    }


def _chosen(kind: str, raw: str, also: tuple[str, ...] = ()) -> list[str]:
    """The names in a list with commas between, each once, each in the catalogue."""
    names = list(dict.fromkeys(name.strip() for name in raw.split(",") if name.strip()))
    if not names:
        titled = "acquisition function" if kind == "acquisition" else kind
        raise InvalidSettings(f"--{kind} names no {titled}")
    for name in names:
        if name not in also:
            algorithms.get(kind, name)
    return names


def _of_each(kind: str, names: list[str], raw: str, usual: ProjectSettings) -> dict[str, dict[str, Any]]:
    """The parameters of each; `raw` wants one name alone, for which algorithm else would it speak?"""
    if raw.strip():
        if len(names) > 1:
            raise InvalidSettings(f"--{kind}-parameters wants one {kind}; found {', '.join(names)}")
        return {names[0]: _parameters(kind, names[0], raw)}
    return {name: usual.parameters_of(kind, name) for name in names}


def _parameters(kind: str, name: str, raw: str) -> dict[str, Any]:
    """The parameters of an algorithm, those named in `raw` ("minutes=2,variant=vicreg") in place of the defaults."""
    given: dict[str, str] = {}
    for each in raw.split(",") if raw.strip() else ():
        key, equals, value = (part.strip() for part in each.partition("="))
        if not equals or not key or key in given:
            raise InvalidSettings(f"--{kind}-parameters: found {each!r}, wanted name=value, each name once")
        given[key] = value
    return algorithms.clean_parameters(kind, name, given)


def _trainer_parameters(names: list[str], raw: str) -> dict[str, dict[str, Any]]:
    """The parameters of each trainer that may be used, by its name."""
    named = [name for name in names if name not in ("none", "auto")]
    if raw.strip() and len(named) != 1:
        raise InvalidSettings("--trainer-parameters wants a --trainer, one by name")
    used = [each.name for each in algorithms.catalogue("trainer")] if "auto" in names else named
    return {name: _parameters("trainer", name, raw if name in named else "") for name in used}


def _numbers(raw: str) -> list[int]:
    given = [each.strip() for each in raw.split(",") if each.strip()]
    if not all(each.isascii() and each.isdigit() and len(each) < 10 for each in given):
        raise InvalidSettings(f"--train-at: found {raw!r}, wanted numbers of answers, comma between")
    return [int(each) for each in given]


def _rates(option: str, raw: Any) -> list[float]:
    try:
        return list(dict.fromkeys(float(each) for each in str(raw).split(",")))
    except ValueError:
        raise InvalidSettings(f"{option}: found {raw!r}, wanted numbers between 0 and 1, comma between") from None
