"""The codecs: how pixels become bytes in a TIFF or a Zarr, and bytes pixels again.

One table for all who compress or decompress: formats that are written, and sources. What is decoded is bounded: a
segment of a file from elsewhere must not become more than its pixels take, whatever it says. All codecs release the
interpreter while they work, so tiles are compressed on all cores.

They are imagecodecs'; but deflate is Python's own zlib, which can stop at a size and gives the same bytes.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tiler.dtypes import DType

NONE, LZW, JPEG, DEFLATE, PACKBITS, OLD_DEFLATE = 1, 5, 7, 8, 32773, 32946
ZSTD, WEBP, JPEG_XL = 50000, 50001, 50002
"""TIFF's numbers for compressions."""
Loss = Literal["never", "always", "below 100"]


@dataclass(frozen=True, slots=True)
class Codec:
    """A way to store pixels."""

    decompress: Callable[[bytes, tuple[int, ...], np.dtype[Any]], Any]
    """``decompress(content, shape, dtype)`` gives the bytes of such pixels, less where it is damaged, and never many
    more; or the pixels, where what is stored is a picture. It may raise anything."""
    encode: Callable[[NDArray[Any], int], bytes]
    """``encode(pixels, quality)``."""
    most_bytes: Callable[[int], int] | None = None
    """How many bytes so many of pixels become at most, where a formula is known."""
    tag: int | None = None
    """TIFF's number for it."""
    zarr: tuple[dict[str, Any], ...] = ()
    """How the metadata of a Zarr name it."""
    is_picture: bool = False
    """Whether what is stored is a complete file of a picture, not of any numbers."""
    loss: Loss = "never"
    """At which qualities something is lost."""
    dtypes: tuple[DType, ...] = ("uint8", "uint16", "float32")
    """What it can hold."""
    differences: bool = False
    """Whether a TIFF stores whole numbers as differences to the pixel on the left: predictor 2."""
    caveat: str = ""
    """Who does not read it in a TIFF."""

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return pixels of this shape and type, and of no more bytes than these.

        Raises:
            Exception: of many kinds, where they are damaged.
        """
        found = self.decompress(content, shape, dtype)
        if isinstance(found, np.ndarray):
            return found
        return np.frombuffer(found, dtype).reshape(shape)

    def is_lossless(self, quality: int) -> bool:
        """Tell whether nothing is lost."""
        return self.loss == "never" or (self.loss == "below 100" and quality == 100)

    def count_most_bytes(self, shape: tuple[int, int, int], dtype: np.dtype[Any], quality: int = 100) -> int:
        """Return how many bytes pixels become at most.

        Where no formula is known it is measured: noise, which no picture comes near.
        """
        n_bytes = _count_bytes(shape, dtype)
        if self.most_bytes is not None:
            return self.most_bytes(n_bytes)
        random = np.random.default_rng(0)
        bits = random.integers(0, 2, n_bytes, np.uint8) * np.uint8(255)
        noise = random.integers(0, 256, n_bytes, np.uint8)
        n_bytes = max(len(self.encode(each.view(dtype).reshape(shape), quality)) for each in (bits, noise))
        return n_bytes + n_bytes // 16


def _count_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def _inflate(content: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    # One more than is needed, or the checksum at the end is not looked at. In zlib's or gzip's form.
    return zlib.decompressobj(32 + zlib.MAX_WBITS).decompress(content, _count_bytes(shape, dtype) + 1)


def _deflate(form: int) -> Callable[[NDArray[Any], int], bytes]:
    def encode(pixels: NDArray[Any], quality: int) -> bytes:
        # gzip's form too: the module gzip writes the time of day.
        compressor = zlib.compressobj(1, zlib.DEFLATED, form)
        return compressor.compress(pixels.data) + compressor.flush()

    return encode


def _decompress(name: str) -> Callable[[bytes, tuple[int, ...], np.dtype[Any]], bytes]:
    def decompress(content: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
        import imagecodecs

        return bytes(getattr(imagecodecs, name)(content, out=_count_bytes(shape, dtype)))

    return decompress


def _decode_picture(name: str) -> Callable[[bytes, tuple[int, ...], np.dtype[Any]], NDArray[Any]]:
    def decode(content: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        import imagecodecs

        pixels: NDArray[Any] = getattr(imagecodecs, name)(content, out=np.empty(shape, dtype))
        return pixels

    return decode


def _encode(name: str, **options: Any) -> Callable[[NDArray[Any], int], bytes]:
    def encode(pixels: NDArray[Any], quality: int) -> bytes:
        import imagecodecs

        return bytes(getattr(imagecodecs, name)(pixels.tobytes(), **options))

    return encode


def _encode_jpeg(pixels: NDArray[Any], quality: int) -> bytes:
    """Return a complete JPEG file, so that a tile can be served as it is."""
    import imagecodecs

    return bytes(imagecodecs.jpeg8_encode(pixels, level=quality, subsampling="420"))


def _encode_webp(pixels: NDArray[Any], quality: int) -> bytes:
    import imagecodecs

    if quality == 100:
        # The fastest way: four times as fast as the next one, and 7 % larger.
        return bytes(imagecodecs.webp_encode(pixels, lossless=True, level=0, method=0))
    return bytes(imagecodecs.webp_encode(pixels, lossless=False, level=quality, method=2))


def _encode_jxl(pixels: NDArray[Any], quality: int) -> bytes:
    import imagecodecs

    if quality == 100:
        # Effort 1 is ten times as fast, but libjxl 0.11.2 changes pixels where a row ends in equal ones.
        return bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, effort=2, numthreads=1))
    # Source: libjxl's JxlEncoderDistanceFromQuality.
    distance = 0.1 + (100 - quality) * 0.09 if quality >= 30 else 53 / 3000 * quality**2 - 23 / 20 * quality + 25
    return bytes(imagecodecs.jpegxl_encode(pixels, distance=distance, effort=3, numthreads=1))


CODECS = {
    "none": Codec(lambda content, *_: content, lambda pixels, _: pixels.tobytes(), lambda n: n, tag=NONE),
    # Source: zlib's compressBound.
    "deflate": Codec(
        _inflate,
        _deflate(zlib.MAX_WBITS),
        lambda n: n + (n >> 12) + (n >> 14) + (n >> 25) + 13,
        tag=DEFLATE,
        differences=True,
    ),
    "gzip": Codec(
        _inflate,
        _deflate(16 + zlib.MAX_WBITS),
        lambda n: n + (n >> 11) + 50,
        zarr=({"name": "gzip", "configuration": {"level": 1}},),
    ),
    "lzw": Codec(_decompress("lzw_decode"), _encode("lzw_encode"), tag=LZW, differences=True),
    # Source: zstd's ZSTD_COMPRESSBOUND.
    "zstd": Codec(
        _decompress("zstd_decode"),
        _encode("zstd_encode", level=1),
        lambda n: n + (n >> 8) + (max(0, (128 << 10) - n) >> 11),
        tag=ZSTD,
        zarr=({"name": "zstd", "configuration": {"level": 1, "checksum": False}},),
        differences=True,
        caveat="some builds of libvips show it in black, without a word",
    ),
    "packbits": Codec(_decompress("packbits_decode"), _encode("packbits_encode"), tag=PACKBITS),
    "jpeg": Codec(
        _decode_picture("jpeg8_decode"), _encode_jpeg, tag=JPEG, is_picture=True, loss="always", dtypes=("uint8",)
    ),
    "webp": Codec(
        _decode_picture("webp_decode"),
        _encode_webp,
        tag=WEBP,
        is_picture=True,
        loss="below 100",
        dtypes=("uint8",),
        caveat="OpenSlide and Pillow do not read it",
    ),
    "jxl": Codec(
        _decode_picture("jpegxl_decode"),
        _encode_jxl,
        tag=JPEG_XL,
        is_picture=True,
        loss="below 100",
        dtypes=("uint8", "uint16"),
        caveat="only tifffile reads it, and libvips shows it in black, without a word",
    ),
}
"""By the names that people know."""
TIFF_CODECS = {codec.tag: codec for codec in CODECS.values() if codec.tag and not codec.is_picture}
"""By TIFF's numbers: those of any numbers."""
TIFF_CODECS[OLD_DEFLATE] = CODECS["deflate"]
