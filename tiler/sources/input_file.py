"""Opening what somebody hands in, and saying in one line what a library says of it."""

import os
import stat
from pathlib import Path

from tiler.errors import InputError


def open_regular_file(path: Path) -> int:
    """Open a file for reading and return its descriptor; a folder, pipe or device is refused without waiting.

    Raises:
        InputError: it is not there, may not be read, is empty, or is not a regular file.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for whoever writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if path.is_symlink():
            raise InputError(f"A link to nowhere: path={path}, target={os.readlink(path)}. Mend it.") from None
        raise InputError(f"No such file: path={path}. Check the name.") from None
    except PermissionError:
        raise InputError(f"The file may not be read: path={path}. Give yourself read permission.") from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"The file cannot be opened: path={str(path)!r} ({shorten(error)}). Check the name."
        ) from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"A folder, not a file: path={path}. Name a file in it.")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"Not a regular file: path={path}. Pipes and devices cannot be read by window; save it.")
    raise InputError(f"The file is empty: path={path}, size=0 bytes. Save it again.")


def shorten(error: BaseException) -> str:
    """Return what a library said, on one line and not too long."""
    text = " ".join(str(error).split())[:100]
    # It may repeat what it found in the file, or colour what it says.
    return f"{type(error).__name__}: {text if text.isprintable() else ascii(text)[:100]}"


def printable(text: str) -> str:
    """Return text that comes from a file as it may be printed: short, and without line ends or escapes."""
    return text if text.isprintable() and len(text) <= 60 else ascii(text)[:60]
