"""Training in several processes: torchrun starts them, and whoever asked for the training hears of it as of any other.

    python -m torch.distributed.run --standalone --nproc-per-node=2 -m ml_worker.distributed_training FOLDER

What is learnt from is described in the folder; the images stay where they are. The first process writes a line of JSON
for each report and waits for the answer, so that a refusal ends the run at that very step. The others find out by what
the first one decides (`distributed`). All of them end when the other end of their standard input is gone, however that
happened. On other hosts the module runs without a folder: the first process tells it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import distributed as dist

from ml_worker import augment, distributed, loop, nets, task_folder
from ml_worker.batches import Examples
from ml_worker.loop import NotFinite, Progress, Recipe, Trained

logger = logging.getLogger(__name__)

SILENCE_S = 1.0  # then the last report is repeated: whoever listens may want to end what hangs or only begins
STOP_S = 60.0  # for a checkpoint, after a refusal
END_S = 10.0  # for torchrun, once its processes are gone, and for them, once it is
ATTEMPTS = 3  # in a row that get no further, as for jobs of a worker that is killed
_TOLD = {error.__name__: error for error in (NotFinite, ValueError)}  # what `loop.train` raises on purpose


class ProcessDied(RuntimeError):
    """A process of a training is gone; the message says which and why, as far as that is known."""


class Interrupted(ProcessDied):
    """It was ended from outside, by a signal: another attempt may get further."""


class Stopped(Exception):
    """In the first process: whoever asked for the training refused the last report."""


def train(
    examples: Examples,
    recipe: Recipe,
    policy: augment.Policy,
    *,
    folder: Path | None,
    report: Callable[[Progress], None],
    processes: int,
    options: Sequence[str] = (),
) -> Trained:
    """What `loop.train` returns, learnt by so many processes, each with a GPU of its own where the recipe's device is
    one.

    options: of torchrun, where other hosts take part. One process and no options: it learns here. While the processes
    are silent the last report is repeated, the first with nothing learnt. Where one is killed, or torchrun is, all
    begin again at the last checkpoint, until ATTEMPTS in a row wrote none; not where other hosts would have to begin
    again, too. Raises what `loop.train` does, what report does, and ProcessDied.
    """
    if processes == 1 and not options:
        return loop.train(examples, recipe, policy, folder=folder, report=report)
    last = Progress(0, recipe.steps, 0.0, 0.0, _finite(recipe.seconds), {}, None)

    def told(progress: Progress) -> None:
        nonlocal last
        last = progress
        report(progress)

    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="winnow-")))
        interruption, in_vain = "", 0
        while True:
            task_folder.write(place, examples, recipe, policy)
            saved = _saved(place)
            try:
                _attempt(place, told, last, processes, options)
            except Interrupted as error:
                in_vain = in_vain + 1 if _saved(place) == saved else 0
                if options:
                    raise ProcessDied(f"{error}; start it again") from error
                if in_vain >= ATTEMPTS:
                    often = f"{in_vain} times in a row without getting further"
                    raise ProcessDied(f"{error}, {often}; start it again with a lower TRAINING_PROCESSES") from error
                interruption = str(error)
                continue
            trained = _trained(place, examples, recipe)
            if not interruption:
                return trained
            return replace(trained, resumed=f"{interruption}; {trained.resumed or 'started over'}")


def _attempt(
    place: Path, report: Callable[[Progress], None], last: Progress, processes: int, options: Sequence[str]
) -> None:
    """Let the processes learn what the folder says, until the network is in it. last: what was reported before."""
    with (place / "stderr.txt").open("w+b") as said:
        child = _started(place, said, processes, options)
        try:
            _relay(child, report, last)
            code = child.wait()
        finally:
            _end(child)
        said.seek(0)
        told = said.read().decode(errors="replace")
    if code or not (place / "trained.pt").exists():
        logger.warning("training in %s processes failed:\n%s", processes, told)
        raise _failure(place, told, code)


def _saved(folder: Path) -> int:
    """Which checkpoint there is: another number for another one."""
    path = folder / "checkpoint.pt"
    return path.stat().st_mtime_ns if path.exists() else 0


def _started(folder: Path, said: Any, processes: int, options: Sequence[str]) -> subprocess.Popen[bytes]:
    """torchrun, with pipes to its processes."""
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes))}
    root = str(Path(__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    if not options:
        options = ("--standalone", "--local-addr=127.0.0.1")
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    ours = [f"--nproc-per-node={processes}", f"--log-dir={folder / 'torchrun'}"]  # else it leaves a folder in /tmp
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *ours, *options, "-m", __name__, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        env=environment,
        bufsize=0,
    )


def _relay(child: subprocess.Popen[bytes], report: Callable[[Progress], None], last: Progress) -> None:
    """Pass on every report and the answer to it, until the processes or torchrun are gone or one is refused."""
    assert child.stdin and child.stdout
    heard, pending = False, b""
    try:
        while not child.poll():  # where torchrun is killed, the processes go on and hold the pipe
            if not select.select([child.stdout], [], [], SILENCE_S)[0]:
                report(last)
                continue
            chunk = os.read(child.stdout.fileno(), 65536)
            if not chunk:
                return
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                heard, last = True, Progress(**json.loads(line))
                report(last)
                with suppress(BrokenPipeError):  # gone in this moment: the next read says so
                    child.stdin.write(b"go\n")
    except BaseException:
        if heard:
            with suppress(BrokenPipeError, subprocess.TimeoutExpired):
                child.stdin.write(b"stop\n")
                child.wait(STOP_S)
        else:  # nothing is learnt yet that a checkpoint would have to keep
            child.terminate()
        raise


def _end(child: subprocess.Popen[bytes]) -> None:
    """Leave nothing behind: the processes end with the pipe, and torchrun with them."""
    assert child.stdin and child.stdout
    child.stdin.close()
    for hurry in (lambda: None, child.terminate, child.kill):
        hurry()
        with suppress(subprocess.TimeoutExpired):
            child.wait(END_S)
            break
    # The last process closes the pipe. Before that, another attempt could meet it at the checkpoint.
    until = time.monotonic() + END_S
    while select.select([child.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
        if not os.read(child.stdout.fileno(), 65536):
            break
    child.stdout.close()


def _failure(folder: Path, told: str, code: int) -> Exception:
    """Why there is no network. The first error that was written down, unless it came of a process being killed.

    told, code: what the processes printed, and how torchrun ended.
    """
    errors = sorted((json.loads(path.read_text()) for path in folder.glob("error-*.json")), key=lambda e: e["at"])
    for error in errors:
        if error["type"] in _TOLD:
            return _TOLD[error["type"]](error["message"])
    if code < 0:
        return _interrupted("torchrun", -code)
    # All are in torchrun's last words; its log names the first one, to the second, which may have lost another.
    ended = re.findall(r"\(local_rank: (\d+)\)\s+exitcode\s*: -(\d+)", told)
    ended.sort(key=lambda each: int(each[1]) == signal.SIGABRT)  # which torch raises in what lost another
    for local_rank, number in ended:
        if int(number) != signal.SIGTERM:  # torchrun's own
            return _interrupted(f"process {local_rank} of the training", int(number))
    if caught := re.search(r"SignalException: Process \d+ got signal: (\d+)", told):
        return _interrupted("torchrun", int(caught[1]))
    if errors:
        return ProcessDied(f"process {errors[0]['rank']} of the training: {errors[0]['type']}: {errors[0]['message']}")
    # torchrun ends with a frame of lines that only says which process it was.
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    wrong = [line for line in lines if re.search(r"(Error|Exception): ", line) and "ChildFailedError" not in line]
    said = " / ".join((wrong or lines)[-3:]) or f"nothing, with exit status {code}"
    return ProcessDied(f"the processes of the training ended; they said: {said}")


def _interrupted(what: str, number: int) -> Interrupted:
    name = signal.Signals(number).name
    why = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return Interrupted(f"{what} was ended by {name}{why}")


def _trained(folder: Path, examples: Examples, recipe: Recipe) -> Trained:
    found = torch.load(folder / "trained.pt", map_location="cpu", weights_only=True)
    flat = torch.zeros(3), torch.ones(3)
    net = nets.build(recipe.net, examples.n_classes, examples.images.shape[1], mean=flat[0], std=flat[1])
    net.load_state_dict(found.pop("weights"))
    return Trained(net.to(recipe.device).eval().requires_grad_(False), **found)


def _finite(seconds: float) -> float:
    return seconds if math.isfinite(seconds) else 0.0


# --- in each of the processes


def main(arguments: Sequence[str]) -> None:
    """One process of a training, as torchrun starts it. arguments: the folder, on the host that started it."""
    if arguments:
        _end_with_stdin()
    # Whatever a library prints must not come between the reports.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    folder = Path(arguments[0]) if arguments else None
    try:
        folder = _folder_of_first(folder)
        trained = _learn(folder, channel)
    except (Stopped, distributed.Ended):
        return
    except Exception as error:
        said = {"at": time.time(), "rank": distributed.rank(), "type": type(error).__name__, "message": str(error)}
        if folder:
            (folder / f"error-{distributed.rank()}.json").write_text(json.dumps(said))
        raise
    if distributed.rank() == 0:
        plain = {name: getattr(trained, name) for name in ("history", "step", "best_step", "stopped", "resumed")}
        torch.save({"weights": trained.net.state_dict(), **plain}, folder / "trained.pt")


def _learn(folder: Path, channel: TextIO) -> Trained:
    examples, recipe, policy = task_folder.read(folder)
    if torch.device(recipe.device).type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        recipe = replace(recipe, device=f"cuda:{os.environ['LOCAL_RANK']}")

    def report(progress: Progress) -> None:
        channel.write(json.dumps(asdict(progress)) + "\n")
        channel.flush()
        if sys.stdin.readline() != "go\n":
            raise Stopped

    return loop.train(examples, recipe, policy, folder=folder, report=report)


def _folder_of_first(folder: Path | None) -> Path:
    told: list[Any] = [folder and str(folder)]
    dist.broadcast_object_list(told, 0)
    if not told[0]:
        raise ValueError("the machine of the worker must be node 0; start torchrun with --node-rank, there 0")
    return Path(told[0])


def _end_with_stdin() -> None:
    """End this process when nobody holds the other end of its standard input, without reading from it."""
    poll = select.poll()
    poll.register(0, 0)  # a hang-up is always told

    def watch() -> None:
        poll.poll()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-stdin", daemon=True).start()


if __name__ == "__main__":
    code = 1
    try:
        main(sys.argv[1:])
        code = 0
    except Exception:
        traceback.print_exc()
    # Everything is written by now. A process that shut down in order was once seen to abort in it (signal 6), as the
    # others went: that would be told as a failure.
    sys.stderr.flush()
    os._exit(code)
