"""What is asked of a file of tensors, whatever its format.

Three formats are read: safetensors, what ``torch.save`` writes, and HDF5 as Keras writes it. None is believed: what
a file declares is compared with what is expected before anything is allocated for it.
"""

import os
import stat
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Kind = Literal["safetensors", "torch", "keras-3", "keras-2"]

LIMIT_BYTES = 2**27
"""Largest file that is read; TAESD and its kin take 2 to 50 MB."""


CONVERT = "Take the file as it was published, or save its tensors as float16 or float32."
"""What to do about tensors of other numbers."""


class TensorFileError(ValueError):
    """A file is no whole file of its format, or a tensor of it cannot be used.

    Args:
        message: what is wrong.
        advice: what to do; by default what suits a damaged file.
    """

    advice = "Download it again, or convert it."
    """What to do."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice or self.advice


class MissingReaderError(TensorFileError):
    """What reads the file is not installed."""

    advice = (
        "Install PyTorch, or convert it where it is: "
        'safetensors.torch.save_file(torch.load("weights.pth", weights_only=True), "weights.safetensors").'
    )


class TensorFile(Protocol):
    """A file of tensors, looked into but not yet read."""

    kind: Kind
    """The format; the two of Keras differ in how they name tensors, not in the bytes around them."""
    shapes: dict[str, Shape]
    """The shape of each tensor by its name, in the file's order where it has one."""

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a tensor of floats.

        Raises:
            TensorFileError: it holds other numbers, or is damaged.
        """
        ...

    def sha256(self) -> str:
        """Return the hash of the whole file, in hexadecimal."""
        ...


def open_regular(path: str | os.PathLike[str]) -> int:
    """Open a regular file for reading and return its descriptor.

    Raises:
        TensorFileError: it is a folder, a pipe or a device.
        OSError: it cannot be opened.
    """
    # Without O_NONBLOCK, opening a pipe waits for whoever writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise TensorFileError("not a regular file", "Name a file.")


def check_size(n_bytes: int, what: str = "") -> None:
    """Refuse what is larger than any file of TAESD's.

    Raises:
        TensorFileError: it is larger than 128 MiB.
    """
    if n_bytes > LIMIT_BYTES:
        raise TensorFileError(
            f"too large: size={n_bytes} bytes{what}, limit={LIMIT_BYTES} bytes",
            "TAESD and its kin take 2 to 50 MB; this is the file of another model. See tiler weights list.",
        )


def read_bounded(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a regular file that is not too large.

    Raises:
        TensorFileError: it is larger than 128 MiB, or not a regular file.
        OSError: it cannot be opened or read.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        check_size(os.fstat(file.fileno()).st_size)
        return file.read(LIMIT_BYTES)


def show(name: str) -> str:
    """Return a name that comes from a file as it may be printed: short, and without line ends or escapes."""
    return name if name.isprintable() and len(name) <= 60 else ascii(name)[:60]


def shorten(error: BaseException) -> str:
    """Return what a library said, on one line and not too long."""
    return ascii(f"{type(error).__name__}: {' '.join(str(error).split())[:100]}")[1:-1]
