"""torchrun as the worker uses it: a training that is shared, refused, or loses one of its processes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from annotator.settings import BASE_DIR
from ml_worker import distributed_training, loop, task_folder
from ml_worker.distributed_training import Interrupted, ProcessDied
from ml_worker.images import Selection
from ml_worker.loop import Progress, Recipe, Trained
from tests.pictures import POLICY, examples, weights_of

RECIPE = Recipe("fixmatch", {"threshold": 0.5, "weight": 1.0}, net="quick", steps=5, batch=8, ratio=2, amp="off")


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


# What torchrun says last, when a process was killed and the other one stumbled over it in the same second.
FRAME = """\
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 6)
  error_file: <N/A>
[2]:
  rank      : 2 (local_rank: 2)
  exitcode  : -6 (pid: 8)  (SIGABRT)
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : -11 (pid: 7)  (SIGSEGV)
"""

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
    ("errors", "told", "code", "sentence"),
    [
        (
            {0: ("RuntimeError", "closed by peer"), 1: ("NotFinite", "step 3: the loss is inf")},
            "",
            -9,
            "^step 3: the loss is inf",
        ),
        (
            {0: ("RuntimeError", "closed by peer")},
            "failed (exitcode: 1) local_rank: 0 (pid: 6)\n" + FRAME,
            1,
            "^process 1 of the training was ended by SIGSEGV$",
        ),
        (
            {1: ("OSError", "disk is full"), 0: ("RuntimeError", "closed by peer")},
            "",
            1,
            "process 1 .* OSError: disk is full",
        ),
        ({}, "ImportError: no module\n=====\nx FAILED\n", 1, "they said: ImportError: no module"),
        ({}, "a.b.SignalException: Process 7 got signal: 15\n", 1, "^torchrun was ended by SIGTERM$"),
        ({}, "", -9, "^torchrun was ended by SIGKILL, as the system does when memory runs out$"),
        ({}, "", 3, "they said: nothing, with exit status 3"),
    ],
)
def test_the_reason_given_is_the_first_one(
    errors: dict[int, tuple[str, str]], told: str, code: int, sentence: str, tmp_path: Path
) -> None:
    for at, (rank, (kind, message)) in enumerate(errors.items()):
        said = {"at": at, "rank": rank, "type": kind, "message": message}
        (tmp_path / f"error-{rank}.json").write_text(json.dumps(said))
    assert re.search(sentence, str(distributed_training._failure(tmp_path, told, code)))


# --- when something is killed, or nobody waits any more


class Attempts:
    """In the place of torchrun: attempts that all are killed but the last, each after a checkpoint or without one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wrote: list[bool]) -> None:
        self.wrote, self.made = wrote, 0
        monkeypatch.setattr(distributed_training, "_attempt", self)
        network: Any = None
        trained = Trained(network, [], RECIPE.steps, 0, "all steps are done", "resumed at step 4")
        monkeypatch.setattr(distributed_training, "_trained", lambda *_: trained)

    def __call__(self, place: Path, *_: Any) -> None:
        self.made += 1
        if self.made > len(self.wrote):
            return
        if self.wrote[self.made - 1]:
            (place / "checkpoint.pt").touch()
            os.utime(place / "checkpoint.pt", (0, self.made))
        raise Interrupted("torchrun was ended by SIGSEGV")


def train(folder: Path, report: Callable[[Progress], None] = lambda progress: None, **others: Any) -> Trained:
    how = {"recipe": RECIPE, "processes": 2, **others}
    return distributed_training.train(examples(), policy=POLICY, folder=folder, report=report, **how)


def test_a_training_goes_on_from_its_checkpoint_as_often_as_it_gets_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Attempts(monkeypatch, [False, False, True, False, True, False, False])
    assert train(tmp_path).resumed == "torchrun was ended by SIGSEGV; resumed at step 4"
    assert attempts.made == 8


