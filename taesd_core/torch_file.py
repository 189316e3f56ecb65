"""What ``torch.save`` writes (``.pth``, ``.pt``, ``.bin``), read by PyTorch where it is installed, and never as code.

Such a file is a pickle. ``weights_only=True`` makes PyTorch run none of it: only tensors and containers come out.
"""

import hashlib
import io
import os
import warnings
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taesd_core.tensor_file import LIMIT_BYTES, Kind, MissingReaderError, TensorFileError, read_bounded, shorten, show

STARTS = (b"PK\x03\x04", b"\x80")
"""How it begins: a zip archive around a pickle, and formerly a pickle alone."""


class TorchFile:
    """A ``TensorFile``, all of it in memory.

    Args:
        path: the file.

    Raises:
        TensorFileError: PyTorch is missing, or reads no dictionary of tensors from it without running code.
        OSError: it cannot be opened or read.
    """

    kind: Kind = "torch"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        content = read_bounded(path)
        self._sha256 = hashlib.sha256(content).hexdigest()
        self._tensors = _load(content)
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
            raise TensorFileError(f"tensor {show(name)} has number type {tensor.dtype}, not one of plain floats")
        return tensor.detach().to(torch.float32).numpy()

    def sha256(self) -> str:
        """Return the hash of the whole file, in hexadecimal."""
        return self._sha256


def _load(content: bytes) -> dict[str, Any]:
    if content.startswith(STARTS[0]):
        # An archive can be small and its parts huge.
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                size = sum(each.file_size for each in archive.infolist())
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise TensorFileError(f"a damaged archive, {shorten(error)}") from error
        if size > LIMIT_BYTES:
            raise TensorFileError(f"too large: size={size} bytes unpacked, limit={LIMIT_BYTES} bytes")
    try:
        import torch
    except ImportError:
        raise MissingReaderError("a pickle, which could run code; PyTorch can read it without") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    # What PyTorch raises on damaged files is not documented: UnpicklingError, RuntimeError, EOFError, KeyError ...
    except Exception as error:
        raise TensorFileError(
            "a pickle that is damaged or holds more than tensors; such a one could run code and is never loaded"
        ) from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in tensors.items()
    ):
        raise TensorFileError("a pickle, but not of a dictionary of tensors")
    return tensors
