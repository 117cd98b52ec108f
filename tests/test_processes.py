"""The loop over real processes: `up`, a Celery worker, PostgreSQL, and what happens when one is killed."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.running_site import RunningSite, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    running = RunningSite(tmp_path_factory.mktemp("site") / "data", "--no-demo")
    try:
        yield running.wait()
    finally:
        status = running.stop()
    assert status == 0, running.output


def zip_of(path: Path, count: int, seed: int) -> Path:
    """A zip of this many different pictures of 64 px."""
    rng = np.random.default_rng(seed)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            out = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(out, "PNG")
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
