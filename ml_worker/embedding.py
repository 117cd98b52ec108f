"""The embedding job: every image decoded once, one vector and its nearest neighbours for each."""

import hashlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from django.core.files.storage import default_storage

from annotator import algorithms, jobs, queries
from annotator.errors import InvalidImport, InvalidSettings
from annotator.models import Item, Job, ModelVersion, Project, Split
from ml_worker import encoders, looks, mapping, neighbours, sharding, snapshot
from ml_worker.encoding import NotFinite, check_finite, encode, with_time_left
from ml_worker.images import DecodedPool, Images, Selection, UnreadableImage, decode, training_px
from ml_worker.nets import Network, load_network
from ml_worker.pool import Floats, Pool, Rows
from ml_worker.predict import predict
from ml_worker.previews import augmentation
from ml_worker.vision_models import ModelUnavailable

# Images decoded between two writes: more where a pool is large, because each write repeats all ids, within 256 MB.
CHUNK, CHUNKS_AT_MOST, CHUNK_BYTES = 256, 200, 2**28
# Images that may be plain grey because they cannot be read any more: so many, or this share of a large pool.
GREY_AT_MOST, GREY_SHARE = 20, 0.05
# Shares of the progress bar.
DECODED, EMBEDDED, VIEWED = 0.4, 0.85, 0.95
# What tells a later run that the encoder beside an embedding is the one it would learn again.
REUSED = ("made_for.json", "fingerprint")


def run(run: jobs.Run) -> None:
    """Embed everything in the project and ask for a refit on it.

    What is decoded, learnt and embedded is kept, so a run that was killed goes on where it was; one that follows a
    second import decodes only what is new. The encoder is fitted on pool and audit images, never on test images; the
    neighbour graph likewise.
    """
    project = run.job.project
    columns = list(Item.objects.filter(project=project).order_by("pk").values_list("pk", "split", "width", "height"))
    if not columns:
        raise InvalidImport("there are no images in this project yet; import some first")
    item_ids = np.array([row[0] for row in columns], np.int64)
    splits = np.array([snapshot.SPLIT_CODES[Split(row[1])] for row in columns], np.uint8)
    indexed = splits != snapshot.SPLIT_CODES[Split.TEST]
    if not indexed.any():
        raise InvalidImport("every image of this project is in the test split; import some to label")
    native_px = training_px([row[2] for row in columns], [row[3] for row in columns])
    name = f"{project.pk}/embedding-{run.job.pk}-{run.job.attempt}"
    folder = snapshot.embedding_folder(name)
    network = None if run.job.parameters.get("afresh") else _network(project)
    if network:
        image_px = encoder_px = network[1]
        decoded = _decode(run, project, [image_px], item_ids)[image_px]
        embeddings, encoder_name = _by_network(run, network[0], decoded, item_ids), "trained"
        shutil.copytree(network[2], folder / "network")
        embed = partial(_features, network[0])
    else:
        encoder, encoder_name = _encoder(run, project), project.settings.encoder
        image_px, encoder_px = _sizes(project, encoder, native_px)
        decoded = _decode(run, project, [image_px, encoder_px], item_ids)[encoder_px]
        embeddings = _by_encoder(run, encoder, decoded, indexed, item_ids, folder)
        embed = type(encoder).load(folder / "encoder").embed
    _check_finite(embeddings)
    of = encoders.fingerprint(folder / ("network" if network else "encoder"))
    views = _views(run, embed, of, decoded, item_ids)
    for view in () if views is None else views:
        _check_finite(view)
    pool = _with_neighbours(run, embeddings, indexed, views)
    if not run.job.parameters.get("afresh") and _was_overtaken(run.job, network):
        run.log("a network took over meanwhile; the images are embedded with that one instead")
        jobs.enqueue(project, Job.Kind.EMBED)
        return
    _save(pool, item_ids, splits, folder)
    run.log(f"embedded {len(item_ids):,} images of {encoder_px} px to {pool.embeddings.shape[1]} numbers each")
    run.job.result = {"folder": name, "n": len(item_ids), "image_px": image_px, "encoder": encoder_name}
    run.job.result["unreadable"] = int(np.isin(decoded.unreadable, item_ids).sum())
    if algorithms.get("head", project.settings.head).by_views:
        run.job.result |= {"views": 0 if views is None else len(views), "mirrored": project.settings.augment_mirror}
    Job.objects.filter(pk=run.job.pk).update(result=run.job.result)
    _prune(project, keep=name, sizes={image_px, encoder_px})
    jobs.enqueue(project, Job.Kind.REFIT)
    mapping.follow(project, len(item_ids))


def _was_overtaken(job: Job, network: tuple[Network, int, Path] | None) -> bool:
    """Whether a training promoted another network than the one this embedding began with."""
    current = queries.current_embedding(job.project)
    if current is None or current.result["encoder"] != "trained":
        return False
    return network is None or network[2] != snapshot.embedding_folder(current.result["folder"]) / "network"


