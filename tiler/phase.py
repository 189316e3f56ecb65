"""What takes long, told in lines through ``logging``: for whoever asks, and in no case too often.

The logger is "tiler", the level INFO. The command line asks for these lines where there is no terminal for a bar.
"""

import logging
import time
from collections.abc import Callable
from threading import Lock

LOG = logging.getLogger("tiler.progress")
"""What is begun, and how far it is."""
REPORT = logging.getLogger("tiler.report")
"""What was done; the command line prints that itself."""

N_PARTS = 20
"""A line is due after each such part, 5 %, …"""
MOST_SECONDS = 600
"""… or after so long without one, …"""
LEAST_SECONDS = 30
"""… but not sooner than so long after the last."""


class Phase:
    """A stretch of a long run, told as ``Decoding: 35 %, 358 of 1,024 tiles, 0.43 Mpx/s, 27 min left``.

    Args:
        what: is being done.
        n_all: steps in all.
        unit: what people call them.
        n_before: steps that an earlier run has done; they tell nothing of the rate.
        clock: gives seconds.
    """

    def __init__(
        self, what: str, n_all: int, unit: str, *, n_before: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._n_all, self._unit, self._n_before = what, n_all, unit, n_before
        self._clock, self._lock = clock, Lock()
        self._started = self._told = clock()
        self._n_done, self._n_px, self._part = n_before, 0, self._count_parts(n_before)

    def count(self, n_px: int = 0) -> None:
        """Note, from any thread, that another step is done, of so many px of an image."""
        with self._lock:
            self._n_done += 1
            self._n_px += n_px
        self.look()

    def look(self) -> None:
        """Say how far it is, if that is due; for those who wait for a step that takes very long."""
        with self._lock:
            now, part = self._clock(), self._count_parts(self._n_done)
            waited = now - self._told
            if waited >= MOST_SECONDS or (waited >= LEAST_SECONDS and part > self._part):
                self._told, self._part = now, part
                LOG.info(self._describe(now - self._started))

    def _count_parts(self, n_done: int) -> int:
        return n_done * N_PARTS // max(self._n_all, 1)

    def _describe(self, seconds: float) -> str:
        share = 100 * self._n_done // max(self._n_all, 1)
        words = [f"{share} %", f"{self._n_done:,} of {self._n_all:,} {self._unit}"]
        if self._n_px:
            words.append(f"{self._n_px / seconds / 1e6:.2f} Mpx/s")
        n_now = self._n_done - self._n_before
        if self._n_done >= self._n_all:
            words.append(f"in {format_seconds(seconds)}")
        elif n_now:
            words.append(f"{format_seconds(seconds / n_now * (self._n_all - self._n_done))} left")
        return f"{self._what}: {', '.join(words)}"


def say_count(number: int, unit: str) -> str:
    """Return how many of something there are, in words."""
    return f"1 {unit}" if number == 1 else f"{number:,} {unit}s"


def format_seconds(seconds: float) -> str:
    """Return a time as people say it."""
    for unit, factor, most in (("s", 1, 90), ("min", 60, 90)):
        if seconds < most * factor:
            return f"{seconds / factor:.0f} {unit}"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
