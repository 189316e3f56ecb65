"""Shards of Zarr 3: files that hold a square of chunks each, so that a task owns whole files.

::

    chunk (0, 0) │ chunk (0, 1) │ … │ index: offset and size of each chunk │ CRC-32C of the index

A chunk holds one plane a channel, as OME-Zarr's axes c, y, x want it. Chunks beyond the edge of the image are absent.
Source: the specification, https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler import files
from tiler.codecs import Codec
from tiler.formats.tiled_sink import fill_square

ABSENT = (2**64 - 1, 2**64 - 1)
CHANNELS = 3


@dataclass(frozen=True, slots=True)
class ShardCodec:
    """How a shard becomes bytes, and bytes pixels again."""

    codec: Codec
    """Of each chunk."""
    shard_px: int
    """Side of a shard: whole chunks."""
    chunk_px: int
    """Side of a chunk."""
    dtype: np.dtype[Any]
    """Of the pixels."""

    @property
    def n_across(self) -> int:
        """Chunks side by side."""
        return self.shard_px // self.chunk_px

    @property
    def index_bytes(self) -> int:
        """What the index takes."""
        return self.n_across**2 * 16 + 4

    def describe(self) -> dict[str, Any]:
        """Return the codec as an array's metadata say it."""
        bytes_ = {"name": "bytes", "configuration": {"endian": "little"}}
        return {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": self.chunk_shape,
                "codecs": [bytes_, *self.codec.zarr],
                "index_codecs": [bytes_, {"name": "crc32c"}],
                "index_location": "end",
            },
        }

    def write(self, file: io.FileIO, pixels: NDArray[Any], check: int = 0) -> tuple[int, int]:
        """Write (height, width, channels) pixels to an empty file, at the edge of an image less than a shard.

        Returns:
            The CRC-32 of it, continued from ``check``, and its length in bytes.
        """
        end, index = 0, []
        for row in range(0, self.shard_px, self.chunk_px):
            for column in range(0, self.shard_px, self.chunk_px):
                part = pixels[row : row + self.chunk_px, column : column + self.chunk_px]
                if not part.size:
                    index.append(ABSENT)
                    continue
                content = self._compress(fill_square(part, self.chunk_px))
                files.write_at(file, content, end)
                check = zlib.crc32(content, check)
                index.append((end, len(content)))
                end += len(content)
        packed = b"".join(struct.pack("<QQ", *place) for place in index)
        content = packed + struct.pack("<I", crc32c(packed))
        files.write_at(file, content, end)
        return zlib.crc32(content, check), end + len(content)

    def read(self, content: bytes) -> NDArray[Any]:
        """Return the (shard, shard, channels) pixels of a shard; 0 where a chunk is absent.

        Raises:
            ValueError: it is damaged.
        """
        packed, check = content[-self.index_bytes : -4], content[-4:]
        if len(content) < self.index_bytes or struct.pack("<I", crc32c(packed)) != check:
            raise ValueError("the index is damaged")
        pixels = np.zeros((self.shard_px, self.shard_px, CHANNELS), self.dtype)
        for number, place in enumerate(struct.iter_unpack("<QQ", packed)):
            if place == ABSENT:
                continue
            row, column = (each * self.chunk_px for each in divmod(number, self.n_across))
            chunk = self._decompress(content[place[0] : place[0] + place[1]])
            pixels[row : row + self.chunk_px, column : column + self.chunk_px] = chunk
        return pixels

    def most_bytes(self) -> int:
        """Return how many bytes a shard takes at most."""
        return self.codec.count_most_bytes(self.chunk_shape, self.dtype) * self.n_across**2 + self.index_bytes

    @property
    def chunk_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a chunk."""
        return CHANNELS, self.chunk_px, self.chunk_px

    def _compress(self, chunk: NDArray[Any]) -> bytes:
        return self.codec.encode(np.ascontiguousarray(np.moveaxis(chunk, 2, 0), self.dtype.newbyteorder("<")), 100)

    def _decompress(self, content: bytes) -> NDArray[Any]:
        try:
            planes = self.codec.decode(content, self.chunk_shape, self.dtype.newbyteorder("<"))
        except Exception as error:  # Each library has errors of its own.
            raise ValueError(str(error)) from error
        return np.moveaxis(planes, 0, 2)


def crc32c(content: bytes) -> int:
    """Return a checksum. Source: RFC 3720, appendix B.4 (Castagnoli's polynomial, reflected)."""
    check = 0xFFFFFFFF
    for byte in content:
        check = _CRC_TABLE[(check ^ byte) & 0xFF] ^ (check >> 8)
    return check ^ 0xFFFFFFFF


def _make_crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [(value >> 1) ^ (0x82F63B78 if value & 1 else 0) for value in table]
    return table


_CRC_TABLE = _make_crc_table()
