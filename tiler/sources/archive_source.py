"""Latents in the archives of ``numpy.savez`` and ``torch.save``. No pickle is ever executed.

A member of an ``.npz`` file that is not compressed, which is what ``numpy.savez`` writes, lies in the file as a
``.npy`` file does and is read by window. What ``numpy.savez_compressed`` writes cannot be: it is inflated once, into
memory, and so its size is limited. A ``.pt`` file is read by torch's restricted unpickler, whole as well.
"""

import io
import math
import os
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from taesd_core.file_kinds import BoundedFile, FileKind
from taesd_core.tensor_file import MissingReaderError, TensorFileError
from taesd_core.torch_file import load_tensors
from tiler.errors import InputError
from tiler.sources.array_source import ArraySource
from tiler.sources.fingerprint import fingerprint_file
from tiler.sources.input_file import open_regular_file, printable, shorten
from tiler.sources.layout import Wanted, choose_key, find_layout
from tiler.sources.npy_source import HEADER_LIMIT_BYTES, read_header
from tiler.sources.source import Source
from tiler.sources.stored_numbers import LATENT_TYPES, check_type
from tiler.sources.strided_source import StoredArray, StridedSource, check_room

LIMIT_BYTES = 2**30
"""Largest compressed member, inflated: the latents of four gigapixels."""
FLAT_LIMIT_BYTES = 2**27
"""Largest member that is inflated whatever it takes in the file."""
LIMIT_RATIO = 20
"""Most inflated bytes a compressed one in a larger one. Latents have 1.1, a bomb of zeros 1,000."""
PART_BYTES = 2**20
"""What is inflated at a time."""
LOCAL_HEADER_BYTES = 30
"""What comes before a member's name. Source: the ZIP specification, APPNOTE.TXT 4.3.7."""


def open_archive(path: Path, kind: FileKind, wanted: Wanted) -> Source:
    """Open what ``numpy.savez`` or ``torch.save`` has written.

    Args:
        path: the file.
        kind: which of the two it is.
        wanted: which of its arrays, and which map of it.

    Raises:
        InputError: it cannot be used; the message says why, and what to do.
    """
    with BoundedFile(open_regular_file(path), "rb") as file:
        try:
            if kind.name == "npz":
                with zipfile.ZipFile(file) as archive:
                    return open_npz(path, archive, wanted)
            # torch.save wrote no archive formerly.
            if file.read(2) == b"PK":
                with zipfile.ZipFile(file) as archive:
                    _check_stored(archive, path)
            return open_torch(path, wanted)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # zipfile raises a dozen kinds for a damaged file.
            raise InputError(
                f"The archive is damaged: path={path} ({shorten(error)}). Save or copy it again."
            ) from error


