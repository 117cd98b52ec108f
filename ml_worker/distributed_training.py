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

SILENCE_S = 10.0  # then the last report is repeated: whoever listens may want to end what hangs
STOP_S = 60.0  # for a checkpoint, after a refusal
END_S = 10.0  # for torchrun, once its processes are gone
_TOLD = {error.__name__: error for error in (NotFinite, ValueError)}  # what `loop.train` raises on purpose


class ProcessDied(RuntimeError):
    """A process of a training is gone; the message says which and why, as far as that is known."""


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
    are silent the last report is repeated, the first with nothing learnt. Raises what `loop.train` does, what report
    does, and ProcessDied.
    """
    if processes == 1 and not options:
        return loop.train(examples, recipe, policy, folder=folder, report=report)
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="winnow-")))
        task_folder.write(place, examples, recipe, policy)
        said = stack.enter_context((place / "stderr.txt").open("w+b"))
        child = _started(place, said, processes, options)
        try:
            _relay(child, report, recipe)
            code = child.wait()
        finally:
            _end(child)
        said.seek(0)
        told = said.read().decode(errors="replace")
        if code or not (place / "trained.pt").exists():
            logger.warning("training in %s processes failed:\n%s", processes, told)
            raise _failure(place, told)
        return _trained(place, examples, recipe)


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


def _relay(child: subprocess.Popen[bytes], report: Callable[[Progress], None], recipe: Recipe) -> None:
    """Pass on every report and the answer to it, until the processes are gone or one is refused."""
    assert child.stdin and child.stdout
    last, pending = Progress(0, recipe.steps, 0.0, 0.0, _finite(recipe.seconds), {}, None), b""
    try:
        while True:
            if not select.select([child.stdout], [], [], SILENCE_S)[0]:
                report(last)
                continue
            chunk = os.read(child.stdout.fileno(), 65536)
            if not chunk:
                return
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                last = Progress(**json.loads(line))
                report(last)
                with suppress(BrokenPipeError):  # gone in this moment: the next read says so
                    child.stdin.write(b"go\n")
    except BaseException:
        with suppress(BrokenPipeError, subprocess.TimeoutExpired):
            child.stdin.write(b"stop\n")
            child.wait(STOP_S)
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
    child.stdout.close()


def _failure(folder: Path, told: str) -> Exception:
    """Why there is no network. The first error that was written down, unless it came of a process being killed."""
    errors = sorted((json.loads(path.read_text()) for path in folder.glob("error-*.json")), key=lambda e: e["at"])
    for error in errors:
        if error["type"] in _TOLD:
            return _TOLD[error["type"]](error["message"])
    for code, local_rank in re.findall(r"failed \(exitcode: -(\d+)\) local_rank: (\d+)", told):
        if int(code) != signal.SIGTERM:
            name = signal.Signals(int(code)).name
            why = ", as the system does when memory runs out" if name == "SIGKILL" else ""
            return ProcessDied(f"process {local_rank} of the training was ended by {name}{why}; start it again")
    if errors:
        return ProcessDied(f"process {errors[0]['rank']} of the training: {errors[0]['type']}: {errors[0]['message']}")
    # torchrun ends with a frame of lines that only says which process it was.
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    wrong = [line for line in lines if re.search(r"(Error|Exception): ", line) and "ChildFailedError" not in line]
    return ProcessDied("the processes of the training ended; they said: " + " / ".join((wrong or lines)[-3:]))


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
