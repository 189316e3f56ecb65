"""Before any work: is there room for the output on the disk, and for the run in memory?"""

import shutil
from pathlib import Path

from tiler.errors import Option, RefusedError
from tiler.memory import find_memory, format_bytes


def check_disk(folder: Path, needed_bytes: int) -> None:
    """Refuse an output that its disk may not hold.

    Args:
        folder: where it is to be.
        needed_bytes: what it takes at most; a compression's worst case is about as large as the image itself.

    Raises:
        RefusedError: there is less space.
    """
    usage = shutil.disk_usage(folder)
    # Some file systems do not know their size.
    if usage.total and needed_bytes > usage.free:
        raise RefusedError(
            f"The disk may be too full: needed={format_bytes(needed_bytes)} at most, free={format_bytes(usage.free)} "
            f"in {folder}. Free some space, name another folder, or use {Option('force', True)} to try: a run that "
            f"fills the disk stops, and goes on with {Option('resume', True)}."
        )


_ADVICE = f"Use a smaller {Option('tile_size_px')}, or {Option('force', True)} to try"


def check_memory(needed_bytes: int, where: str = "", advice: str = _ADVICE) -> None:
    """Refuse a run that is predicted to need more memory than there is.

    Args:
        needed_bytes: what it needs.
        where: what of the run needs it, where that is not all.
        advice: what helps.

    Raises:
        RefusedError: there is less.
    """
    available = find_memory()
    if available is not None and needed_bytes > available:
        raise RefusedError(
            f"Too little memory: needed={format_bytes(needed_bytes)} as predicted{where}, "
            f"available={format_bytes(available)}. {advice}."
        )
