"""The compare job: every encoder there is for a project, judged by the answers it has so far."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from django.core.files.storage import default_storage

from annotator import algorithms, jobs, queries
from annotator.errors import InvalidSettings, JobCancelled, JobLost
from annotator.models import Item, Job, Project
from ml_worker import encoder_report, encoders, snapshot
from ml_worker.encoder_report import Accuracy, Mask, Report
from ml_worker.encoding import NotFinite, check_finite
from ml_worker.images import DecodedPool, Images, Selection, UnreadableImage, decode
from ml_worker.pool import Floats, Rows
from ml_worker.snapshot import Snapshot
from ml_worker.vision_models import ModelUnavailable, plain_name, reason

logger = logging.getLogger(__name__)

# Answered images at most, and others beside them, which only say where the middle of the pool is.
ANSWERED_AT_MOST, OTHERS_AT_MOST = 2000, 1000
# From so many answered random checks on, they alone judge; before, every answer does.
CHECKS_ENOUGH = 30
# Images embedded between two reports.
BLOCK = 64
# Shares of the progress bar: embedding by all encoders, and of one the learning.
COMPARED, LEARNT = 0.95, 0.9
TRAINED = "trained"

Progress = Callable[[float, str], None]


class LeftOut(ValueError):
    """This encoder takes no part; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Sample:
    """What encoders are compared on. rows: int64 (L + M,) of the embedding, the L answered ones first; targets: int64
    (L,); checks: bool (L,), which of them are random checks."""

    rows: Rows
    targets: Rows
    checks: Mask


@dataclass(frozen=True, eq=False)
class Bench:
    """What every encoder is given. also: those to have in whatever they cost."""

    project: Project
    embedding: Job
    taken: Snapshot
    sample: Sample
    also: list[str]
    seed: int

    @property
    def folder(self) -> Path:
        return snapshot.embedding_folder(self.embedding.result["folder"])

    @property
    def item_ids(self) -> Rows:
        """Of the sample."""
        return self.taken.embedded.item_ids[self.sample.rows]

    def decoded(self, image_px: int) -> DecodedPool:
        return DecodedPool(snapshot.embedding_folder(f"{self.project.pk}/decoded-{image_px}"), image_px)

    def whole_pool(self) -> Selection:
        """Everything an encoder may learn from, as it is for the embedding job."""
        decoded = self.decoded(self.embedding.result["image_px"])
        indexed = np.asarray(self.taken.embedded.pool.indexed)
        return Selection(decoded.images(), decoded.rows(self.taken.embedded.item_ids[indexed]))

    def parameters(self, name: str) -> dict[str, Any]:
        return self.project.settings.parameters_of("encoder", name)

    def fresh(self, name: str) -> Any:
        return encoders.load(name)(seed=self.seed, **self.parameters(name))


def run(run: jobs.Run) -> None:
    """Embed the answered images and some others with each encoder, and keep in the result how well each does.

    An encoder that cannot be had is listed with its reason; the others go on. Nothing of the project changes.
    """
    project = run.job.project
    embedding = queries.current_embedding(project)
    if embedding is None:
        raise InvalidSettings("the images are not embedded yet; compare encoders once they are")
    taken = snapshot.take(project, embedding.result["folder"])
    sample = _sample(taken, np.random.default_rng(run.job.seed))
    bench = Bench(project, embedding, taken, sample, run.job.parameters.get("also", []), run.job.seed)
    names = [each.name for each in algorithms.catalogue("encoder")]
    names += [TRAINED] if embedding.result["encoder"] == TRAINED else []
    found: dict[str, Floats] = {}
    notes: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for place, name in enumerate(names):
        started = time.perf_counter()
        progress = _share_of(run, title(name), place, len(names))
        progress(0.0, "looking for it")
        try:
            embeddings, note = _embedded(bench, name, progress)
            check_finite(embeddings)
            found[name], notes[name] = embeddings, note
            run.log(f"{title(name)}: {len(sample.rows):,} images in {time.perf_counter() - started:.1f} s")
        except JobLost:
            raise
        except Exception as error:  # the boundary of an encoder: those after it have their turn
            if not isinstance(error, (LeftOut, ModelUnavailable, NotFinite)):
                logger.exception("job %s cannot compare with the encoder %s", run.job.pk, name)
            left_out[name] = reason(error)
            run.log(f"{title(name)}: {left_out[name]}")
    run.report(COMPARED, "comparing them", force=True)
    report = _report(bench, found)
    run.remember(encoders=_as_json(bench, report, notes, left_out))
    run.report(1.0, report.why, force=True)


