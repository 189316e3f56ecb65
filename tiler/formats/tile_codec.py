"""How the tiles of a TIFF become bytes, and bytes tiles again; and how many bytes they become at most."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiler.codecs import CODECS
from tiler.dtypes import check_dtype
from tiler.errors import OptionError

Compression = Literal["deflate", "jpeg", "lzw", "none", "webp", "zstd", "jxl"]


class TileCodec:
    """Square file tiles of RGB, and what is stored of them.

    Args:
        compression: "deflate" (zlib 1), "lzw", "zstd" or "none", which lose nothing; "jpeg" (4:2:0); "webp" or
            "jxl", which lose nothing at quality 100. Without loss, whole numbers have the horizontal predictor.
        quality: of "jpeg", "webp" and "jxl", 1 to 100.
        size_px: side of a tile, a multiple of 16.
        dtype: of the pixels: uint8, uint16 or float32.

    Raises:
        OptionError: one of these is out of its range, they do not go together, or a package is missing.
    """

    def __init__(self, compression: Compression, quality: int, size_px: int, dtype: DTypeLike = np.uint8) -> None:
        if size_px < 16 or size_px % 16:
            raise OptionError(f"TIFF tiles cannot be {size_px} px wide. Use a multiple of 16 px.")
        if not 1 <= quality <= 100:
            raise OptionError(f"No such quality: quality={quality}. Use 1 to 100.")
        if compression not in get_args(Compression):
            raise OptionError(
                f"No such compression: compression={compression}. Use {', '.join(get_args(Compression))}."
            )
        self.compression, self.quality, self.size_px = compression, quality, size_px
        self.dtype, self._kind = check_dtype(dtype), CODECS[compression]
        if self.dtype.name not in self._kind.dtypes:
            raise OptionError(
                f"No such numbers in this compression: dtype={self.dtype}, compression={compression}, which holds "
                f"{', '.join(self._kind.dtypes)}. Use --compression deflate, or another --dtype."
            )
        self.lossless = self._kind.is_lossless(quality)
        self.tag = self._kind.tag
        self.differences = self._kind.differences and self.dtype.kind == "u"

    def encode(self, tile: NDArray[Any]) -> bytes:
        """Return the stored form of (height, width, 3) pixels, at the edge of an image less than a tile."""
        tile = np.ascontiguousarray(fill_tile(tile, self.size_px), self.dtype.newbyteorder("<"))
        if self.differences:
            differences = tile.copy()  # to the pixel on the left, modulo 256 or 65536: predictor 2
            differences[:, 1:] -= tile[:, :-1]
            tile = differences
        assert self._kind.encode is not None
        return self._kind.encode(tile, self.quality)

    def decode(self, content: bytes) -> NDArray[Any]:
        """Return the (size, size, 3) pixels of a stored tile, where compression loses nothing.

        Raises:
            ValueError: it is damaged.
        """
        try:
            tile = self._kind.decode(content, self._shape, self.dtype.newbyteorder("<"))
        except Exception as error:  # Each library has errors of its own.
            raise ValueError(str(error)) from error
        return np.add.accumulate(tile, axis=1, dtype=self.dtype) if self.differences else tile

    def most_bytes(self) -> int:
        """Return how many bytes a stored tile takes at most."""
        return self._kind.count_most_bytes(self._shape, self.dtype, self.quality)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.size_px, self.size_px, 3


def fill_tile(tile: NDArray[Any], size: int) -> NDArray[Any]:
    """Repeat the last row and column of a tile at the edge: small, and no rim creeps into a JPEG."""
    height, width = tile.shape[:2]
    if (height, width) == (size, size):
        return tile
    return np.pad(tile, ((0, size - height), (0, size - width), (0, 0)), mode="edge")
