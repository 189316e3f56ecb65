"""Ctrl-C and ``kill``: the first one stops in order, the second at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""The exit code."""


@contextmanager
def stop_in_order(how_to_go_on: str) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM while the block runs into ``KeyboardInterrupt``; the second ends the process.

    Args:
        how_to_go_on: said before the process ends.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            _say(f"\ntiler: interrupted. {how_to_go_on}")
            os._exit(INTERRUPTED)
        stopping = True
        _say("\nStopping when the tiles in flight are finished; once more stops at once.")
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    # Not print: the handler may have interrupted one.
    os.write(2, f"{line}\n".encode())
