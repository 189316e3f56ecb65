"""How the tiles of a TIFF become bytes, and bytes tiles again; and how many bytes they become at most."""

from importlib.util import find_spec
from typing import Any, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiler.errors import OptionError
from tiler.formats.compression import KINDS, Compression, DType


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
        if compression not in KINDS:
            raise OptionError(f"No such compression: compression={compression}. Use {', '.join(KINDS)}.")
        self.compression, self.quality, self.size_px = compression, quality, size_px
        self.dtype, self._kind = check_dtype(dtype), KINDS[compression]
        if self.dtype.name not in self._kind.dtypes:
            raise OptionError(
                f"No such numbers in this compression: dtype={self.dtype}, compression={compression}, which holds "
                f"{', '.join(self._kind.dtypes)}. Use --compression deflate, or another --dtype."
            )
        if self._kind.needs_imagecodecs and find_spec("imagecodecs") is None:
            raise OptionError(
                f"A package is missing: compression={compression} needs imagecodecs. "
                "Install 'taesd-tiler[codecs]', or use --compression deflate."
            )
        self.lossless = self._kind.loss == "never" or (self._kind.loss == "below 100" and quality == 100)
        self.tag = self._kind.tag
        self.differences = self._kind.differences and self.dtype.kind == "u"

    def encode(self, tile: NDArray[Any]) -> bytes:
        """Return the stored form of (height, width, 3) pixels, at the edge of an image less than a tile."""
        tile = np.ascontiguousarray(fill_tile(tile, self.size_px), self.dtype.newbyteorder("<"))
        if self.differences:
            differences = tile.copy()  # to the pixel on the left, modulo 256 or 65536: predictor 2
            differences[:, 1:] -= tile[:, :-1]
            tile = differences
        return self._kind.encode(tile, self.quality)

    def decode(self, content: bytes) -> NDArray[Any]:
        """Return the (size, size, 3) pixels of a stored tile, where compression loses nothing.

        Raises:
            ValueError: it is damaged.
        """
        shape = (self.size_px, self.size_px, 3)
        try:
            decoded = self._kind.decode(content)
        except Exception as error:  # Each library has errors of its own.
            raise ValueError(str(error)) from error
        if not isinstance(decoded, np.ndarray):
            decoded = np.frombuffer(decoded, self.dtype.newbyteorder("<"))
        tile = decoded.reshape(shape)
        return np.add.accumulate(tile, axis=1, dtype=self.dtype) if self.differences else tile

    def most_bytes(self) -> int:
        """Return how many bytes a stored tile takes at most.

        Where no formula is known it is measured: noise, which no picture comes near.
        """
        n_bytes = self.size_px**2 * 3 * self.dtype.itemsize
        if self.compression == "none":
            return n_bytes
        if self.compression == "deflate":
            # Source: zlib's compressBound.
            return n_bytes + (n_bytes >> 12) + (n_bytes >> 14) + (n_bytes >> 25) + 13
        if self.compression == "zstd":
            # Source: zstd's ZSTD_COMPRESSBOUND.
            return n_bytes + (n_bytes >> 8) + (max(0, (128 << 10) - n_bytes) >> 11)
        random = np.random.default_rng(0)
        bits = random.integers(0, 2, n_bytes, np.uint8) * np.uint8(255)
        noise = random.integers(0, 256, n_bytes, np.uint8)
        n_bytes = max(
            len(self.encode(each.view(self.dtype).reshape(self.size_px, self.size_px, 3))) for each in (bits, noise)
        )
        return n_bytes + n_bytes // 16


def check_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the type of pixels.

    Raises:
        OptionError: it is not among those that are decoded to.
    """
    try:
        found = np.dtype(dtype)
        if found.name in get_args(DType) and found.isnative:
            return found
    except (TypeError, ValueError, SyntaxError, AttributeError, OverflowError):  # NumPy has one for each odd value
        pass
    raise OptionError(f"No such numbers: dtype={' '.join(str(dtype).split())[:80]}. Use {', '.join(get_args(DType))}.")


def fill_tile(tile: NDArray[Any], size: int) -> NDArray[Any]:
    """Repeat the last row and column of a tile at the edge: small, and no rim creeps into a JPEG."""
    height, width = tile.shape[:2]
    if (height, width) == (size, size):
        return tile
    return np.pad(tile, ((0, size - height), (0, size - width), (0, 0)), mode="edge")
