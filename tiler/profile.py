"""Where the time goes: seconds per stage of a job, added up over its threads."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.formats.sink import Piece, Sink, Written
from tiler.sources.source import DerivedSource, Source
from tiler.window import Window

STAGES = ("load", "read", "decode", "write")
"""Load the model; read windows; run the model; compress and write."""


class Profile:
    """Seconds per stage, over all threads: stages of different tiles run at the same time and may add up to more."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        """Stage: its seconds over all threads."""
        self.wall_seconds = 0.0
        """What the job took."""
        self.n_models = 1
        """Models that run at a time: one a process."""
        self._lock = Lock()
        self._running, self._since = 0, 0.0

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to ``stage``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - started

    @contextmanager
    def measure_model(self) -> Iterator[None]:
        """Add the time in which the model runs anything to "decode": once, however many blocks run at a time."""
        with self._lock:
            if not self._running:
                self._since = time.perf_counter()
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                now = time.perf_counter()
                self.seconds["decode"] += now - self._since
                self._since = now

    def take(self) -> dict[str, float]:
        """Return the seconds of each stage since the last call, and begin anew."""
        with self._lock:
            seconds, self.seconds = self.seconds, dict.fromkeys(STAGES, 0.0)
        return seconds

    def add(self, seconds: dict[str, float]) -> None:
        """Add what another process took."""
        with self._lock:
            for stage, more in seconds.items():
                self.seconds[stage] += more

    @property
    def idle_share(self) -> float:
        """Share of the time after loading in which the model ran no tile, 0 to 1: it runs one at a time."""
        running = self.n_models * self.wall_seconds - self.seconds["load"]
        return max(0.0, 1 - self.seconds["decode"] / running) if running > 0 else 0.0

    def summary(self) -> str:
        """Return the figures as lines of text."""
        lines = [f"{stage:<8}{seconds:9.2f} s" for stage, seconds in self.seconds.items()]
        lines.append(
            f"{'in all':<8}{self.wall_seconds:9.2f} s; the model was idle for {self.idle_share:.1%} after loading"
        )
        return "\n".join(lines)


class ProfiledSource(DerivedSource):
    """A source whose reads are measured."""

    def __init__(self, source: Source, profile: Profile) -> None:
        super().__init__(source)
        self.profile = profile

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``."""
        with self.profile.measure("read"):
            return self.source.read(window)


class ProfiledWrites:
    """The writing side of a sink, measured."""

    def __init__(self, sink: Sink, profile: Profile) -> None:
        self.sink, self.profile = sink, profile
        self.levels, self.reads_back = sink.levels, sink.reads_back

    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> Piece:
        """Put ``pixels`` at ``window`` of ``level``."""
        with self.profile.measure("write"):
            return self.sink.write(level, window, pixels)

    def check(self, written: Sequence[Written]) -> list[bool]:
        """Say of each write of an earlier run whether it is still there."""
        return self.sink.check(written)
