"""How many labels would it have taken? The product's loop where the answers are known; an oracle gives them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ml_worker import backtest_summary, simulated_person, simulated_project
from ml_worker.backtest_plan import RANDOM_CHECKS, Plan, Unit
from ml_worker.labelled import load_source
from ml_worker.side_by_side import Say, SideBySide
from ml_worker.simulated_project import Scene

Progress = Callable[[str], None]
Advance = Callable[[float], None]
# Held out random checks measure, or test images; see simulated_project.
TEST, CHECKS = "test", "checks"


@dataclass(frozen=True)
class Bench:
    """Where the sittings take place: a folder that every process can read.

    In it the images and targets of a labelled source with a scene for each seed, or, where `past` is true, one scene
    of a project's past answers, of which each seed holds out its part. Finished sittings lie in `runs`: what is there
    is not done again, so a back-test that was killed goes on in the same folder.
    """

    folder: Path
    plan: Plan
    source: str
    past: bool = False

    def scene(self, seed: int, acquisition: str = "") -> Scene:
        """The scene of this seed, as a function finds it."""
        if self.past:
            scene = simulated_project.held_out(Scene.load(self.folder / "past"), seed)
            if acquisition == RANDOM_CHECKS:
                return simulated_project.at_random(scene, self.plan.audit_share, seed)
            return scene
        images = self.folder / "images.npy"
        return Scene.load(self.folder / f"seed-{seed}", np.load(images, mmap_mode="r"))

    def finished(self, unit: Unit) -> Path:
        """Where the runs of this sitting lie once it is over."""
        return self.folder / "runs" / f"{unit.key}.json"


def run(
    source: str,
    *,
    test: str | None = None,
    progress: Progress = lambda line: None,
    advance: Advance = lambda share: None,
    processes: int = 1,
    polite: bool = False,
    folder: Path | None = None,
    **plan: Any,
) -> dict[str, Any]:
    """Back-test a source; `plan` holds the fields of Plan. Returns what `simulate --json` writes.

    source: `digits`, or a folder or zip of class folders. test: a second such source to test on; without it a
    part of the source is held out, drawn anew by each seed. progress: called with a line for each file that is
    skipped and each point of a curve; advance: with the part that is done, 0..1, and now and then in between. What
    they raise ends everything at once. folder: where to work, and to go on from; by default one that is removed at
    the end. Raises BadSource, WorkerDied.

    A run's `trainer` names what made the points of its curve: "none", the encoder and head of the fast loop, after
    each batch of answers. A plan with a trainer gives a second run beside each of these, named after the trainer,
    whose curve has a point for each network, trained on the same answers. The queue goes on being led by the fast
    loop, so that both runs speak of the same answers; in a project a network that is better takes the lead.
    The result is the same, but for the seconds, whatever the number of processes.
    """
    wanted = Plan(**plan)
    labelled = load_source(source)
    held_out = load_source(test, len(labelled.images[0])) if test else None
    for name, why in labelled.skipped + (held_out.skipped if held_out else []):
        progress(f"skipped {name}: {why}")
    images, targets, is_held_out = simulated_project.combined(labelled, held_out)
    n_test = simulated_project.test_size(source, len(labelled.targets), wanted.test_fraction)
    with tempfile.TemporaryDirectory(prefix="back-test-") as scratch:
        bench = Bench(folder or Path(scratch), wanted, source)
        bench.folder.mkdir(parents=True, exist_ok=True)
        np.save(bench.folder / "images.npy", images)
        drawing = _Drawing(bench, targets, is_held_out, len(labelled.classes), n_test)
        units = list(wanted.units())
        done = sum(bench.finished(unit).exists() for unit in units) / len(units)
        with SideBySide(min(processes, len(units)), polite=polite) as workers:
            seeds = [(drawing, seed) for seed in range(wanted.seeds)]
            for _ in workers.results(_draw, seeds, lambda place: None, lambda: advance(done)):
                advance(done)
            return sit(bench, labelled.classes, workers, progress, advance)


def sit(bench: Bench, classes: list[str], workers: SideBySide, progress: Progress, advance: Advance) -> dict[str, Any]:
    """Every sitting of the bench that is not over yet, and what `simulate --json` writes of all of them."""
    units = list(bench.plan.units())
    todo = [unit for unit in units if not bench.finished(unit).exists()]
    watch = _Watch(bench, todo, len(units), progress, advance)
    for place, _ in workers.results(_sitting, [(bench, unit) for unit in todo], watch.heard, watch.tick):
        watch.ended(place)
    scene = bench.scene(0)
    runs = [run for unit in units for run in json.loads(bench.finished(unit).read_text())]
    is_named = scene.is_test & (scene.targets != simulated_project.STRANGER)
    return {
        "source": bench.source,
        "n_pool": scene.size,
        "n_test": int(is_named.sum()),
        "classes": classes,
        "measured_on": CHECKS if bench.past else TEST,
        "runs": runs,
        "summary": backtest_summary.summary(runs, sampled=bench.past, n_measured=int(is_named.sum())),
    }


@dataclass
class _Watch:
    """What is said while the sittings go on."""

    bench: Bench
    todo: list[Unit]
    n_units: int
    progress: Progress
    advance: Advance
    done: dict[int, float] = field(default_factory=dict)

    def heard(self, place: int, trainer: str, point: Mapping[str, Any], done: float) -> None:
        self.done[place] = done
        self.progress(_line(self.bench.plan, self.todo[place], trainer, point))
        self.tick()

    def ended(self, place: int) -> None:
        self.done[place] = 1.0
        self.tick()

    def tick(self) -> None:
        self.advance((self.n_units - len(self.todo) + sum(self.done.values())) / self.n_units)


def _line(plan: Plan, unit: Unit, trainer: str, point: Mapping[str, Any]) -> str:
    accuracy = point["test_accuracy"]
    shown = "no model yet" if accuracy is None else f"test accuracy {accuracy:.3f}"
    names = [unit.acquisition]
    if len(plan.head) > 1:
        names.append(unit.head)
    if trainer != "none":
        names.append(trainer)
    return f"{', '.join(names)}, seed {unit.seed}: {point['labels']} answers, {shown}, {point['seconds']:.2f} s"


# --- what the processes do -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Drawing:
    """What a scene is drawn from, beside the images of the bench."""

    bench: Bench
    targets: np.ndarray
    is_held_out: np.ndarray
    n_classes: int
    n_test: int


def _draw(task: tuple[_Drawing, int], say: Say) -> None:
    given, seed = task
    bench, plan = given.bench, given.bench.plan
    if (bench.folder / f"seed-{seed}" / "scene.json").exists():
        return
    simulated_project.draw(
        np.load(bench.folder / "images.npy", mmap_mode="r"),
        given.targets,
        given.is_held_out,
        n_classes=given.n_classes,
        n_test=given.n_test,
        encoder=plan.encoder,
        encoder_parameters=plan.encoder_parameters,
        views=plan.views,
        seed=seed,
    ).save(bench.folder / f"seed-{seed}")


def _sitting(task: tuple[Bench, Unit], say: Say) -> None:
    bench, unit = task
    made = simulated_person.runs(bench.scene(unit.seed, unit.acquisition), bench.plan, unit, say)
    path = bench.finished(unit)
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(made))
    unfinished.replace(path)