def title(name: str) -> str:
    """What people call this encoder, in quotes: it stands in the middle of sentences."""
    known = "The trained network" if name == TRAINED else algorithms.get("encoder", name).title
    return f"“{known}”"


def _share_of(run: jobs.Run, name: str, place: int, n: int) -> Progress:
    def progress(share: float, sentence: str) -> None:
        run.report(COMPARED * (place + share) / n, f"{name}: {sentence}")

    return progress


def _sample(taken: Snapshot, rng: np.random.Generator) -> Sample:
    """Random checks first, since they judge best; then other answers and unanswered images by lot."""
    checks, train = (_some(each.rows, ANSWERED_AT_MOST, rng) for each in (taken.audit, taken.train))
    train = train[: ANSWERED_AT_MOST - len(checks)]
    answered = np.concatenate([taken.audit.rows[checks], taken.train.rows[train]])
    others = np.setdiff1d(np.flatnonzero(taken.embedded.pool.indexed), answered)
    return Sample(
        rows=np.concatenate([answered, others[_some(others, OTHERS_AT_MOST, rng)]]),
        targets=np.concatenate([taken.audit.targets[checks], taken.train.targets[train]]),
        checks=np.arange(len(answered)) < len(checks),
    )


def _some(rows: Rows, most: int, rng: np.random.Generator) -> Rows:
    """Places of at most so many of the rows, in random order."""
    return rng.permutation(len(rows))[:most]


def _report(bench: Bench, found: dict[str, Floats]) -> Report:
    if not found:
        return Report((), "", "No encoder could be had.")
    sample = bench.sample
    judged = sample.checks if _is_judged_on_checks(sample, TRAINED in found) else None
    what = "answered images" if judged is None else "random checks"
    titled = {title(name): embeddings for name, embeddings in found.items()}
    return encoder_report.rank(titled, sample.targets, seed=bench.seed, judged=judged, what=what)


def _is_judged_on_checks(sample: Sample, with_network: bool) -> bool:
    """A trained network has seen every other answer. Those were asked because they were hard or typical for the
    encoder in use, which makes them a worse yardstick than random checks, where there are enough of them."""
    return with_network or int(sample.checks.sum()) >= CHECKS_ENOUGH


def _as_json(bench: Bench, report: Report, notes: dict[str, str], left_out: dict[str, str]) -> dict[str, Any]:
    """What pages and programs read. Accuracies are None where too few answers were there to give any."""
    names = {title(name): name for name in notes}
    on_checks = _is_judged_on_checks(bench.sample, TRAINED in notes)
    judged = int(bench.sample.checks.sum()) if on_checks else len(bench.sample.targets)
    tells = judged >= encoder_report.FEWEST and len(np.unique(bench.sample.targets)) > 1
    return {
        "lines": [
            {
                "name": names[line.name],
                "note": notes[names[line.name]],
                "knn": _rates(line.knn) if tells else None,
                "probe": _rates(line.probe) if tells else None,
            }
            for line in report.lines
        ],
        "left_out": [{"name": name, "why": why} for name, why in left_out.items()],
        "recommended": names.get(report.recommended, ""),
        "why": report.why,
        "judged": judged,
        "checks_enough": CHECKS_ENOUGH,
        "judged_on": "checks" if on_checks else "answers",
        "answers": len(bench.sample.targets),
        "in_use": bench.embedding.result["encoder"],
    }


def _rates(found: Accuracy) -> dict[str, float]:
    return {"rate": round(found.rate, 4), "low": round(found.low, 4), "high": round(found.high, 4)}


# --- each encoder


def _embedded(bench: Bench, name: str, progress: Progress) -> tuple[Floats, str]:
    """Embeddings float32 (L + M, D) of the sample, and what is to be said of them. Raises LeftOut, and whatever a
    model may raise that does not open."""
    if name == TRAINED:
        return _on_disk(bench), (
            "It was taught the other answers, so the random checks alone count here; it took over because it did well"
            " on them."
        )
    in_use = bench.embedding.result["encoder"] == name and _is_as_set(bench.folder / "encoder", bench.parameters(name))
    if name == "pretrained":
        return _by_published(bench, in_use, progress)
    if in_use:
        return _on_disk(bench), ""
    if name == "self_supervised":
        encoder, note = _self_supervised(bench, lambda share, said: progress(LEARNT * share, said))
    else:
        encoder, note = bench.fresh(name), ""
        encoder.fit(bench.whole_pool())
    squares = _squares(bench, bench.embedding.result["image_px"])
    return _in_blocks(encoder, squares, bench, lambda share, said: progress(LEARNT + (1 - LEARNT) * share, said)), note