def test_a_training_that_is_killed_at_the_same_place_each_time_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Attempts(monkeypatch, [True, False, False, False])
    with pytest.raises(
        ProcessDied, match="ended by SIGSEGV, 3 times in a row without getting further; start it again"
    ):
        train(tmp_path)
    assert attempts.made == 4


def test_other_hosts_would_have_to_begin_again_so_one_interruption_ends_their_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Attempts(monkeypatch, [True])
    with pytest.raises(ProcessDied, match="ended by SIGSEGV; start it again"):
        train(tmp_path, options=["--nnodes=2"])
    assert attempts.made == 1


LAUNCHER = """
import subprocess, sys
sys.exit(subprocess.call([sys.executable, "-c", sys.argv[1]]))
"""
LEARNING = """
import json, os, sys, time
for step in range(1, 200):
    print(json.dumps(
        {"step": step, "steps": 200, "share": 0, "seconds": 0, "seconds_left": 0, "logs": {}, "audit_accuracy": None}
    ), flush=True)
    if sys.stdin.readline() != "go\\n":
        break
    time.sleep(0.05)
"""


def imitate(monkeypatch: pytest.MonkeyPatch, process: str) -> list[subprocess.Popen[bytes]]:
    """Launchers of one process that runs this instead of torch; the list of those that were started."""
    started: list[subprocess.Popen[bytes]] = []

    def start(folder: Path, said: Any, *_: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", LAUNCHER, process]
        started.append(subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=said, bufsize=0))
        return started[-1]

    monkeypatch.setattr(distributed_training, "_started", start)
    return started


def test_when_torchrun_is_killed_its_processes_do_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = imitate(monkeypatch, LEARNING)
    steps: list[int] = []
    learning: list[psutil.Process] = []

    def report(progress: Progress) -> None:
        steps.append(progress.step)
        if progress.step == 2:
            learning.extend(psutil.Process(started[-1].pid).children())
            started[-1].kill()
            started[-1].wait()

    with pytest.raises(ProcessDied, match=r"torchrun was ended by SIGKILL, as .*, 3 times in a row"):
        train(tmp_path, report)
    assert max(steps) == 2
    assert len(learning) == 3
    assert_gone(learning)


class Cancelled(Exception):
    """By somebody."""


def test_before_the_first_report_a_refusal_ends_the_processes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = imitate(monkeypatch, "import sys; sys.stdin.read()")

    def report(progress: Progress) -> None:
        raise Cancelled

    begun = time.monotonic()
    with pytest.raises(Cancelled):
        train(tmp_path, report)
    assert started[0].returncode == -signal.SIGTERM
    assert time.monotonic() - begun < 8


# --- with torchrun


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["torchrun", "process 1 of the training"])
def test_a_training_that_loses_a_process_goes_on_and_leaves_nothing_behind(
    victim: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, evaluate_every=2)
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    told: list[Progress] = []
    seen: list[psutil.Process] = []

    def cut_short(progress: Progress) -> None:
        raise Cancelled

    def report(progress: Progress) -> None:
        told.append(progress)
        if progress.step and not seen:
            seen.extend(descendants())
            rank = None if victim == "torchrun" else "1"
            next(process for process in seen if process.environ().get("RANK") == rank).kill()
            time.sleep(0.5)  # it goes in its own time

    with pytest.raises(Cancelled):
        loop.train(examples(), recipe, POLICY, folder=work, report=cut_short)
    trained = train(work, report, recipe=recipe)
    assert (
        trained.resumed == f"{victim} was ended by SIGKILL, as the system does when memory runs out; resumed at step 2"
    )
    assert len(seen) == 3
    assert_gone(seen)
    assert told[-1].step == 5
    assert not told[0].logs, "they begin"
    assert list(elsewhere.iterdir()) == []


ASKING = """
import sys
from pathlib import Path
from ml_worker import distributed_training
from tests.test_distributed_training import POLICY, RECIPE, examples, replace

def report(progress):
    if progress.step:  # before that, they only begin
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
        assert int(asking.stdout.readline()) == 1
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
