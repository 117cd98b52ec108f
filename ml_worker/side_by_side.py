"""The same work on many things, in processes beside this one.

What comes out does not depend on how many processes there are: each calculates on one thread, as this one does where
there are none beside it. Numpy is not imported here, so that a fresh process can say so before anything is.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import connection
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
# Called by the work with whatever it has to say while it goes on; what it says must be picklable.
Say = Callable[..., None]

_LISTEN_S = 0.2
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_NICER = 10  # somebody may be labelling on the same machine


class WorkerDied(RuntimeError):
    """A process ended that nobody here had ended."""


class SideBySide:
    """So many processes to work in; with one, everything happens here. As a context: whatever still runs at its end is
    killed, at once.

    polite: leave this process, and the processor, to others: with one, that is a process beside this one, too.
    """

    def __init__(self, processes: int, *, polite: bool = False) -> None:
        self._processes, self._polite = processes, polite
        self._executor: ProcessPoolExecutor | None = None
        self._words: Any = None

    def __enter__(self) -> SideBySide:
        if self._processes > 1 or self._polite:
            # Fork would copy a process that has threads, and with them the locks they hold.
            context = multiprocessing.get_context("spawn")
            self._words = context.SimpleQueue()
            given = (self._words, _NICER if self._polite else 0)
            self._executor = ProcessPoolExecutor(max(1, self._processes), context, initializer=_begin, initargs=given)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._executor is None:
            return
        # Python 3.14 has a method for it; before, the processes are found in no other way.
        running = list((getattr(self._executor, "_processes", None) or {}).values())
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in running:
            process.kill()
        for process in running:
            process.join()
        self._words.close()

    def results(
        self,
        work: Callable[[Task, Say], Result],
        tasks: Sequence[Task],
        heard: Callable[..., None],
        tick: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[int, Result]]:
        """(place in tasks, what came of work(task, say)), in the order they end. work: importable by its name.

        heard(place, *words): called here with what the work says. tick: called here now and then while nothing is
        said. What either raises, and what the work raises, ends everything. Raises WorkerDied.
        """
        if self._executor is None:
            from threadpoolctl import threadpool_limits

            for place, task in enumerate(tasks):
                with threadpool_limits(limits=1):
                    result = work(task, partial(heard, place))
                yield place, result
            return
        running = {self._executor.submit(_one, work, place, task): place for place, task in enumerate(tasks)}
        while running:
            done, _ = wait(running, timeout=_LISTEN_S, return_when=FIRST_COMPLETED)
            self._listen(heard)
            tick()
            for future in done:
                yield running.pop(future), _result(future)

    def _listen(self, heard: Callable[..., None]) -> None:
        while not self._words.empty():
            place, words = self._words.get()
            heard(place, *words)


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except BrokenProcessPool:
        raise WorkerDied("a process of it was ended from outside, perhaps because the memory was used up") from None


# --- in the processes beside ---------------------------------------------------------------------------------------

_said: Any = None


def _begin(words: Any, nicer: int) -> None:
    """Before anything that calculates is imported."""
    global _said
    _said = words
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the one that started this, which ends it
    if nicer:
        with contextlib.suppress(OSError):
            os.nice(nicer)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed kills nobody; without this the process would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _one(work: Callable[[Task, Say], Result], place: int, task: Task) -> Result:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        return work(task, lambda *words: _said.put((place, words)))