def open_npz(path: Path, archive: zipfile.ZipFile, wanted: Wanted) -> Source:
    """Open an array of an ``.npz`` file, by window where it is not compressed.

    Raises:
        InputError: it cannot be used.
        Exception: of many kinds, where the archive is damaged.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        other = members.setdefault(member.filename.removesuffix(".npy"), member)
        if other is not member:
            raise InputError(
                f"Two members of one name: path={path}, members={printable(other.filename)} and "
                f"{printable(member.filename)}. Nothing says which is meant; save the right one with numpy.savez."
            )
    headers: dict[str, tuple[Any, ...]] = {}
    for each, member in members.items():
        # numpy writes no other kinds; those of bzip2 and LZMA would be inflated without a limit.
        if member.filename.endswith(".npy") and member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            with archive.open(member) as file:
                headers[each] = read_header(file.read(HEADER_LIMIT_BYTES + 12), path)
    key = choose_key({each: header[0] for each, header in headers.items()}, wanted.key, name=f"path={path}")
    shape, fortran, dtype, start = headers[key]
    member, name = members[key], f"key={printable(key)}"
    array = StoredArray(shape, dtype, start, member.file_size - start, fortran, name=name)
    if member.compress_type == zipfile.ZIP_STORED:
        return StridedSource(path, lambda *_: _place(array, archive, member), wanted)
    check_type(dtype, LATENT_TYPES, name=f"path={path}, {name}")
    find_layout(shape, wanted, name=f"path={path}, {name}")
    check_room(array, f"path={path}, {name}")
    if member.file_size > max(FLAT_LIMIT_BYTES, min(LIMIT_BYTES, LIMIT_RATIO * member.compress_size)):
        raise InputError(
            f"Too large to inflate: path={path}, {name}, inflated={member.file_size} bytes, "
            f"compressed={member.compress_size} bytes, limit={LIMIT_BYTES} bytes and {LIMIT_RATIO} a byte. "
            "It cannot be read by window; save it with numpy.save or numpy.savez."
        )
    with archive.open(member) as file:
        values = _inflate(file, array)
    fingerprint = f"{fingerprint_file(archive.fp.fileno())}, {name}"  # type: ignore[union-attr]
    name = f"path={path}, {name}"
    return ArraySource(
        values, wanted.channels, index=wanted.index, axes=wanted.axes, name=name, fingerprint=fingerprint
    )


def open_torch(path: Path, wanted: Wanted) -> Source:
    """Open a tensor, or one in the dictionaries, lists and tuples that ``torch.save`` has written.

    Raises:
        InputError: it cannot be used; or there is no torch to read it.
    """
    try:
        with os.fdopen(open_regular_file(path), "rb") as file:
            fingerprint = fingerprint_file(file.fileno())
            tensors = load_tensors(file)
    except MissingReaderError as error:
        raise InputError(
            f"Only torch can read this file: path={path}. A pickle could run code and is never loaded without it. "
            "Install torch, or convert the file once where it is: "
            'numpy.save("latents.npy", torch.load("latents.pt", weights_only=True).float().cpu().numpy()).'
        ) from error
    except TensorFileError as error:
        raise InputError(f"Latents cannot be read: path={path} ({error}). {error.advice}") from error
    # A tensor alone has no name.
    key = "" if wanted.key is None and list(tensors) == [""] else wanted.key
    key = choose_key({each: tuple(tensor.shape) for each, tensor in tensors.items()}, key, name=f"path={path}")
    name = f"path={path}" + (f", key={printable(key)}" if key else "")
    fingerprint = f"{fingerprint}, key={key}"
    return ArraySource(
        tensors[key],
        wanted.channels,
        index=wanted.index,
        axes=wanted.axes,
        first="usually",
        name=name,
        fingerprint=fingerprint,
    )


def _place(array: StoredArray, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> StoredArray:
    """Return where an array lies in the file that lies in its archive uncompressed."""
    file = archive.fp
    assert file is not None
    file.seek(member.header_offset + LOCAL_HEADER_BYTES - 4)
    name_bytes, extra_bytes = struct.unpack("<HH", file.read(4))
    start = member.header_offset + LOCAL_HEADER_BYTES + name_bytes + extra_bytes
    room = min(member.file_size, member.compress_size, file.seek(0, io.SEEK_END) - start)
    header_bytes = array.start_bytes
    return replace(array, start_bytes=start + header_bytes, room_bytes=room - header_bytes)


def _check_stored(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse a file of tensors that are compressed: torch writes none, and would inflate them without a limit."""
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise InputError(f"Compressed tensors: path={path}. torch.save writes none; save them again.")


def _inflate(file: IO[bytes], array: StoredArray) -> NDArray[Any]:
    """Return the array of a compressed member; its checksum is compared at its end."""
    values = np.empty(math.prod(array.shape), array.dtype)
    file.read(array.start_bytes)
    buffer = values.view(np.uint8).data
    while buffer:
        part = file.read(min(len(buffer), PART_BYTES))
        if not part:
            raise ValueError("truncated")
        buffer[: len(part)] = part
        buffer = buffer[len(part) :]
    if file.read(1):
        raise ValueError("longer than it says")
    return values.reshape(array.shape, order="F" if array.fortran else "C")