def _on_disk(bench: Bench) -> Floats:
    return np.asarray(bench.taken.embedded.pool.embeddings[bench.sample.rows], np.float32)


def _is_as_set(folder: Path, parameters: dict[str, Any]) -> bool:
    """Whether the encoder saved in a folder was made with these parameters, and so is of that name."""
    try:
        saved = json.loads((folder / "encoder.json").read_text())
    except (OSError, ValueError):
        return False
    return all(name in saved and saved[name] == value for name, value in parameters.items())


def _by_published(bench: Bench, in_use: bool, progress: Progress) -> tuple[Floats, str]:
    settings, parameters = bench.project.settings, bench.parameters("pretrained")
    is_named = settings.encoder == "pretrained" or "encoder.pretrained.model" in settings.parameters
    if not is_named and "pretrained" not in bench.also:
        raise LeftOut(f"no model is named in the settings; once ticked it is {plain_name(parameters['model'])}")
    if in_use:
        return _on_disk(bench), plain_name(parameters["model"])
    encoder = bench.fresh("pretrained")
    image_px = settings.image_px or encoder.image_px
    return _in_blocks(encoder, _squares(bench, image_px), bench, progress), plain_name(parameters["model"])


def _self_supervised(bench: Bench, progress: Progress) -> tuple[Any, str]:
    """The network taught on the pool as the settings say: the one on the disk, or one that learns now if that is
    wished or it is what the settings name."""
    parameters, image_px = bench.parameters("self_supervised"), bench.embedding.result["image_px"]
    mine = snapshot.embedding_folder(f"{bench.project.pk}/compared-self_supervised")
    of_project = snapshot.embedding_folder(str(bench.project.pk))
    wanted = parameters | {"image_px": image_px}
    for folder in (mine / "encoder", *sorted(of_project.glob("embedding-*/encoder"))):
        if _is_as_set(folder, wanted):
            return encoders.load("self_supervised").load(folder), "As it was taught before"
    if "self_supervised" not in bench.also and bench.project.settings.encoder != "self_supervised":
        raise LeftOut(f"not taught yet; once ticked it learns for {parameters['minutes']:g} minutes first")
    encoder, pool = bench.fresh("self_supervised"), bench.whole_pool()
    try:
        encoder.fit(pool, progress=progress, folder=mine / "work")
    except JobCancelled:
        shutil.rmtree(mine / "work", ignore_errors=True)
        raise
    # Whole or not at all: what lies there is used without a second look.
    shutil.rmtree(mine / "fresh", ignore_errors=True)
    encoder.save(mine / "fresh")
    shutil.rmtree(mine / "encoder", ignore_errors=True)
    (mine / "fresh").rename(mine / "encoder")
    return encoder, f"Taught on {len(pool):,} images"


def _in_blocks(encoder: Any, squares: Callable[[slice], Images], bench: Bench, progress: Progress) -> Floats:
    n, blocks = len(bench.sample.rows), []
    for start in range(0, n, BLOCK):
        blocks.append(np.asarray(encoder.embed(squares(slice(start, start + BLOCK))), np.float32))
        done = min(start + BLOCK, n)
        progress(done / n, f"embedded {done:,} of {n:,} images")
    return np.concatenate(blocks)


def _squares(bench: Bench, image_px: int) -> Callable[[slice], Images]:
    """The images of the sample at this size, a slice at a time: as they lie there, else decoded for this once."""
    decoded = bench.decoded(image_px)
    if not len(decoded.missing(bench.item_ids)):
        there = Selection(decoded.images(), decoded.rows(bench.item_ids))
        return lambda which: there[which]
    wanted = bench.item_ids.tolist()
    keys = dict(Item.objects.filter(pk__in=wanted).values_list("pk", "storage_key"))

    def squares(which: slice) -> Images:
        with ThreadPoolExecutor() as threads:
            return np.stack(list(threads.map(lambda pk: _decoded(keys[pk], image_px), wanted[which])))

    return squares


def _decoded(storage_key: str, image_px: int) -> Images:
    """The image, or plain grey where storage lost it, as the embedding has it."""
    try:
        with default_storage.open(storage_key) as file:
            return decode(file.read(), image_px)
    except (UnreadableImage, OSError):
        return np.full((image_px, image_px, 3), 128, np.uint8)
