"""Two processes that train together become the network that one would have trained."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from annotator.settings import BASE_DIR
from ml_worker import augment, nets
from tests import together
from tests.pictures import POLICY, tiny_network

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def _small_and_plain() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nets, "build", tiny_network)
        yield


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `tests.together` leaves behind in two processes, started by torchrun."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.raises(together.Stopped):
        together.run("flexmatch", folder / "begun_by_one", until=3)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node=2", f"--log-dir={folder}", "-m", "tests.together", str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(BASE_DIR)},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return folder


def saved(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoint.pt", weights_only=True)
    return found


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Weights, running means, statistics, memory of every kind, the optimiser's momentum, and the history."""
    parts = ("net", "teacher", "trainer", "hardness", "optimizer")
    ours, theirs = ({part: state["parts"][part] for part in parts} for state in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert len(found["history"]) == len(wanted["history"]) == together.STEPS
    for entry, other in zip(found["history"], wanted["history"], strict=True):
        assert {**entry, "seconds": 0.0} == pytest.approx({**other, "seconds": 0.0}, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", together.NAMES)
def test_two_processes_become_what_one_becomes(name: str, two: Path, tmp_path: Path) -> None:
    together.run(name, tmp_path)
    assert_same(saved(two / name), saved(tmp_path / name))
    first, second = (torch.load(two / name / f"weights-{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first, second)


def test_a_head_without_a_part_in_the_loss_is_left_alone_by_both(two: Path, tmp_path: Path) -> None:
    together.without_pool(tmp_path)
    assert_same(saved(two / "without_pool"), saved(tmp_path))


def test_a_run_goes_on_in_another_number_of_processes(two: Path, tmp_path: Path) -> None:
    together.run("flexmatch", tmp_path)
    whole = saved(tmp_path / "flexmatch")
    assert [(two / f"resumed-{rank}.txt").read_text() for rank in range(2)] == ["resumed at step 3"] * 2
    assert_same(saved(two / "begun_by_one" / "flexmatch"), whole)
    assert [(two / f"stopped-{rank}.txt").read_text() for rank in range(2)] == ["Stopped", "Ended"]
    assert together.run("flexmatch", two / "stopped_by_two").resumed == "resumed at step 3"
    assert_same(saved(two / "stopped_by_two" / "flexmatch"), whole)


def test_the_first_process_keeps_the_clock(two: Path) -> None:
    first, second = ((two / f"clock-{rank}.txt").read_text() for rank in range(2))
    assert first == second
    assert first.endswith("the time is over")


def test_what_goes_wrong_in_one_process_ends_both_with_the_same_sentence(two: Path) -> None:
    for rank in range(2):
        assert "cannot be shared by 2 processes" in (two / f"few-{rank}.txt").read_text()
        assert "fixmatch, a step up to 0: the loss is" in (two / f"breaking-{rank}.txt").read_text()
    assert not (two / "breaking" / "fixmatch" / "checkpoint.pt").exists()


def test_the_views_of_a_part_are_those_of_the_whole() -> None:
    images = torch.from_numpy(together.given().images[:9]).permute(0, 3, 1, 2)
    for views in (augment.weak, augment.strong, augment.harder):
        whole = views(images, POLICY, torch.Generator().manual_seed(5))
        for rows in (slice(0, 4), slice(4, 9), slice(9, 9)):
            part = augment.Part(torch.Generator().manual_seed(5), rows.start, 9)
            assert torch.equal(views(images[rows], POLICY, part), whole[rows])
