"""Memory: what there is, and how a number of bytes is said."""

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")

UNKNOWN_BYTES = 2**31
"""What there is taken to be where nobody says."""


def default_budget_bytes() -> int:
    """Return the memory that a run may take by default: three quarters of what is free."""
    available_bytes = find_memory()
    return (UNKNOWN_BYTES if available_bytes is None else available_bytes) * 3 // 4


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


def find_memory() -> int | None:
    """Return how much memory this process can have, what it has included, in bytes; None where nobody says."""
    limits = []
    with suppress(OSError, KeyError, ValueError):
        limits.append(_read_table(Path("/proc/meminfo"))["MemAvailable:"] * 1024)
    with suppress(OSError, KeyError, ValueError):
        # Version 2; what caches files can be taken back.
        free = int((_CGROUP / "memory.max").read_text()) - int((_CGROUP / "memory.current").read_text())
        limits.append(free + _read_table(_CGROUP / "memory.stat")["inactive_file"])
    if not limits:
        with suppress(OSError, ValueError):
            limits.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return max(min(limits), 0) + _find_resident() if limits else None


def find_peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    # Not ru_maxrss, where it can be helped: on Linux that counts what the parent had when it was forked.
    with suppress(OSError, KeyError, ValueError):
        return int(_read_lines("/proc/self/status")["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _read_lines(path: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in Path(path).read_text().splitlines())


def _find_resident() -> int:
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _read_table(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value, *_ in map(str.split, path.read_text().splitlines())}
