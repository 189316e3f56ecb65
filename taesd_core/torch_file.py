"""What ``torch.save`` writes (``.pth``, ``.pt``, ``.bin``), read by PyTorch where it is installed, and never as code.

Such a file is a pickle. ``weights_only=True`` makes PyTorch run none of it: only tensors and containers come out.
"""

import hashlib
import io
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from taesd_core.tensor_file import (
    CONVERT,
    Kind,
    MissingReaderError,
    TensorFileError,
    check_size,
    read_bounded,
    shorten,
    show,
)

MOST_ENTRIES = 20_000
"""Entries of all its containers that are looked at."""
MOST_NESTED = 16
"""Containers inside of containers."""


class TorchFile:
    """A ``TensorFile``, all of it in memory.

    Args:
        path: the file.

    Raises:
        TensorFileError: PyTorch is missing, or reads no tensors from it without running code.
        OSError: it cannot be opened or read.
    """

    kind: Kind = "torch"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        content = read_bounded(path)
        if content.startswith(b"PK"):
            # An archive can be small and its parts huge.
            try:
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    n_bytes = sum(each.file_size for each in archive.infolist())
            except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
                raise TensorFileError(f"a damaged archive, {shorten(error)}") from error
            check_size(n_bytes, " unpacked")
        self._sha256 = hashlib.sha256(content).hexdigest()
        self._tensors = load_tensors(io.BytesIO(content))
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        """The shape of each tensor, by name."""

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a tensor of floats.

        Raises:
            TensorFileError: it holds other numbers, or none.
        """
        import torch

        tensor = self._tensors[name]
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise TensorFileError(
                f"tensor {show(name)} is of {tensor.dtype}, {tensor.layout}, device {tensor.device}: "
                "not one of plain floats",
                CONVERT,
            )
        return tensor.detach().resolve_neg().to(torch.float32).numpy()

    def sha256(self) -> str:
        """Return the hash of the whole file, in hexadecimal."""
        return self._sha256


def load_tensors(file: BinaryIO) -> dict[str, Any]:
    """Return every tensor of a file by its name: the keys that lead to it, with dots between; "" for a tensor alone.

    Raises:
        MissingReaderError: PyTorch is not installed.
        TensorFileError: PyTorch reads nothing from it without running code.
    """
    try:
        import torch
    except ImportError:
        raise MissingReaderError("a pickle, which could run code; PyTorch can read it without") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    # What PyTorch raises on damaged files is not documented: UnpicklingError, RuntimeError, EOFError, KeyError ...
    except Exception as error:
        raise _describe(error) from error
    tensors: dict[str, Any] = {}
    for name, tensor in _walk(content, torch.Tensor):
        if name in tensors:
            raise TensorFileError(f"two tensors are called {show(name)}", "Save them under names of their own.")
        tensors[name] = tensor
    return tensors


def _describe(error: Exception) -> TensorFileError:
    """Return what it means that PyTorch could not load a file."""
    save = "Where you trust it, load it and save its tensors alone, such as model.state_dict()."
    said = " ".join(str(error).split())
    found = re.search(r"Unsupported (?:global|class)\W+(?:GLOBAL )?([\w.]+)", said)
    if found:
        return TensorFileError(
            f"not a file of tensors alone: it holds {show(found[1])}, which could run code and is never loaded", save
        )
    if "Unsupported operand 149" in said:
        return TensorFileError(
            "a pickle of protocol 4 or later, which PyTorch does not read without running code; it is never loaded",
            "Where you trust it, load it and save it again with the protocol that torch.save has by itself.",
        )
    if "Unsupported operand" in said:
        return TensorFileError(
            "not a file of tensors alone, or of another pickle protocol than 2 and 3, or damaged; "
            "what PyTorch does not read without running code is never loaded",
            save,
        )
    return TensorFileError(f"a damaged file of PyTorch's ({type(error).__name__})", "Save, copy or download it again.")


def _walk(content: Any, tensor_type: type) -> Iterator[tuple[str, Any]]:
    """Yield every tensor in nested containers with its name."""
    n_entries = 0
    pending = [("", content, 0)]
    while pending:
        name, each, nested = pending.pop()
        if isinstance(each, tensor_type):
            yield name, each
        elif isinstance(each, dict | list | tuple):
            n_entries += len(each)
            # A container can hold itself.
            if n_entries > MOST_ENTRIES or nested > MOST_NESTED:
                raise TensorFileError("more containers than a file of tensors has", "Save its tensors alone.")
            items = list(each.items() if isinstance(each, dict) else enumerate(each))
            prefix = f"{name}." if nested else ""
            pending += [(f"{prefix}{key}", value, nested + 1) for key, value in reversed(items)]
