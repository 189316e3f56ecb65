"""Shards of Zarr 3: files that hold a square of chunks each, so that a task owns whole files.

::

    chunk (0, 0) │ chunk (0, 1) │ … │ index: offset and size of each chunk │ CRC-32C of the index

A chunk holds one plane a channel, as OME-Zarr's axes c, y, x want it. Chunks beyond the edge of the image are absent.
Source: the specification, https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/.
"""

import io
import struct
import zlib
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiler import files
from tiler.codecs import CODECS
from tiler.dtypes import check_dtype
from tiler.errors import OptionError
from tiler.formats.tile_codec import fill_tile

ZarrCompression = Literal["deflate", "zstd", "none"]
ABSENT = (2**64 - 1, 2**64 - 1)


class ShardCodec:
    """How a shard becomes bytes, and bytes pixels again.

    Args:
        compression: of each chunk, all without loss: "deflate" (in gzip's form), "zstd" or "none".
        shard_px: side of a shard.
        chunk_px: side of a chunk; it divides that of a shard.
        channels: of the pixels.
        dtype: of the pixels.

    Raises:
        OptionError: one of these is out of its range, or a package is missing.
    """

    def __init__(
        self, compression: ZarrCompression, shard_px: int, chunk_px: int, channels: int, dtype: DTypeLike
    ) -> None:
        if compression not in get_args(ZarrCompression):
            raise OptionError(
                f"No such compression of an OME-Zarr: compression={compression}. "
                f"Use {', '.join(get_args(ZarrCompression))}."
            )
        if chunk_px < 1 or shard_px < 1 or shard_px % chunk_px:
            raise OptionError(
                f"Shards do not consist of whole chunks: shard={shard_px} px, chunk={chunk_px} px. "
                "Use a tile size that is a multiple of the file tile."
            )
        self.compression, self.shard_px, self.chunk_px = compression, shard_px, chunk_px
        self.channels, self.dtype = channels, check_dtype(dtype)
        self.n_across = shard_px // chunk_px
        self._codec = CODECS["gzip" if compression == "deflate" else compression]

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
                "chunk_shape": [self.channels, self.chunk_px, self.chunk_px],
                "codecs": [bytes_, *self._codec.zarr],
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
                content = self._compress(fill_tile(part, self.chunk_px))
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
        pixels = np.zeros((self.shard_px, self.shard_px, self.channels), self.dtype)
        for number, place in enumerate(struct.iter_unpack("<QQ", packed)):
            if place == ABSENT:
                continue
            row, column = (each * self.chunk_px for each in divmod(number, self.n_across))
            chunk = self._decompress(content[place[0] : place[0] + place[1]])
            pixels[row : row + self.chunk_px, column : column + self.chunk_px] = chunk
        return pixels

    def most_bytes(self) -> int:
        """Return how many bytes a shard takes at most."""
        n_bytes = self._codec.count_most_bytes(self._stored_shape, self.dtype)
        return n_bytes * self.n_across**2 + self.index_bytes

    @property
    def _stored_shape(self) -> tuple[int, int, int]:
        return self.channels, self.chunk_px, self.chunk_px

    def _compress(self, chunk: NDArray[Any]) -> bytes:
        assert self._codec.encode is not None
        return self._codec.encode(np.ascontiguousarray(np.moveaxis(chunk, 2, 0), self.dtype.newbyteorder("<")), 100)

    def _decompress(self, content: bytes) -> NDArray[Any]:
        try:
            planes = self._codec.decode(content, self._stored_shape, self.dtype.newbyteorder("<"))
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
