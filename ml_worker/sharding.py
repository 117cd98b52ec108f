"""Scoring a large pool in shards, by whichever workers have time; none of them may be missed.

The job that wants the scores lays out, in a folder that all workers share, what is to be computed. Rows of
ScoringShard say who computes which images; a message only says "look". The job takes shards as every helper does, so
that with one worker nothing waits for anybody, and what one attempt at the job computed serves the next.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from django.conf import settings
from django.db import transaction
from django.db.models import Count, F, Q, QuerySet, Sum
from django.utils import timezone

from annotator import jobs
from annotator.errors import JobLost
from annotator.models import Job, ScoringShard
from ml_worker import encoders, encoding, nets
from ml_worker.encoding import BLOCK
from ml_worker.images import DecodedPool, Images, Selection
from ml_worker.pool import Floats, Rows
from ml_worker.predict import predict
from ml_worker.vision_models import ModelUnavailable
from ml_worker.whole_files import whole_file

logger = logging.getLogger(__name__)

SCORE_SHARDS = "ml_worker.tasks.score_shards"
# A pool of fewer shards than this is scored by its job alone: a helper would open the model for too little.
SHARDS_AT_LEAST = 4
MAX_ATTEMPTS = 3
RING_S, LOOK_S, WAIT_S = 2.0, 1.0, 0.2

Progress = Callable[[int, int], None]
Tick = Callable[[int], None]
# Scores float32 (end - first, W) of the images from first to end; tick(how many of them are done) ends it by raising.
Compute = Callable[[int, int, Tick], Floats]

# One scoring at a time in a process: it takes all cores, and the other threads are for people who wait.
_scoring = threading.Lock()


class ScoringFailed(RuntimeError):
    """Some images could not be scored; the message says which and why."""


# --- what is scored


def network_scores(
    run: jobs.Run,
    net: nets.Network,
    decoded: DecodedPool,
    rows: Rows,
    *,
    device: str,
    work: Path,
    progress: Progress,
) -> tuple[Floats, Floats]:
    """Features float32 (n, D) and logits float32 (n, C) of these rows, in their order, as `predict` gives them.

    net: on the device. work: a folder of this job alone, for what a later attempt can go on from; who gave it
    removes it. progress(done, total) may raise to cancel. Raises ScoringFailed.
    """
    if not _is_large(len(rows)):
        said = predict(net, decoded.images(), rows, device=device, batch=BLOCK, progress=progress)
        return said.features, said.logits

    def save(folder: Path) -> None:
        nets.save_network(net, folder, net.name, net.classifier.out_features, decoded.image_px)
        net.to(device)  # which saving took it from

    folder = _laid_out(work, decoded, rows, save, encoder="", device=torch.device(device).type)
    shards = _shared(run, folder, len(rows), _by_network(net, decoded.images(), rows, device), progress)
    features = np.concatenate([scores[:, : net.n_features] for scores in shards])
    return features, np.concatenate([scores[:, net.n_features :] for scores in shards])


def embed(
    run: jobs.Run,
    name: str,
    decoded: DecodedPool,
    encoder: Any,
    pool: Selection,
    folder: Path,
    progress: encoding.Progress,
) -> Floats:
    """`encoding.embed_here`, with the help of other workers where the pool is large. pool: images of `decoded`."""
    if not _is_large(len(pool)):
        return encoding.embed_here(encoder, pool, folder, progress)
    path, width = folder / "embeddings.f32", encoder.embed(pool[:1]).shape[1]
    if not path.exists() or path.stat().st_size != 4 * width * len(pool):

        def scored(done: int, total: int) -> None:
            progress(done / total, f"embedded {done:,} of {total:,} images")

        shared = _laid_out(folder, decoded, pool.rows, encoder.save, encoder=name, device=_device_of(encoder))
        shards = _shared(run, shared, len(pool), _by_encoder(encoder, pool), scored)
        with whole_file(path, _me()) as file:
            for scores in shards:
                file.write(scores.tobytes())
        shutil.rmtree(shared)
    return np.memmap(path, np.float32, "r", shape=(len(pool), width))


def _is_large(n: int) -> bool:
    # A job that runs where it was asked for has nobody to share with.
    return n >= SHARDS_AT_LEAST * _shard_size() and not settings.JOBS_INLINE


def _by_network(net: nets.Network, images: Images, rows: Rows, device: str) -> Compute:
    def compute(first: int, end: int, tick: Tick) -> Floats:
        said = predict(
            net, images, rows[first:end], device=device, batch=BLOCK, progress=lambda done, total: tick(done)
        )
        return np.concatenate([said.features, said.logits], axis=1)

    return compute


def _by_encoder(encoder: Any, pool: Selection) -> Compute:
    def compute(first: int, end: int, tick: Tick) -> Floats:
        blocks = []
        for start in range(first, end, BLOCK):
            blocks.append(encoder.embed(pool[start : min(start + BLOCK, end)]))
            tick(min(start + BLOCK, end) - first)
        return np.ascontiguousarray(np.concatenate(blocks), np.float32)

    return compute


def _device_of(encoder: Any) -> str:
    return torch.device(getattr(encoder, "device", "cpu")).type


# --- the folder


def _laid_out(
    work: Path, decoded: DecodedPool, rows: Rows, save: Callable[[Path], None], *, encoder: str, device: str
) -> Path:
    """A folder with model, rows and what else a helper needs, named by all of it: what is found there fits.

    encoder: its name in the catalogue; "" for a trained network. Appears whole, by a rename.
    """
    unfinished = work / "scoring.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save(unfinished / "model")
    np.save(unfinished / "rows.npy", rows)
    what = {
        "model": encoders.fingerprint(unfinished / "model"),
        "encoder": encoder,
        "device": device,
        "decoded": str(decoded.folder.relative_to(settings.ARTIFACT_ROOT)),
        "image_px": decoded.image_px,
        "shard": _shard_size(),
    }
    written = json.dumps(what, sort_keys=True)
    (unfinished / "scoring.json").write_text(written)
    folder = work / f"scoring-{hashlib.sha256(written.encode() + rows.tobytes()).hexdigest()[:16]}"
    if folder.exists():
        shutil.rmtree(unfinished)
    else:
        unfinished.rename(folder)
    return folder


def _shard_size() -> int:
    """Whole blocks, so that the same matrices are multiplied as without shards."""
    return max(1, settings.SHARD_IMAGES // BLOCK) * BLOCK


def _opened(folder: Path) -> Compute | None:
    """What computes as the job does itself; None where this process would compute on another kind of device."""
    what = json.loads((folder / "scoring.json").read_text())
    here = "cuda" if torch.cuda.is_available() else "cpu"
    if what["device"] not in ("cpu", here):
        return None
    encoders.check_same(folder / "model", what["model"])
    images = DecodedPool(Path(settings.ARTIFACT_ROOT) / what["decoded"], what["image_px"]).images()
    rows = np.load(folder / "rows.npy")
    if not what["encoder"]:
        net, _ = nets.load_network(folder / "model")
        return _by_network(net.to(what["device"]), images, rows, what["device"])
    encoder = encoders.load(what["encoder"]).load(folder / "model")
    return _by_encoder(encoder, Selection(images, rows)) if _device_of(encoder) == what["device"] else None


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:04}.npy"


def _me() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"[-100:]


# --- the job that wants the scores


def _shared(run: jobs.Run, folder: Path, n: int, compute: Compute, progress: Progress) -> list[Floats]:
    """The scores of every shard, mapped, in order; this process and its helpers compute them."""
    shards = _open_shards(run.job, folder, n)
    mine = ScoringShard.objects.filter(pk__in=[shard.pk for shard in shards])  # never those of a later attempt
    is_first = _scoring.acquire(blocking=False)
    try:
        _work_through(run.job, compute, progress, n)
        workers = mine.exclude(held_by="").values("held_by").distinct().count()
        run.log(f"scored {n:,} images in {len(shards)} shards by {max(1, workers)} worker{'s' * (workers > 1)}")
    finally:
        mine.delete()
        if is_first:
            _scoring.release()
    return [np.load(_shard_path(folder, shard.number), mmap_mode="r") for shard in shards]


def _open_shards(job: Job, folder: Path, n: int) -> list[ScoringShard]:
    """Rows for all shards, those done already whose scores lie in the folder; those of an attempt before are gone."""
    name, size = str(folder.relative_to(settings.ARTIFACT_ROOT)), _shard_size()
    # Listed, not asked for one by one: a network file system remembers what it said was not there.
    there = set(folder.glob("shard-*.npy"))
    shards = [
        ScoringShard(
            job=job,
            folder=name,
            number=number,
            first=first,
            end=min(first + size, n),
            is_done=_shard_path(folder, number) in there,
        )
        for number, first in enumerate(range(0, n, size))
    ]
    with transaction.atomic():
        ScoringShard.objects.filter(job=job).delete()
        return ScoringShard.objects.bulk_create(shards)


def _work_through(job: Job, compute: Compute, progress: Progress, n: int) -> None:
    """Take shards until none is left, ring for helpers, and wait for theirs."""
    shards, rung_at = ScoringShard.objects.filter(job=job), -RING_S

    def ring() -> None:
        nonlocal rung_at
        if time.monotonic() - rung_at >= RING_S:
            rung_at = time.monotonic()
            _ring(job)

    while True:
        stand = shards.aggregate(
            left=Count("pk", filter=Q(is_done=False)),
            done=Sum(F("end") - F("first"), filter=Q(is_done=True), default=0),
        )
        progress(min(stand["done"], n), n)
        if not stand["left"]:
            return
        ring()
        _take_one(job, compute, partial(_tell, progress, stand["done"], n), ring)


def _tell(progress: Progress, before: int, n: int, done: int) -> None:
    progress(min(before + done, n), n)


def _take_one(job: Job, compute: Compute, tick: Tick, ring: Callable[[], None]) -> None:
    """Score a shard, or wait a moment where others hold all that is left. Raises ScoringFailed for a hopeless one."""
    shard = _claim(job.pk)
    if shard is not None:
        _attempt(shard, compute, tick, ring)
        return
    given_up = _free(ScoringShard.objects.filter(job=job, attempt__gte=MAX_ATTEMPTS)).first()
    if given_up is not None:
        why = given_up.error or "the worker stopped each time; it may be out of memory"
        raise ScoringFailed(f"{given_up} could not be scored in {given_up.attempt} attempts: {why}")
    time.sleep(WAIT_S)


def _ring(job: Job) -> None:
    """Two messages for each worker that does not help yet: this process gets some of them, too."""
    fresh = timezone.now() - timedelta(seconds=settings.JOB_STALE_S)
    held = ScoringShard.objects.filter(job=job, heartbeat_at__gte=fresh).exclude(held_by=_me())
    for _ in range(2 * (jobs.workers_alive() - 1 - held.values("held_by").distinct().count())):
        jobs.ring(job.pk, SCORE_SHARDS)


# --- a helper


def assist(job_id: int) -> None:
    """Score shards of this job until none is left; nothing while this process scores already."""
    if not _scoring.acquire(blocking=False):
        return
    try:
        shard = _free(ScoringShard.objects.filter(job=job_id)).first()
        if shard is None:
            return
        try:
            compute = _opened(Path(settings.ARTIFACT_ROOT) / shard.folder)
        except (OSError, encoders.Mismatch, ModelUnavailable) as error:  # gone meanwhile, or not to be had here
            logger.warning("cannot help to score for job %s: %s", job_id, error)
            return
        while compute and (mine := _claim(job_id, folder=shard.folder, error="")):
            if not _attempt(mine, compute, partial(_look, mine, [time.monotonic()])):
                return
    except JobLost as error:
        logger.info("stopped helping: %s", error)
    finally:
        _scoring.release()


def _look(shard: ScoringShard, looked: list[float], done: int) -> None:
    """Raises JobLost when these images are no longer wanted from this process. looked: when it last asked."""
    if time.monotonic() - looked[0] < LOOK_S:
        return
    looked[0] = time.monotonic()
    if not _held(shard).filter(_WANTED).exists():
        raise JobLost(f"{shard} are wanted no longer")


# --- one shard

_WANTED = Q(job__state__in=[Job.State.QUEUED, Job.State.RUNNING], job__cancel_requested=False)


def _free(shards: QuerySet[ScoringShard]) -> QuerySet[ScoringShard]:
    """Those of the shards that are to be done and that nobody holds, or only somebody who went silent."""
    silent = timezone.now() - timedelta(seconds=settings.JOB_STALE_S)
    return shards.filter(Q(heartbeat_at=None) | Q(heartbeat_at__lt=silent), is_done=False).order_by("number")


def _held(shard: ScoringShard) -> QuerySet[ScoringShard]:
    """The row of the shard while this process holds it."""
    return ScoringShard.objects.filter(pk=shard.pk, attempt=shard.attempt, heartbeat_at__isnull=False)


def _claim(job_id: int, **those: str) -> ScoringShard | None:
    """A shard that this process holds from now on, or None. One that another holds a lock on is passed over.

    those: what else must be true of it. Helpers leave alone what failed anywhere: one sick worker would else use up
    the attempts of images that the job's own could score.
    """
    with transaction.atomic():
        wanted = ScoringShard.objects.filter(_WANTED, job=job_id, attempt__lt=MAX_ATTEMPTS, **those)
        shard = _free(wanted).select_for_update(skip_locked=True, of=("self",)).first()
        if shard is not None:
            shard.attempt, shard.held_by, shard.heartbeat_at = shard.attempt + 1, _me(), timezone.now()
            shard.save(update_fields=["attempt", "held_by", "heartbeat_at"])
        return shard


def _attempt(shard: ScoringShard, compute: Compute, tick: Tick, ring: Callable[[], None] = lambda: None) -> bool:
    """Whether the scores of the shard now lie in its folder; if not, the row says why. Lets JobLost through.

    ring: called now and then meanwhile, from another thread, for one block may take half a minute.
    """

    def beat() -> None:
        if not _held(shard).update(heartbeat_at=timezone.now()):
            raise JobLost(f"{shard} were taken over")
        ring()

    try:
        with jobs.beating(beat, str(shard)):
            scores = compute(shard.first, shard.end, tick)
            path = _shard_path(Path(settings.ARTIFACT_ROOT) / shard.folder, shard.number)
            with whole_file(path, _me()) as file:
                np.save(file, scores)
    except JobLost:
        _held(shard).update(heartbeat_at=None)
        raise
    except Exception as error:  # the boundary of a shard: the job decides whether it is tried again
        logger.exception("could not score %s", shard)
        _held(shard).update(heartbeat_at=None, error=f"{type(error).__name__}: {error}")
        return False
    return bool(_held(shard).update(is_done=True, heartbeat_at=None, error=""))
