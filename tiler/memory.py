"""Memory: what there is, and how a number of bytes is said."""

import os
from pathlib import Path

DEFAULT_BUDGET_BYTES = 3 * 2**29
"""What a run takes at most unless told otherwise: larger tiles save a few percent of the work and cost gigabytes."""


def default_budget_bytes() -> int:
    """Return the memory that a run may take by default: half of what is free, 1.5 GiB at most."""
    return min(DEFAULT_BUDGET_BYTES, available_bytes() // 2)


def available_bytes() -> int:
    """Return how much memory this machine can give without swapping, as far as it says so."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":") for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def format_bytes(size_bytes: int) -> str:
    """Return a size as people read it, in powers of 1000."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    size, unit = size_bytes / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"
