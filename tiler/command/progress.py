"""A progress bar on standard error: tiles, megapixels a second, time left."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def show_progress(label: str, *, quiet: bool = False) -> Iterator[Callable[[int, int, int], None] | None]:
    """Show a progress bar while the block runs; nothing when ``quiet`` or when nobody watches.

    The bar is there from the start, before the first tile is known of: what loads looks alive.

    Args:
        label: what is being done.
        quiet: show nothing.

    Yields:
        ``progress(n_done, n_tiles, n_px)``, to be called after each tile from any thread; None when nothing is shown.
    """
    if quiet or not sys.stderr.isatty():
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
