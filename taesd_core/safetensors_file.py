"""A ``.safetensors`` file, read tensor by tensor.

::

    8 bytes   n bytes of JSON                                          the rest of the file
    n         {"name": {"dtype", "shape", "data_offsets"}, …}          tensors, one behind the other

With ``pread`` and not with a memory map, which kills the process by SIGBUS where the file shrinks; and what the
header declares is compared with the size of the file before anything is allocated.
Source: the format's description, https://huggingface.co/docs/safetensors.
"""

import hashlib
import json
import math
import os
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taesd_core.tensor_file import CONVERT, Kind, TensorFileError, check_size, open_regular, show

HEADER_LIMIT_BYTES = 2**24
"""Longest header that is parsed; TAESD's takes 8 kB, 15 kB with both parts, and a workflow of ComfyUI some MB."""

ITEM_BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2},
    **{"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1},
}
"""What an element takes, by number type."""

FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""The number types that ``read`` takes; BF16 is the upper half of F32."""


class SafetensorsError(TensorFileError):
    """A file is no whole safetensors file, or a tensor of it cannot be used."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the header says of a tensor."""

    dtype: str
    """One of ``ITEM_BYTES``."""
    shape: tuple[int, ...]
    """Its size along each axis."""
    start_bytes: int
    """Where it begins, behind the header."""
    stop_bytes: int
    """Where it ends."""

    @property
    def size_bytes(self) -> int:
        """What shape and number type take."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class SafetensorsFile:
    """A ``TensorFile``, open; it is closed with the object.

    Args:
        path: the file.

    Raises:
        TensorFileError: it is no whole safetensors file, or not a regular file.
        OSError: it cannot be opened or read.
    """

    kind: Kind = "safetensors"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._descriptor = open_regular(path)
        weakref.finalize(self, os.close, self._descriptor)
        self.entries, self._start = read_header(self._descriptor)
        """What there is, by name."""
        self.shapes = {name: entry.shape for name, entry in self.entries.items()}
        """The shape of each tensor, by name."""

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a tensor of floats; float64 beyond the range of float32 becomes infinite.

        Raises:
            SafetensorsError: it holds other numbers.
            OSError: it cannot be read.
        """
        entry = self.entries[name]
        if entry.dtype not in FLOATS:
            raise SafetensorsError(
                f"tensor {show(name)} has number type {entry.dtype}, not one of {', '.join(FLOATS)}", CONVERT
            )
        content = read_bytes(self._descriptor, self._start + entry.start_bytes, entry.size_bytes)
        values: NDArray[Any] = np.frombuffer(content, FLOATS[entry.dtype]).reshape(entry.shape)
        if entry.dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(np.float32)

    def sha256(self) -> str:
        """Return the hash of the whole file, in hexadecimal.

        Raises:
            TensorFileError: it is larger than 128 MiB.
        """
        n_bytes = os.fstat(self._descriptor).st_size
        check_size(n_bytes)
        return hashlib.sha256(read_bytes(self._descriptor, 0, n_bytes)).hexdigest()


def read_header(descriptor: int) -> tuple[dict[str, Entry], int]:
    """Return what an open file says of each tensor, and where the first begins.

    Raises:
        SafetensorsError: it is no whole safetensors file.
        OSError: it cannot be read.
    """
    text, n_bytes = _read_text(descriptor)
    return parse_header(text, n_bytes), 8 + len(text)


def read_metadata(descriptor: int) -> dict[str, str]:
    """Return what an open file says besides its tensors, texts by name.

    Raises:
        SafetensorsError: its header is damaged.
        OSError: it cannot be read.
    """
    return _split_header(_read_text(descriptor)[0])[1]


def _read_text(descriptor: int) -> tuple[bytes, int]:
    """Return the header, and how many bytes follow it."""
    size = os.fstat(descriptor).st_size
    length = int.from_bytes(read_bytes(descriptor, 0, 8), "little")
    if length > size - 8:
        raise SafetensorsError(f"truncated: its header takes {length} bytes, the file has {size} bytes")
    if length > HEADER_LIMIT_BYTES:
        raise SafetensorsError(f"too long a header: length={length} bytes, limit={HEADER_LIMIT_BYTES} bytes")
    return read_bytes(descriptor, 8, length), size - 8 - length


def read_bytes(descriptor: int, start: int, n_bytes: int) -> bytes:
    """Return a part of a file.

    Raises:
        SafetensorsError: it ends before that.
        OSError: it cannot be read.
    """
    content = b""
    # The system may read less than it is asked for.
    while len(content) < n_bytes:
        part = os.pread(descriptor, n_bytes - len(content), start + len(content))
        if not part:
            raise SafetensorsError(f"truncated at byte {start + len(content)}")
        content += part
    return content


def parse_header(text: bytes, n_bytes: int) -> dict[str, Entry]:
    """Return what a header says of each tensor.

    Args:
        text: the JSON.
        n_bytes: what follows it in the file.

    Raises:
        SafetensorsError: the header is damaged, or does not describe what follows to the byte.
    """
    header, _ = _split_header(text)
    entries = {name: _parse_entry(name, fields) for name, fields in header.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start_bytes, item[1].stop_bytes)):
        if entry.start_bytes != end:
            raise SafetensorsError(f"tensor {show(name)} does not begin where the one before it ends")
        end = entry.stop_bytes
    if end != n_bytes:
        raise SafetensorsError(f"the tensors take {end} bytes, but {n_bytes} bytes follow the header")
    return entries


def _split_header(text: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tensors of a header, and its metadata."""
    try:
        header = json.loads(text.decode(), object_pairs_hook=_refuse_twice)
    except RecursionError as error:
        raise SafetensorsError("the header is nested too deeply") from error
    except ValueError as error:
        raise SafetensorsError(f"the header is not JSON: {str(error)[:80]}") from error
    if not isinstance(header, dict):
        raise SafetensorsError("the header is not a list of tensors")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise SafetensorsError("the metadata are not text")
    return header, metadata


def _parse_entry(name: str, fields: Any) -> Entry:
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise SafetensorsError(f"tensor {show(name)} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise SafetensorsError(f"tensor {show(name)} has an unknown number type: {show(str(dtype))}")
    for sizes in (shape, offsets):
        # bool is an int to Python, true is none to JSON. 64 axes are what NumPy takes.
        if not isinstance(sizes, list) or len(sizes) > 64 or not all(type(n) is int and 0 <= n < 2**63 for n in sizes):
            raise SafetensorsError(f"tensor {show(name)} has an impossible shape or place")
    if len(offsets) != 2:
        raise SafetensorsError(f"tensor {show(name)} has an impossible place")
    entry = Entry(dtype, tuple(shape), *offsets)
    if entry.stop_bytes - entry.start_bytes != entry.size_bytes:
        raise SafetensorsError(f"tensor {show(name)} has another size than its shape")
    return entry


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found
