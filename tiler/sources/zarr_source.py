"""Latents in a Zarr folder, read by window: only the chunks that a window touches are read.

zarr is an optional package. A chunk that is not there counts as filled with the array's fill value, as Zarr has it.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError, Option
from tiler.sources.array_source import ArraySource
from tiler.sources.axes import name_axes
from tiler.sources.input_file import printable, shorten
from tiler.sources.layout import Wanted, choose_key
from tiler.window import Window

MARKS = ("zarr.json", ".zarray", ".zgroup")
"""Files that make a folder a Zarr array or group, of version 3 or 2."""
CHUNK_LIMIT_BYTES = 2**30
"""Largest chunk: a window takes at least one."""
CODECS = frozenset(
    (
        *("bytes", "endian", "transpose", "sharding_indexed", "crc32c", "crc32", "adler32", "fletcher32"),
        *("zstd", "blosc", "gzip", "zlib", "lz4", "bz2", "lzma", "shuffle", "delta", "bitround", "fixedscaleoffset"),
    )
)
"""What chunks may be packed with. Not all there is: one of them runs a pickle."""


class ZarrSource(ArraySource):
    """One map of a Zarr array in a folder.

    Args:
        path: the folder of an array, or of a group of arrays.
        wanted: which array of a group, and which map of it.

    Raises:
        InputError: it cannot be used, or zarr is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], wanted: Wanted) -> None:
        self.path, key = Path(path), wanted.key
        try:
            import zarr
        except ImportError as error:
            raise InputError(
                f"Zarr needs another package: path={path}. Install it: pip install 'taesd-tiler[zarr]'."
            ) from error
        try:
            array = group = zarr.open(self.path, mode="r")
            name = f"path={path}"
            if isinstance(array, zarr.Group):
                members = {each: found for each, found in array.members(max_depth=3) if isinstance(found, zarr.Array)}
                key = choose_key({each: found.shape for each, found in members.items()}, key, name=name)
                array, name = members[key], f"{name}, key={printable(key)}"
            elif key is not None:
                raise InputError(f"An array, not a group: {name}, key={printable(key)}. Leave {Option('key')} out.")
            metadata = array.metadata.to_dict()
            named = name_axes(find_dimensions(group.attrs.asdict(), key))
        except InputError:
            raise
        except Exception as error:  # zarr raises a dozen kinds for damaged metadata.
            raise InputError(f"Not a Zarr array: path={path} ({shorten(error)}). Copy or save it again.") from error
        for codec in find_codecs(metadata):
            if codec.removeprefix("numcodecs.") not in CODECS:
                raise InputError(f"Chunks of an unknown codec: {name}, codec={printable(codec)}. Save them with zstd.")
        chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
        if chunk_bytes > CHUNK_LIMIT_BYTES:
            raise InputError(
                f"Chunks too large: {name}, chunk={chunk_bytes} bytes, limit={CHUNK_LIMIT_BYTES} bytes. Rechunk it."
            )
        self._key, self._name = key, name
        super().__init__(array, wanted.channels, index=wanted.index, axes=wanted.axes, named=named, name=name)

    @property
    def fingerprint(self) -> str:
        """A text that is another one when a file in the folder is another, or changed, or another map is meant."""
        total = hashlib.sha256()
        for folder, folders, files in os.walk(self.path):
            folders.sort()
            for name in sorted(files):
                status = os.stat(os.path.join(folder, name))
                place = os.path.relpath(os.path.join(folder, name), self.path)
                total.update(f"{place!r} {status.st_size} {status.st_mtime_ns}\n".encode())
        return f"sha256 of names, sizes and times {total.hexdigest()}, key={self._key}, index={self._layout.index}"

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array.

        Raises:
            InputError: a chunk is damaged.
        """
        try:
            return super().read(window)
        except MemoryError:
            raise
        except Exception as error:  # Each codec raises its own.
            raise InputError(f"A chunk is damaged: {self._name}, window=({window}) ({shorten(error)}).") from error


def is_zarr(path: Path) -> bool:
    """Say whether there is a Zarr array or group."""
    return any((path / mark).is_file() for mark in MARKS)


def find_dimensions(attributes: Any, key: str | None) -> list[object] | None:
    """Return what the axes of an image in an OME-Zarr are called, of versions 0.4 and 0.5.

    Raises:
        Exception: of many kinds, where these attributes are no OME-Zarr's.
    """
    for image in attributes.get("ome", attributes).get("multiscales", []):
        if key in [dataset["path"] for dataset in image["datasets"]]:
            return [axis["name"] for axis in image["axes"]]
    return None


def find_codecs(metadata: Any) -> Iterator[str]:
    """Yield the names of all codecs in an array's metadata, of version 2 or 3, those inside of shards too."""
    if isinstance(metadata, dict):
        for field, value in metadata.items():
            if field in ("codecs", "index_codecs", "filters", "compressor"):
                for codec in value if isinstance(value, list | tuple) else [value]:
                    if isinstance(codec, dict):
                        yield str(codec.get("name", codec.get("id")))
                        yield from find_codecs(codec.get("configuration"))
                    elif codec is not None:
                        yield str(codec)
