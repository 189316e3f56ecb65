"""Input files: how they are opened, how large a picture in them may be, how what they say is printed."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file for reading while the block runs, and give its descriptor; see ``open_regular_file``."""
    descriptor = open_regular_file(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def shorten(error: BaseException) -> str:
    """Return what a library said, on one line and not too long."""
    text = " ".join(str(error).split())[:100]
    # It may repeat what it found in the file, or colour what it says.
    return f"{type(error).__name__}: {text if text.isprintable() else ascii(text)[:100]}"


def printable(text: str) -> str:
    """Return text that comes from a file as it may be printed: short, and without line ends or escapes."""
    return text if text.isprintable() and len(text) <= 60 else ascii(text)[:60]


LIMIT_PX = 2**28
"""Largest picture that is loaded, as 16,384 by 16,384."""
FLAT_LIMIT_PX = 2**25
"""Largest picture that is loaded whatever its file takes: 300 MB while it is."""
LIMIT_PX_A_BYTE = 100
"""Most pixels a byte of the file in a larger one. A photograph has 0.3 to 20, a bomb of zeros 250 or more."""
HELD_ROWS = 64
"""Rows that libvips holds of a picture that comes from top to bottom."""
INFLATED_BYTES_A_BYTE = 1032
"""What a byte of deflate can stand for at most: 258 bytes by two bits. Source: RFC 1951, 3.2.5."""


def check_size(width: int, height: int, path: Path) -> None:
    """Refuse a picture that is larger than what is loaded whole, or far larger than its file.

    Raises:
        InputError: it is.
    """
    n_px, size_bytes = width * height, path.stat().st_size
    if n_px > LIMIT_PX:
        raise InputError(
            f"Image too large to load at once: path={path}, image={width} × {height} px, limit={LIMIT_PX} px. Save it "
            "as a PNG that is not interlaced, a tiled TIFF, or a .npy file of uint8 (height, width, 3)."
        )
    if n_px > max(FLAT_LIMIT_PX, LIMIT_PX_A_BYTE * size_bytes):
        raise InputError(
            f"Image far larger than its file: path={path}, image={n_px} px, file={size_bytes} bytes. Above "
            f"{FLAT_LIMIT_PX} px it must be at most {LIMIT_PX_A_BYTE} px a byte. Save it as a PNG, not interlaced."
        )
