"""The loop over real processes: `up`, a Celery worker, PostgreSQL, and what happens when one is killed."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import transformers
from PIL import Image

from ml_worker.encoders.pretrained import Encoder
from ml_worker.images import DecodedPool
from tests.running_site import RunningSite, slowed, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    running = RunningSite(
        tmp_path_factory.mktemp("site") / "data",
        "--no-demo",
        SHARD_IMAGES="512",
        OMP_NUM_THREADS="1",
        JOB_STALE_S="8",
    )
    try:
        yield running.wait()
    finally:
        status = running.stop()
    assert status == 0, running.output


def zip_of(path: Path, count: int, seed: int, px: int = 64) -> Path:
    """A zip of this many different pictures."""
    rng = np.random.default_rng(seed)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            out = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (px, px, 3), dtype=np.uint8)).save(out, "PNG")
            archive.writestr(f"picture-{number}.png", out.getvalue())
    return path


def test_a_worker_takes_a_job_at_once(site: RunningSite, tmp_path: Path) -> None:
    site.manage("import_items", "Small", str(zip_of(tmp_path / "small.zip", 30, seed=1)))
    embedded = "SELECT 1 FROM annotator_job WHERE kind = 'embed' AND state = 'done'"
    wait_until(lambda: site.query(embedded), 30, "the pool was embedded")
    ranked = "SELECT 1 FROM annotator_queueentry WHERE reason_code = 'typical' LIMIT 1"
    wait_until(lambda: site.query(ranked), 30, "the typical images were put first")


def test_a_job_whose_worker_is_killed_starts_again_and_ends(site: RunningSite, tmp_path: Path) -> None:
    count = 3000
    site.manage("import_items", "Large", str(zip_of(tmp_path / "large.zip", count, seed=2)))
    running = (
        "SELECT j.id FROM annotator_job j JOIN annotator_project p ON p.id = j.project_id"
        " WHERE p.name = 'Large' AND j.kind = 'embed' AND j.state = 'running'"
    )
    (job_id,) = wait_until(lambda: site.query(running), 30, "the embedding began")[0]
    killed = site.worker()
    killed.kill()
    state, attempt = site.query("SELECT state, attempt FROM annotator_job WHERE id = %s", job_id)[0]
    assert (state, attempt) == ("running", 1), "it was to be killed in the middle"
    wait_until(
        lambda: site.query("SELECT 1 FROM annotator_job WHERE id = %s AND state = 'done'", job_id),
        90,
        "the job was picked up and done",
    )
    assert site.query("SELECT attempt, result->>'n' FROM annotator_job WHERE id = %s", job_id) == [(2, str(count))]
    assert site.worker().pid != killed.pid
    assert "worker" in site.output, "a restart of the worker is told at the terminal"


def slow_model(folder: Path) -> Path:
    """A vision model that takes a second or more for 512 images of 32 px."""
    shape = {"image_size": 32, "patch_size": 4, "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3}
    model = transformers.ViTModel(transformers.ViTConfig(**shape, intermediate_size=384), add_pooling_layer=False)
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transform = {"size": size, "resample": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(transform))
    return folder


def test_a_pool_is_scored_to_the_end_by_two_workers_of_which_one_is_killed(site: RunningSite, tmp_path: Path) -> None:
    count = 6 * 512 - 20
    settings = {"encoder": "pretrained", "parameters": {"encoder.pretrained.model": str(slow_model(tmp_path / "vit"))}}
    create = "from annotator.actions.projects import create_project\nfrom django.contrib.auth.models import User\n"
    create += "project = create_project(owner=User.objects.get(), name='Shared', class_names=['cat', 'dog'])\n"
    with site.another_worker() as another:
        site.manage("shell", "-c", f"{create}project.settings_json = {settings}\nproject.save()")
        site.manage("import_items", "Shared", str(zip_of(tmp_path / "shared.zip", count, seed=3, px=32)))
        first = "SELECT job_id, held_by FROM annotator_scoringshard WHERE number = 0 AND heartbeat_at IS NOT NULL"
        # Who runs the job takes the first shard at once; a helper must open the model before it takes one.
        job_id, runner = wait_until(lambda: site.query(first), 60, "the scoring began")[0]
        workers = {f":{process.pid}": process for process in (site.worker(), another)}
        running = workers.pop(runner[runner.rindex(":") :])
        (helper,) = workers.values()
        helps = (
            "SELECT 1 FROM annotator_scoringshard a JOIN annotator_scoringshard b ON b.job_id = a.job_id"
            " AND b.held_by = a.held_by WHERE a.held_by LIKE %s AND a.is_done AND b.heartbeat_at IS NOT NULL"
        )
        with slowed(running):
            wait_until(lambda: site.query(helps, f"%:{helper.pid}"), 90, "it had done a shard and held another")
            helper.kill()
        over = "SELECT state, attempt, error, log_tail, result->>'folder', project_id FROM annotator_job WHERE id = %s"
        ended = wait_until(lambda: [row for row in site.query(over, job_id) if row[0] != "running"], 90, "it was over")
    state, attempt, error, log, name, project_id = ended[0]
    assert (state, attempt, error) == ("done", 1, "")
    assert re.search(f"scored {count:,} images in 6 shards by [23] workers", log), log  # the site's own starts again
    folder = site.data / "artifacts" / name
    embeddings, item_ids = np.load(folder / "embeddings.npy"), np.load(folder / "item_ids.npy")
    assert embeddings.shape == (count, 96)
    decoded = DecodedPool(site.data / "artifacts" / str(project_id) / "decoded-32", 32)
    some = np.arange(0, count, 50)
    wanted = Encoder.load(folder / "encoder").embed(decoded.images()[decoded.rows(item_ids[some])])
    np.testing.assert_allclose(embeddings[some], wanted, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, rtol=1e-5)
    assert site.query("SELECT 1 FROM annotator_scoringshard") == []
    assert not list((site.data / "artifacts" / str(project_id)).glob("encoding-*"))
