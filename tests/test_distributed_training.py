"""torchrun as the worker uses it: a training that is shared, refused, or loses one of its processes."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from annotator.settings import BASE_DIR
from ml_worker import distributed_training, loop, task_folder
from ml_worker.distributed_training import ProcessDied
from ml_worker.images import Selection
from ml_worker.loop import Progress, Recipe
from tests.pictures import POLICY, examples, weights_of

RECIPE = Recipe("fixmatch", {"threshold": 0.5, "weight": 1.0}, net="quick", steps=5, batch=8, ratio=2, amp="off")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []


def descendants() -> list[psutil.Process]:
    """torchrun and the processes it started; other tests have other children."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if "ml_worker.distributed_training" in process.cmdline()
    ]


# --- what they are told


def test_a_task_is_read_as_it_was_written_and_images_in_a_file_stay_there(tmp_path: Path) -> None:
    given = examples(n_audit=6)
    np.save(tmp_path / "pool.npy", given.images)
    pool = np.load(tmp_path / "pool.npy", mmap_mode="r")
    recipe = replace(RECIPE, seconds=60.0)
    for name, images in {
        "array": given.images,
        "mapped": pool,
        "part": pool[2:],
        "some": Selection(pool, given.labeled),
    }.items():
        folder = tmp_path / name
        task_folder.write(folder, replace(given, images=images), recipe, POLICY)
        found, how, policy = task_folder.read(folder)
        assert (how, policy) == (recipe, POLICY)
        np.testing.assert_array_equal(np.asarray(found.images), np.asarray(images))
        np.testing.assert_array_equal(found.prior, given.prior)
        assert (folder / "images.u8").exists() == (name in ("array", "part"))


def test_one_process_learns_where_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed_training, "_started", lambda *_: pytest.fail("no other process is needed"))
    trained = distributed_training.train(
        examples(), replace(RECIPE, steps=1), POLICY, folder=None, report=lambda progress: None, processes=1
    )
    assert trained.step == 1


@pytest.mark.parametrize(
    ("errors", "told", "sentence"),
    [
        (
            {0: ("RuntimeError", "closed by peer"), 1: ("NotFinite", "step 3: the loss is inf")},
            "",
            "step 3: the loss is inf",
        ),
        (
            {0: ("RuntimeError", "closed by peer")},
            "failed (exitcode: -11) local_rank: 1 (pid: 7)",
            "by SIGSEGV; start",
        ),
        (
            {1: ("OSError", "disk is full"), 0: ("RuntimeError", "closed by peer")},
            "",
            "process 1 .* OSError: disk is full",
        ),
        ({}, "ImportError: no module\n=====\nx FAILED\n", "they said: ImportError: no module"),
    ],
)
def test_the_reason_given_is_the_first_one(
    errors: dict[int, tuple[str, str]], told: str, sentence: str, tmp_path: Path
) -> None:
    for at, (rank, (kind, message)) in enumerate(errors.items()):
        said = {"at": at, "rank": rank, "type": kind, "message": message}
        (tmp_path / f"error-{rank}.json").write_text(json.dumps(said))
    assert re.search(sentence, str(distributed_training._failure(tmp_path, told)))


# --- with torchrun


@pytest.mark.slow
def test_a_killed_process_ends_the_training_with_a_sentence_and_leaves_none_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(distributed_training, "SILENCE_S", 0.5)  # that they begin takes longer
    told: list[Progress] = []
    seen: list[psutil.Process] = []

    def report(progress: Progress) -> None:
        told.append(progress)
        if progress.step and not seen:
            seen.extend(descendants())
            next(process for process in seen if process.environ().get("RANK") == "1").kill()

    with pytest.raises(ProcessDied, match="process 1 of the training was ended by SIGKILL, as the system does when"):
        distributed_training.train(
            examples(), replace(RECIPE, evaluate_every=2), POLICY, folder=tmp_path, report=report, processes=2
        )
    assert len(seen) == 3
    assert_gone(seen)
    assert {progress.step for progress in told} == {0, 2}
    assert not told[0].logs


ASKING = """
import sys
from pathlib import Path
from ml_worker import distributed_training
from tests.test_distributed_training import POLICY, RECIPE, examples, replace

def report(progress):
    print(progress.step, flush=True)

distributed_training.train(
    examples(),
    replace(RECIPE, steps=10**6, evaluate_every=1),
    POLICY,
    folder=Path(sys.argv[1]),
    report=report,
    processes=2,
)
"""


@pytest.mark.slow
def test_when_whoever_asked_is_killed_no_process_stays(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ASKING, str(tmp_path)], cwd=BASE_DIR, stdout=subprocess.PIPE
    ) as asking:
        assert asking.stdout
        assert int(asking.stdout.readline()) in (0, 1)
        learning = psutil.Process(asking.pid).children(recursive=True)
        asking.kill()
    assert len(learning) == 3
    assert_gone(learning)


@pytest.mark.slow
def test_two_machines_share_a_training_and_a_refusal_ends_it_after_a_checkpoint(tmp_path: Path) -> None:
    """Two nodes on this machine. The other one is told nothing but where to find the first."""
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        nodes = ["--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={any_port.getsockname()[1]}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", *nodes, "--node-rank=1"]
    torchrun.append(f"--log-dir={tmp_path / 'other'}")

    class Refused(Exception):
        pass

    def report(progress: Progress) -> None:
        if progress.step == 3:
            raise Refused

    how: dict[str, Any] = {"folder": tmp_path, "processes": 1, "options": [*nodes, "--node-rank=0"]}
    recipe = replace(RECIPE, evaluate_every=1)
    with subprocess.Popen([*torchrun, "-m", "ml_worker.distributed_training"], cwd=BASE_DIR) as other:
        with pytest.raises(Refused):
            distributed_training.train(examples(), recipe, POLICY, report=report, **how)
        assert other.wait(60) == 0
    assert descendants() == []
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 3
    resumed = loop.train(examples(), recipe, POLICY, folder=tmp_path, report=lambda progress: None)
    assert resumed.resumed == "resumed at step 3"
    whole = loop.train(examples(), recipe, POLICY, folder=None, report=lambda progress: None)
    torch.testing.assert_close(weights_of(resumed.net), weights_of(whole.net), rtol=1e-4, atol=1e-5)
