"""The embedding job: every image decoded once, one vector and its nearest neighbours for each."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from django.core.files.storage import default_storage

from annotator import jobs, queries
from annotator.errors import InvalidImport
from annotator.models import Item, Job, ModelVersion, Project, Split
from ml_worker import encoders, neighbours, snapshot
from ml_worker.images import DecodedPool, Images, UnreadableImage, decode, training_px
from ml_worker.nets import Network, load_network
from ml_worker.pool import Floats, Pool, Rows
from ml_worker.predict import predict

CHUNK = 256
# Shares of the progress bar.
DECODED, EMBEDDED = 0.6, 0.7


def run(run: jobs.Run) -> None:
    """Embed everything in the project and ask for a refit on it.

    Decoded images are kept and added to, so a run that was killed, or that follows a second import, decodes only what
    is missing. The encoder is fitted on pool and audit images, never on test images; the neighbour graph likewise.
    """
    project = run.job.project
    columns = list(Item.objects.filter(project=project).order_by("pk").values_list("pk", "split", "width", "height"))
    if not columns:
        raise InvalidImport("there are no images in this project yet; import some first")
    item_ids = np.array([row[0] for row in columns], np.int64)
    splits = np.array([snapshot.SPLIT_CODES[Split(row[1])] for row in columns], np.uint8)
    network = None if run.job.parameters.get("afresh") else _network(project)
    image_px = network[1] if network else training_px([row[2] for row in columns], [row[3] for row in columns])
    decoded = DecodedPool(snapshot.embedding_folder(f"{project.pk}/decoded-{image_px}"), image_px)
    _decode_missing(run, decoded, item_ids)
    name = f"{project.pk}/embedding-{run.job.pk}-{run.job.attempt}"
    folder = snapshot.embedding_folder(name)
    indexed = splits != snapshot.SPLIT_CODES[Split.TEST]
    if not indexed.any():
        raise InvalidImport("every image of this project is in the test split; import some to label")
    images, rows = decoded.images(), decoded.rows(item_ids)
    if network:
        embeddings = _by_network(run, network[0], images, rows)
        shutil.copytree(network[2], folder / "network")
    else:
        embeddings = _by_encoder(run, project, images, rows, indexed, folder / "encoder")
    pool = _with_neighbours(run, embeddings, indexed)
    _save(pool, item_ids, splits, folder)
    run.log(f"embedded {len(item_ids):,} images of {image_px} px to {pool.embeddings.shape[1]} numbers each")
    run.job.result = {
        "folder": name,
        "n": len(item_ids),
        "image_px": image_px,
        "encoder": "trained" if network else project.settings.encoder,
    }
    Job.objects.filter(pk=run.job.pk).update(result=run.job.result)
    _prune(project, keep=name)
    jobs.enqueue(project, Job.Kind.REFIT)


def _decode_missing(run: jobs.Run, decoded: DecodedPool, item_ids: Rows) -> None:
    missing = decoded.missing(item_ids)
    with ThreadPoolExecutor(2) as threads:
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            keys = dict(Item.objects.filter(pk__in=chunk.tolist()).values_list("pk", "storage_key"))
            wanted = [keys[pk] for pk in chunk.tolist()]
            images = list(threads.map(partial(_decoded, decoded.image_px), wanted))
            decoded.append(chunk, np.stack([image for image, _ in images]))
            for problem in filter(None, (problem for _, problem in images)):
                run.log(problem)
            done = len(item_ids) - len(missing) + start + len(chunk)
            run.report(DECODED * done / len(item_ids), f"decoded {done:,} of {len(item_ids):,} images")


def _decoded(image_px: int, storage_key: str) -> tuple[Images, str]:
    """The image and "", or plain grey and what is wrong. Runs on a thread, so it stays away from the database."""
    try:
        with default_storage.open(storage_key) as file:
            return decode(file.read(), image_px), ""
    except (UnreadableImage, OSError) as error:
        # It was readable at import, so storage lost or changed it. Grey keeps the pool's rows complete.
        grey = np.full((image_px, image_px, 3), 128, np.uint8)
        return grey, f"{storage_key}: {error}; embedded as plain grey"


def _network(project: Project) -> tuple[Network, int, Path] | None:
    """The trained network that encodes this project now, the side of its images, and where it lies."""
    current = queries.current_embedding(project)
    if current is None or current.result["encoder"] != "trained":
        return None
    folder = snapshot.embedding_folder(current.result["folder"]) / "network"
    net, image_px = load_network(folder)
    return net, image_px, folder


def _by_network(run: jobs.Run, net: Network, images: Images, rows: Rows) -> Floats:
    def scored(done: int, total: int) -> None:
        run.report(DECODED + (EMBEDDED - DECODED) * done / total, f"embedded {done:,} of {total:,} images")

    return predict(net, images, rows, device="cpu", batch=512, progress=scored).features


def _by_encoder(
    run: jobs.Run, project: Project, images: Images, rows: Rows, indexed: np.ndarray, encoder_folder: Path
) -> Floats:
    run.report(DECODED, "learning the encoder", force=True)
    encoder = encoders.load(project.settings.encoder)(seed=run.job.seed, **snapshot.encoder_parameters(project))
    encoder.fit(images[rows[indexed]])
    encoder.save(encoder_folder)
    return np.concatenate([encoder.embed(images[rows[at : at + 8192]]) for at in range(0, len(rows), 8192)])


def _with_neighbours(run: jobs.Run, embeddings: Floats, indexed: np.ndarray) -> Pool:
    run.report(EMBEDDED, "finding nearest neighbours", force=True)

    def progress(done: int, total: int) -> None:
        run.report(EMBEDDED + (1 - EMBEDDED) * done / total, f"neighbours of {done:,} of {total:,} images")

    found, distances = neighbours.nearest(embeddings, indexed, progress=progress)
    run.report(1.0, f"embedded {len(embeddings):,} images", force=True)
    return Pool(embeddings, found, distances, indexed)


def _save(pool: Pool, item_ids: Rows, splits: np.ndarray, folder: Path) -> None:
    pool.save(folder)
    np.save(folder / "item_ids.npy", item_ids)
    np.save(folder / "splits.npy", splits)


def _prune(project: Project, keep: str) -> None:
    """Remove embeddings that neither this run nor the newest model needs."""
    newest = ModelVersion.objects.filter(project=project).order_by("-number").first()
    needed = {Path(keep).name, Path(newest.metrics.get("embedding", "")).name if newest else ""}
    for folder in snapshot.embedding_folder(str(project.pk)).glob("embedding-*"):
        if folder.name not in needed:
            shutil.rmtree(folder, ignore_errors=True)
