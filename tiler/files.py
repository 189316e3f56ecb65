"""What is asked of the operating system so that a file lasts; sinks and journal write through here and nowhere else.

A test puts another ``os`` into this module: one that fails, or that forgets what was not synced.
"""

import errno
import fcntl
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


def open_file(path: Path, *, new: bool = False) -> io.FileIO:
    """Open a file to read and write at positions; a new one is empty, whatever was there. No link is followed."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT | os.O_TRUNC if new else 0)
    return io.FileIO(os.open(path, flags, 0o666), "r+")


def open_or_create(path: Path) -> tuple[io.FileIO, bool]:
    """Open a file with what is in it, or make it; say whether it was made."""
    while True:
        try:
            return io.FileIO(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, 0o666), "r+"), True
        except FileExistsError:
            try:
                return open_file(path), False
            except FileNotFoundError:
                continue  # It was removed in between.


@contextmanager
def locked(file: io.FileIO) -> Iterator[None]:
    """Hold a file while the block runs: all other processes that lock it wait, on other machines too.

    Threads with the same open file do not: they need a lock of their own.
    """
    # Not fcntl.lockf: that lock is gone as soon as anybody in the process closes the file, opened for whatever.
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def write_at(file: io.FileIO, content: bytes | memoryview, position: int) -> None:
    """Write all of ``content`` at ``position`` of a file; threads can share it.

    Raises:
        OSError: the disk is full or broken; part of it may be written.
    """
    descriptor = file.fileno()
    rest = memoryview(content).cast("B")
    while rest:
        # The kernel may take less than it is given: 2 GiB at most, or what a nearly full disk has left.
        n_bytes = os.pwrite(descriptor, rest, position)
        if not n_bytes:
            raise OSError(errno.EIO, "The system wrote nothing")
        rest = rest[n_bytes:]
        position += n_bytes


def read_at(file: io.FileIO, n_bytes: int, position: int) -> bytes:
    """Return ``n_bytes`` from ``position`` of a file, fewer at its end; threads can share it."""
    parts = []
    while n_bytes:
        part = os.pread(file.fileno(), n_bytes, position)
        if not part:
            break
        parts.append(part)
        n_bytes, position = n_bytes - len(part), position + len(part)
    return b"".join(parts)


def allocate(file: io.FileIO, n_bytes: int) -> None:
    """Make a file so long, with space on the disk for all of it where the system can.

    Raises:
        OSError: the disk is too full.
    """
    if hasattr(os, "posix_fallocate"):
        # A full disk is found now, not after hours.
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    else:  # macOS
        os.ftruncate(file.fileno(), n_bytes)


def truncate(file: io.FileIO, n_bytes: int) -> None:
    """Cut a file off behind ``n_bytes``."""
    os.ftruncate(file.fileno(), n_bytes)


def sync(file: io.FileIO) -> None:
    """Wait until what was written is on the disk.

    Raises:
        OSError: it did not get there; a second call would not bring it there either, and not say so.
    """
    os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk: a folder is a file of its own."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(source: Path, target: Path) -> None:
    """Give a file another name, which a file that has it loses in the same moment."""
    os.replace(source, target)


def make_folder(path: Path) -> None:
    """Make a folder, if it is not there."""
    with suppress(FileExistsError):
        os.mkdir(path)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a name for a file that gets the name ``path`` when the block ends well, and is gone when it does not."""
    # One that nobody has. Some libraries want the ending.
    part = path.with_name(f".{path.stem[:100]}-{uuid4().hex}{path.suffix}")
    try:
        yield part
        with open_file(part) as file:
            sync(file)
        replace(part, path)
        sync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        for each in path.iterdir():
            remove(each)
        os.rmdir(path)
        return
    with suppress(FileNotFoundError):
        os.unlink(path)


def count_bytes(path: Path) -> int:
    """Return what a file takes on the disk, or a folder with all that is in it; 0 where there is none."""
    try:
        n_bytes = os.lstat(path).st_blocks * 512
    except FileNotFoundError:
        return 0
    return n_bytes + (sum(map(count_bytes, path.iterdir())) if path.is_dir() and not path.is_symlink() else 0)


def find_number(path: Path) -> int:
    """Return by what the file system knows a file, or a folder, whatever its name is."""
    return os.stat(path).st_ino


def find_checksum(path: Path) -> tuple[int, int]:
    """Return the CRC-32 of a file, and its length in bytes."""
    check, n_bytes = 0, 0
    with path.open("rb") as file:
        while content := file.read(2**22):
            check, n_bytes = zlib.crc32(content, check), n_bytes + len(content)
    return check, n_bytes
