"""The back-test job, and the past of a project as a scene for one (ml_worker/simulated_project.py says what is
measured on)."""

import json
import os
import shutil
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from django.db.models import Min

from annotator import algorithms, jobs, queries, task_types
from annotator.actions import backtesting
from annotator.errors import InvalidSettings, JobCancelled, JobLost
from annotator.models import Annotation, LabelClass, Project, ProjectSettings, Split
from ml_worker import backtest, certifying, snapshot
from ml_worker.backtest import Advance, Bench, Progress
from ml_worker.backtest_plan import AS_IT_HAPPENED, RANDOM_CHECKS, Plan
from ml_worker.labelled import DIGITS, BadSource
from ml_worker.neighbours import nearest
from ml_worker.pool import Pool, Rows
from ml_worker.side_by_side import SideBySide, WorkerDied
from ml_worker.simulated_project import STRANGER, UNKNOWN, Scene
from ml_worker.snapshot import Embedded, Snapshot

# Beside the answered images so many others at most, by lot: they only show the lie of the land.
OTHERS_AT_MOST = 20_000
# Of the result: what the pages show without the points, which lie in a file.
SHOWN = ("n_pool", "n_test", "measured_on", "summary")


def run(run: jobs.Run) -> None:
    """Run the back-test that was asked for. One that was killed goes on with the sittings that were not over."""
    folder = backtesting.work_folder(run.job)
    run.report(run.job.progress, "preparing the pool", force=True)
    try:
        found = _found(run, folder)
    except JobCancelled:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except JobLost:
        raise  # another attempt works there now
    except (BadSource, WorkerDied) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise InvalidSettings(str(error)) from error
    path = backtesting.result_path(run.job)
    fresh = path.with_suffix(".part")
    fresh.write_text(json.dumps(found))
    fresh.replace(path)
    run.remember(**{name: found[name] for name in SHOWN})
    shutil.rmtree(folder, ignore_errors=True)
    backtesting.prune(run.job.project, run.job)


def _found(run: jobs.Run, folder: Path) -> dict[str, Any]:
    project, asked = run.job.project, run.job.parameters
    is_replay = asked["source"] == backtesting.ANSWERS
    usual = project.settings if is_replay else ProjectSettings()
    plan = plan_for(asked, usual)
    n_runs = (len(plan["acquisition"]) + 2 * is_replay) * len(plan["head"]) * plan["seeds"]
    advance = _advance(run, n_runs)
    if is_replay:
        return replay(project, plan=plan, advance=advance, folder=folder, **hands())
    return backtest.run(DIGITS, advance=advance, folder=folder, **hands(), **plan)


def hands() -> dict[str, Any]:
    """Processes of their own, one less than there are processors: somebody waits for the next image."""
    return {"processes": max(1, (os.cpu_count() or 1) - 1), "polite": True}


def plan_for(asked: dict[str, Any], usual: ProjectSettings) -> dict[str, Any]:
    """The fields of a Plan for the job's parameters; the rest as in these settings."""
    encoder = algorithms.DEFAULTS["encoder"]
    return {
        "encoder": encoder,
        "encoder_parameters": algorithms.clean_parameters("encoder", encoder, {}),
        "head_parameters": {name: usual.parameters_of("head", name) for name in asked["head"]},
        "views": any(algorithms.get("head", name).by_views for name in asked["head"]),
        "batch": usual.answers_per_refit,
        "cold_start": usual.cold_start,
        "audit_share": usual.audit_share,
        "queue_length": usual.queue_length,
        **{name: asked[name] for name in ("acquisition", "head", "target_precision", "budget", "seeds")},
        "confidence": [asked["confidence"]],
        "threshold_per_class": asked["threshold_per_class"],
    }


def _advance(run: jobs.Run, n_runs: int) -> Advance:
    """What says on the page how far the job is, and notices there that somebody cancelled."""
    began: list[tuple[float, float]] = []  # a run that goes on does not begin at 0

    def advance(share: float) -> None:
        began[:] = began or [(time.monotonic(), share)]
        gone, gained = time.monotonic() - began[0][0], share - began[0][1]
        left = ""
        if gone > 2.0 and gained > 0.0:
            minutes, seconds = divmod(round(gone * (1.0 - share) / gained), 60)
            left = f", {minutes}:{seconds:02d} left"
        run.report(share, f"{int(share * n_runs)} of {n_runs} runs done{left}")

    return advance


# --- the past of a project


