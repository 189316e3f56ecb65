"""How things are measured: each in a process of its own, warm, one at a time, in turns.

::

    parent   start a ── warm up ──┐ start b ── warm up ──┐ run a  run b │ run b  run a │ …     medians
    worker a      set up, wait ─────────────────────────── run ────────────────── run
    worker b                            set up, wait ───────────── run ── run

Whatever slows the machine down for a while (another program, heat) hits all alike when they take turns, and a process
of its own means that no library sees the threads or the memory of another.
"""

import multiprocessing
import os
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

Setup = Callable[..., Callable[..., Any]]
"""Loads what is measured, and returns the call that is timed."""
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}
DEBUG = "DEBUG" in os.environ
"""Whether workers may write to standard error."""


class WorkerError(RuntimeError):
    """A worker could not be set up, or failed; the message is its exception."""


@dataclass(frozen=True, slots=True)
class Run:
    """One timed call."""

    seconds: float
    """Of the call alone."""
    peak_bytes: int
    """Peak resident memory of the worker so far."""


class Worker:
    """A process in which something is set up once and run on demand.

    Args:
        setup: a function of a module, called in the worker with ``arguments``; heavy imports belong inside it.
        arguments: for ``setup``; they travel by pickle.
        cores: the only processors that the worker may use, by number; all by default.
        environment: variables that it gets before it imports anything heavy.
        checkout: a folder whose packages it imports before all others, such as another version of this project.
        patience: most seconds that the setup or a call may take; then the process is ended.

    Raises:
        WorkerError: the setup failed.
    """

    def __init__(
        self,
        setup: Setup,
        *arguments: Any,
        cores: Iterable[int] | None = None,
        environment: Mapping[str, str] | None = None,
        checkout: Path | None = None,
        patience: float | None = None,
    ) -> None:
        self._patience = patience
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, setup, arguments, None if cores is None else set(cores), {**QUIET, **(environment or {})}),
            daemon=True,
        )
        # A new process gets the path of this one.
        before = list(sys.path)
        if checkout is not None:
            sys.path.insert(0, str(checkout.resolve()))
        try:
            self._process.start()
        finally:
            sys.path[:] = before
        theirs.close()
        try:
            self.setup: Run = self._receive()
        except BaseException:
            self.stop()
            raise

    def run(self, *arguments: Any) -> Run:
        """Call what was set up and return how long it took."""
        self._connection.send(arguments)
        return self._receive()

    def result(self) -> Any:
        """Return what the last run returned."""
        self._connection.send("result")
        return self._receive()

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _receive(self) -> Any:
        if not self._connection.poll(self._patience):
            self._process.kill()
            raise WorkerError(f"no answer in {self._patience:g} s")
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            raise WorkerError(f"the process died, exit code {self._process.exitcode}") from None
        if isinstance(answer, WorkerError):
            raise answer
        return answer


def run_apart(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, Run]:
    """Call a function in a fresh process and return its result, the seconds it took, and the peak memory.

    Args:
        function: a function of a module.
        arguments: for it.
        options: as for ``Worker``.
    """
    with Worker(_defer, function, *arguments, **options) as worker:
        run = worker.run()
        return worker.result(), run


def take_turns(runs: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """Run everything once a round; each round begins with another one, so that nobody always follows the same."""
    done: dict[str, list[Run]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(rounds):
        first = number % max(len(names), 1)
        for name in names[first:] + names[:first]:
            done[name].append(runs[name]())
    return done


def median_seconds(runs: Iterable[Run]) -> float:
    """Return the median time."""
    return statistics.median(run.seconds for run in runs)


def median_ratio(runs: Iterable[Run], others: Iterable[Run]) -> float:
    """Return the median over the rounds of how many times longer ``runs`` took than ``others``."""
    return statistics.median(run.seconds / other.seconds for run, other in zip(runs, others, strict=True))


def peak_resident_bytes() -> int:
    """Return the peak resident memory of this process.

    Not ``ru_maxrss`` where it can be helped: on Linux that counts what the parent had when it started this process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_cores() -> list[int]:
    """Return the numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _defer(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: function(*arguments)


def _serve(
    connection: Connection,
    setup: Setup,
    arguments: tuple[Any, ...],
    cores: set[int] | None,
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    if not DEBUG:
        # Libraries tell standard error about every start; what goes wrong comes as an exception or an exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if cores is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    try:
        started = time.perf_counter()
        call = setup(*arguments)
        connection.send(Run(time.perf_counter() - started, peak_resident_bytes()))
        result = None
        while True:
            request = connection.recv()
            if request == "result":
                connection.send(result)
                continue
            started = time.perf_counter()
            result = call(*request)
            connection.send(Run(time.perf_counter() - started, peak_resident_bytes()))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:
        if DEBUG:
            traceback.print_exc()
        message = (str(error).strip() or "no message").splitlines()[0]
        connection.send(WorkerError(f"{type(error).__name__}: {message}"))
