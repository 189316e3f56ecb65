"""How the tiles of a TIFF become bytes, and bytes tiles again; and how many bytes they become at most."""

import io
import zlib
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tiler.errors import OptionError

Compression = Literal["deflate", "jpeg", "none"]


class TileCodec:
    """Square file tiles of 8-bit RGB, and what is stored of them.

    Args:
        compression: "deflate" (lossless; zlib 1 with the horizontal predictor), "jpeg" (4:2:0) or "none".
        quality: of "jpeg", 1 to 100.
        size_px: side of a tile, a multiple of 16.

    Raises:
        OptionError: one of these is out of its range.
    """

    def __init__(self, compression: Compression, quality: int, size_px: int) -> None:
        if size_px < 16 or size_px % 16:
            raise OptionError(f"TIFF tiles cannot be {size_px} px wide. Use a multiple of 16 px.")
        if not 1 <= quality <= 100:
            raise OptionError(f"No such JPEG quality: quality={quality}. Use 1 to 100.")
        if compression not in get_args(Compression):
            raise OptionError(
                f"No such compression: compression={compression}. Use {', '.join(get_args(Compression))}."
            )
        self.compression, self.quality, self.size_px = compression, quality, size_px
        self.lossless = compression != "jpeg"

    def encode(self, tile: NDArray[np.uint8]) -> bytes:
        """Return the stored form of (height, width, 3) pixels, at the edge of an image less than a tile."""
        tile = _fill(tile, self.size_px)
        if self.compression == "deflate":
            return _deflate(tile)
        return _jpeg(tile, self.quality) if self.compression == "jpeg" else tile.tobytes()

    def decode(self, content: bytes) -> NDArray[np.uint8]:
        """Return the (size, size, 3) pixels of a stored tile, where compression loses nothing.

        Raises:
            ValueError: it is damaged.
        """
        shape = (self.size_px, self.size_px, 3)
        if self.compression == "none":
            return np.frombuffer(content, np.uint8).reshape(shape)
        try:
            differences = np.frombuffer(zlib.decompress(content), np.uint8).reshape(shape)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        return np.add.accumulate(differences, axis=1, dtype=np.uint8)

    def most_bytes(self) -> int:
        """Return how many bytes a stored tile takes at most.

        That of JPEG is measured: black and white noise, which no picture comes near.
        """
        n_bytes = self.size_px**2 * 3
        if self.compression == "none":
            return n_bytes
        if self.compression == "deflate":
            # Source: zlib's compressBound.
            return n_bytes + (n_bytes >> 12) + (n_bytes >> 14) + (n_bytes >> 25) + 13
        noise = np.random.default_rng(0).integers(0, 2, (self.size_px, self.size_px, 3), np.uint8) * np.uint8(255)
        n_bytes = len(_jpeg(noise, self.quality))
        return n_bytes + n_bytes // 16


def _fill(tile: NDArray[Any], size: int) -> NDArray[Any]:
    """Repeat the last row and column of a tile at the edge: small, and no rim creeps into a JPEG."""
    height, width = tile.shape[:2]
    if (height, width) == (size, size):
        return tile
    return np.pad(tile, ((0, size - height), (0, size - width), (0, 0)), mode="edge")


def _deflate(tile: NDArray[np.uint8]) -> bytes:
    differences = tile.copy()  # to the pixel on the left, modulo 256: predictor 2
    differences[:, 1:] -= tile[:, :-1]
    return zlib.compress(differences.data, level=1)


def _jpeg(tile: NDArray[np.uint8], quality: int) -> bytes:
    """Return a complete JPEG file, so that a tile can be served as it is."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(tile).save(content, "JPEG", quality=quality, subsampling="4:2:0")
    return content.getvalue()