def replay(
    project: Project,
    *,
    plan: dict[str, Any],
    progress: Progress = lambda line: None,
    advance: Advance = lambda share: None,
    processes: int = 1,
    polite: bool = False,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Back-test what people answered in a project, on its embedding; beside the functions asked for, the order in
    which it happened, and its random checks as if they were all there is. Returns what `simulate --json` writes.

    plan: the fields of Plan; the encoder is the project's. folder: where to work and to go on from. The answers are
    taken once and lie there, so that a run that goes on does so with the same. Raises InvalidSettings where they are
    too few, BadSource, WorkerDied.
    """
    embedding = queries.current_embedding(project)
    if embedding is None:
        raise InvalidSettings(queries.lack_of_embedding(project, "back-test"))
    wanted = Plan(**plan | {"encoder": embedding.result["encoder"], "encoder_parameters": {}})
    wanted = Plan(**vars(wanted) | {"acquisition": [*wanted.acquisition, AS_IT_HAPPENED, RANDOM_CHECKS]})
    taken = snapshot.take(project, embedding.result["folder"])
    with tempfile.TemporaryDirectory(prefix="back-test-") as scratch:
        bench = Bench(folder or Path(scratch), wanted, project.name, past=True)
        if not (bench.folder / "past" / "scene.json").exists():
            past(project, taken).save(bench.folder / "past")
        names = dict(LabelClass.objects.filter(pk__in=taken.class_ids).values_list("pk", "name"))
        classes = [names[class_id] for class_id in taken.class_ids]
        with SideBySide(min(processes, len(list(wanted.units()))), polite=polite) as workers:
            return backtest.sit(bench, classes, workers, progress, advance)


def past(project: Project, taken: Snapshot) -> Scene:
    """What people said so far: all of their random checks as `is_audit`, of which each seed holds out half. Raises
    InvalidSettings where that is too little.

    Labels that came with an import are left out, and so are images that were skipped, or that people disagree about:
    no oracle can answer for them. Random checks count where they were answered in their turn, as for the gate.
    """
    embedded, n = taken.embedded, len(taken.embedded.item_ids)
    targets = np.full(n, UNKNOWN, np.int64)
    rows, columns = _said(project, taken)
    in_pool = embedded.splits[rows] == snapshot.SPLIT_CODES[Split.POOL]
    targets[rows[in_pool]] = columns[in_pool]
    checks = certifying.blind_answers(project)
    checks = checks.only(checks.in_turn & embedded.rows(checks.item_ids)[1])
    check_rows = embedded.rows(checks.item_ids)[0]
    by_class = {class_id: column for column, class_id in enumerate(taken.class_ids)}
    targets[check_rows] = [by_class.get(class_id, STRANGER) for class_id in checks.class_ids.tolist()]
    is_audit = np.zeros(n, bool)
    is_audit[check_rows] = True
    is_pool = embedded.splits == snapshot.SPLIT_CODES[Split.POOL]
    # Settled otherwise than by a label of a person: neither open nor known.
    is_pool[taken.asked_rows[targets[taken.asked_rows] == UNKNOWN]] = False
    named = int((is_pool & (targets >= 0)).sum())
    if lacking := backtesting.lack_for_replay(named, int((targets[check_rows] >= 0).sum())):
        raise InvalidSettings(lacking)
    if len(np.unique(targets[is_pool & (targets >= 0)])) < 2:
        raise InvalidSettings("the answers cover one class; answer images of another first")
    order = _order(project, embedded)
    order = order[(is_pool | is_audit)[order] & (targets[order] != UNKNOWN)]
    scene = Scene(embedded.pool, targets, len(taken.class_ids), is_pool, is_audit, np.zeros(n, bool), order)
    return _thinned(scene)


def _said(project: Project, taken: Snapshot) -> tuple[Rows, Rows]:
    """Rows and columns of what people settled on, STRANGER for none of the classes. One query."""
    current = Annotation.objects.filter(
        project=project,
        source=Annotation.Source.PERSON,
        kind__in=[Annotation.Kind.LABEL, Annotation.Kind.NONE_OF_THESE],
        superseded_by__isnull=True,
    )
    by_item: dict[int, list[Annotation]] = defaultdict(list)
    for annotation in current.only("item_id", "value", "source", "kind").order_by("id").iterator(chunk_size=5000):
        by_item[annotation.item_id].append(annotation)
    task_type = task_types.get(project.task_type)
    by_class = {class_id: column for column, class_id in enumerate(taken.class_ids)}
    said: dict[int, int] = {}
    for item_id, given in by_item.items():
        value = queries.settled_value(task_type, given)
        if value and (column := by_class.get(task_type.class_ids(value)[0])) is not None:
            said[item_id] = column
        elif all(each.kind == Annotation.Kind.NONE_OF_THESE for each in given):
            said[item_id] = STRANGER
    item_ids, columns = np.array([*said], np.int64), np.array([*said.values()], np.int64)
    rows, has_row = taken.embedded.rows(item_ids)
    return rows[has_row], columns[has_row]


def _order(project: Project, embedded: Embedded) -> Rows:
    """Rows in the order of the first answer a person gave to them. One query."""
    given = Annotation.objects.filter(project=project, source=Annotation.Source.PERSON).order_by()
    first = given.values_list("item").annotate(first=Min("id")).order_by("first")
    rows, has_row = embedded.rows(np.array([item_id for item_id, _ in first], np.int64))
    return rows[has_row]


def _thinned(scene: Scene) -> Scene:
    """The scene with OTHERS_AT_MOST unanswered images, by lot, and their graph drawn anew; itself where there are no
    more."""
    answered = scene.is_known
    others = np.flatnonzero(~answered)
    if len(others) <= OTHERS_AT_MOST:
        return scene
    kept = np.sort(
        np.concatenate(
            [np.flatnonzero(answered), np.random.default_rng(0).choice(others, OTHERS_AT_MOST, replace=False)]
        )
    )
    whole = scene.pool
    embeddings, indexed = np.asarray(whole.embeddings[kept]), np.asarray(whole.indexed[kept])
    views = None if whole.views is None else np.asarray(whole.views[:, kept])
    return Scene(
        Pool(embeddings, *nearest(embeddings, indexed), indexed, views),
        scene.targets[kept],
        scene.n_classes,
        scene.is_pool[kept],
        scene.is_audit[kept],
        scene.is_test[kept],
        None if scene.order is None else np.searchsorted(kept, scene.order),
    )
