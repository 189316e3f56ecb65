"""Compiled functions, kept on disk: compiled once per user and processor, loaded in a fraction of a second after that.

Numba looks whether the file of a function has changed, not whether one that it calls has, in another file. So the
folder is named by a hash of all that the code follows from. Each function has a folder of its own in it, and one
signature: processes that compile the same thing at the same time write the same files, each under another name first.
"""

import hashlib
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import llvmlite
import numba
from llvmlite import binding
from numba import njit

ENVIRONMENT = "TAESD_TILER_CACHE"
"""The variable that names another folder for compiled functions."""


@cache
def features() -> frozenset[str]:
    """Return what the processor can do, as the compiler names it."""
    said = numba.config.CPU_FEATURES
    if said is None:
        return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)
    return frozenset(name[1:] for name in said.split(",") if name.startswith("+"))


def find_user_folder() -> Path:
    """Return where this user's programs keep what can be made again."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "taesd-tiler"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "taesd-tiler"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taesd-tiler"


@cache
def find_folder() -> Path | None:
    """Return the folder of what is compiled from these sources for this processor; None if it cannot be written."""
    made_of = hashlib.sha256()
    for part in (
        numba.__version__,
        llvmlite.__version__,
        sys.version,
        platform.machine(),
        numba.config.CPU_NAME or binding.get_host_cpu_name(),
        *sorted(features()),
    ):
        made_of.update(f"{part}\0".encode())
    for source in sorted(files(__package__).iterdir(), key=lambda each: each.name):
        if source.name.endswith(".py"):
            made_of.update(source.read_bytes())
    folder = find_user_folder() / f"kernels-{made_of.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        warnings.warn(
            f"Compiled functions cannot be kept: folder={folder} ({error.strerror}). They are compiled anew in each "
            f"process; name a folder that can be written in {ENVIRONMENT}.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return folder


def compiled(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function when it is first called, or load it; without the lock of the interpreter.

    No fast mathematics: it would put sums in another order, and take for granted that there is no NaN.

    Args:
        name: that no other function has, nor another kind of the same one. It is called with one signature only.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        folder = find_folder()
        if folder is None:
            return njit(nogil=True)(function)
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(folder / name)
        try:
            return njit(nogil=True, cache=True)(function)
        finally:
            numba.config.CACHE_DIR = before

    return decorate