def _encoder(run: jobs.Run, project: Project) -> Any:
    return encoders.load(project.settings.encoder)(seed=run.job.seed, **snapshot.encoder_parameters(project))


def _sizes(project: Project, encoder: Any, native_px: int) -> tuple[int, int]:
    """Side of the squares that networks are trained on, and of those the encoder gets.

    A published model wishes squares of 200 px and more, which no network here could be trained on in good time.
    """
    if project.settings.image_px:
        return project.settings.image_px, project.settings.image_px
    try:
        return native_px, getattr(encoder, "image_px", 0) or native_px
    except ModelUnavailable as error:
        raise InvalidSettings(str(error)) from error


def _decode(run: jobs.Run, project: Project, sizes: list[int], item_ids: Rows) -> dict[int, DecodedPool]:
    """By size: all decoded images, those of these items among them."""
    found = {}
    for place, image_px in enumerate(sorted(set(sizes))):
        folder = snapshot.embedding_folder(f"{project.pk}/decoded-{image_px}")
        decoded = DecodedPool(folder, image_px)
        _decode_missing(run, decoded, item_ids, from_=place / len(set(sizes)), share=1 / len(set(sizes)))
        found[image_px] = decoded
    return found


def _decode_missing(run: jobs.Run, decoded: DecodedPool, item_ids: Rows, from_: float, share: float) -> None:
    """Decode what is not there yet. Raises InvalidImport where so much cannot be read that storage must be away."""
    missing = decoded.missing(item_ids)
    size = min(max(CHUNK, len(missing) // CHUNKS_AT_MOST), max(1, CHUNK_BYTES // decoded.row_bytes))
    with ThreadPoolExecutor(os.cpu_count() or 2) as threads:
        for start in range(0, len(missing), size):
            chunk = missing[start : start + size]
            keys = dict(Item.objects.filter(pk__in=chunk.tolist()).values_list("pk", "storage_key"))
            wanted = [keys[pk] for pk in chunk.tolist()]
            images = list(threads.map(partial(_decoded, decoded.image_px), wanted))
            readable = np.array([not problem for _, problem in images])
            decoded.store(chunk, np.stack([image for image, _ in images]), readable)
            for problem in filter(None, (problem for _, problem in images)):
                run.log(problem)
            done = len(item_ids) - len(missing) + start + len(chunk)
            said = f"decoded {done:,} of {len(item_ids):,} images to {decoded.image_px} px"
            run.report(DECODED * (from_ + share * done / len(item_ids)), said)
    grey = int(np.isin(decoded.unreadable, item_ids).sum())
    if grey > max(GREY_AT_MOST, GREY_SHARE * len(item_ids)):
        raise InvalidImport(
            f"{grey:,} of {len(item_ids):,} images cannot be read from where they are stored; nothing was changed."
            " Look at the storage, then embed again: what could be read is kept"
        )


def _decoded(image_px: int, storage_key: str) -> tuple[Images, str]:
    """The image and "", or plain grey and what is wrong. Runs on a thread, so it stays away from the database."""
    try:
        with default_storage.open(storage_key) as file:
            return decode(file.read(), image_px), ""
    except (UnreadableImage, OSError) as error:
        # It was readable at import, so storage lost or changed it. Grey keeps the pool's rows complete.
        grey = np.full((image_px, image_px, 3), 128, np.uint8)
        return grey, f"{storage_key}: {error}; plain grey until it can be read"


def _network(project: Project) -> tuple[Network, int, Path] | None:
    """The trained network that encodes this project now, the side of its images, and where it lies."""
    current = queries.current_embedding(project)
    if current is None or current.result["encoder"] != "trained":
        return None
    folder = snapshot.embedding_folder(current.result["folder"]) / "network"
    net, image_px = load_network(folder)
    return net, image_px, folder


def _by_network(run: jobs.Run, net: Network, decoded: DecodedPool, item_ids: Rows) -> Floats:
    def scored(done: int, total: int) -> None:
        run.report(DECODED + (EMBEDDED - DECODED) * done / total, f"embedded {done:,} of {total:,} images")

    work, rows = _work_folder(run), decoded.rows(item_ids)
    return sharding.network_scores(run, net, decoded, rows, device="cpu", work=work, progress=scored)[0]


def _by_encoder(
    run: jobs.Run, encoder: Any, decoded: DecodedPool, indexed: np.ndarray, item_ids: Rows, folder: Path
) -> Floats:
    """Embeddings, mapped from the folder of this job, and the encoder beside where they will be saved."""
    project = run.job.project
    run.report(DECODED, "learning the encoder", force=True)
    work, images = _work_folder(run), Selection(decoded.images(), decoded.rows(item_ids))
    if not run.job.parameters.get("afresh"):
        _begin_with_what_is_there(project, work)
    try:
        embeddings = encode(
            encoder,
            images,
            indexed,
            folder=work,
            made_for={
                "encoder": project.settings.encoder,
                "parameters": snapshot.encoder_parameters(project),
                "seed": run.job.seed,
                "image_px": images.shape[1],
                "items": hashlib.sha256(item_ids.tobytes() + indexed.tobytes()).hexdigest(),
            },
            progress=lambda share, said: run.report(DECODED + (EMBEDDED - DECODED) * share, said),
            embed=partial(sharding.embed, run, project.settings.encoder, decoded),
        )
    except (ModelUnavailable, NotFinite) as error:
        raise InvalidSettings(str(error)) from error
    shutil.copytree(work / "encoder", folder / "encoder")
    for name in REUSED:
        shutil.copy(work / name, folder / name)
    return embeddings


def _check_finite(embeddings: Floats) -> None:
    """Raises InvalidSettings unless every number is finite: the embedding there is stays the one gone by."""
    try:
        check_finite(embeddings)
    except NotFinite as error:
        raise InvalidSettings(str(error)) from error


def _begin_with_what_is_there(project: Project, work: Path) -> None:
    """Lay the encoder of the current embedding where a run that was killed would have left it.

    If it was learnt from the same images under the same settings, `encode` goes on from it; if not, it throws it away.
    """
    current = queries.current_embedding(project)
    there = snapshot.embedding_folder(current.result["folder"]) if current else None
    if there is None or work.exists() or not all((there / name).exists() for name in REUSED):
        return
    shutil.copytree(there / "encoder", work / "encoder")
    for name in REUSED:
        shutil.copy(there / name, work / name)


def _features(net: Network, images: Images) -> Floats:
    return predict(net, images, np.arange(len(images)), device="cpu", batch=512).features


def _views(
    run: jobs.Run, embed: Callable[[Images], Floats], of: str, decoded: DecodedPool, item_ids: Rows
) -> Floats | None:
    """Embeddings (V, N, D) of weak views, mapped from the folder of this job, where the head goes by such.

    of: the fingerprint of what embeds.
    """
    project = run.job.project
    if not algorithms.get("head", project.settings.head).by_views:
        return None
    if len(item_ids) > looks.ITEMS_AT_MOST:
        run.log(f"{len(item_ids):,} images are too many for views of each; the head goes by noise")
        return None
    images = Selection(decoded.images(), decoded.rows(item_ids))
    return looks.look(
        embed,
        images,
        augmentation(project, decoded.images()),
        folder=_work_folder(run),
        of=f"{of} {hashlib.sha256(item_ids.tobytes()).hexdigest()}",
        progress=with_time_left(run.report, EMBEDDED, VIEWED),
    )


def _work_folder(run: jobs.Run) -> Path:
    """Where a run that was killed goes on from."""
    return snapshot.embedding_folder(f"{run.job.project_id}/encoding-{run.job.pk}")


def _with_neighbours(run: jobs.Run, embeddings: Floats, indexed: np.ndarray, views: Floats | None) -> Pool:
    run.report(VIEWED, "finding nearest neighbours", force=True)

    def progress(done: int, total: int) -> None:
        run.report(VIEWED + (1 - VIEWED) * done / total, f"neighbours of {done:,} of {total:,} images")

    found, distances = neighbours.nearest(embeddings, indexed, progress=progress)
    run.report(1.0, f"embedded {len(embeddings):,} images", force=True)
    return Pool(embeddings, found, distances, indexed, views)


def _save(pool: Pool, item_ids: Rows, splits: np.ndarray, folder: Path) -> None:
    pool.save(folder)
    np.save(folder / "item_ids.npy", item_ids)
    np.save(folder / "splits.npy", splits)


def _prune(project: Project, keep: str, sizes: set[int]) -> None:
    """Remove what neither this run, the newest model nor a training needs: embeddings, half-made ones, other sizes."""
    mine = snapshot.embedding_folder(str(project.pk))
    newest = ModelVersion.objects.filter(project=project).order_by("-number").first()
    needed = {Path(keep).name, Path(newest.metrics.get("embedding", "")).name if newest else ""}
    gone = [folder for folder in mine.glob("embedding-*") if folder.name not in needed]
    gone += mine.glob("encoding-*")
    trains = Job.objects.filter(project=project, kind=Job.Kind.TRAIN, state__in=[Job.State.QUEUED, Job.State.RUNNING])
    if not trains.exists():
        kept = {f"decoded-{image_px}" for image_px in sizes}
        gone += [folder for folder in mine.glob("decoded-*") if folder.name not in kept]
    for folder in gone:
        shutil.rmtree(folder, ignore_errors=True)
