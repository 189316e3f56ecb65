"""How far it is, on standard error: a bar where that is a terminal, else lines, as in the log of a batch system."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click

from tiler.phase import LOG


@contextmanager
def show_progress(label: str, *, quiet: bool = False) -> Iterator[Callable[[int, int, int], None] | None]:
    """Show a progress bar while the block runs, or lines where there is no terminal; nothing when ``quiet``.

    The bar is there from the start, before the first tile is known of: what loads looks alive.

    Args:
        label: what is being done, beside the bar.
        quiet: show nothing.

    Yields:
        ``progress(n_done, n_tiles, n_px)``, to be called after each tile from any thread; None where there is no bar.
    """
    if quiet or not sys.stderr.isatty():
        with tell_lines(quiet=quiet):
            yield None
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tiles"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task(label, total=None, rate="loading …")

    def progress(n_done: int, n_tiles: int, n_px: int) -> None:
        seconds = bar.tasks[0].elapsed or 0
        rate = f"{n_px / seconds / 1e6:.2f} Mpx/s" if n_px and seconds else ""
        bar.update(task, completed=n_done, total=n_tiles, rate=rate)

    with bar:
        yield progress


@contextmanager
def tell_lines(*, quiet: bool = False) -> Iterator[None]:
    """Say on standard error what ``tiler.phase`` tells while the block runs; not on a terminal, nor when ``quiet``."""
    if quiet or sys.stderr.isatty() or any(isinstance(each, _Lines) for each in LOG.handlers):
        yield
        return
    level, propagates, handler = LOG.level, LOG.propagate, _Lines()
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    # A library may have asked for all lines there are: this one is said once.
    LOG.propagate = False
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)
        LOG.propagate = propagates


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # Nobody may listen any more, or the log's disk be full: that is no reason to stop.
        with suppress(OSError, ValueError):
            click.echo(record.getMessage(), err=True)
