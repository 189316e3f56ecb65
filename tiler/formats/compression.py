"""The compressions that a TIFF's tiles may have: what each is in the file, what it can hold, who reads it.

All of them release the interpreter while they work, so tiles are compressed on all cores.
"""

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Compression = Literal["deflate", "jpeg", "lzw", "none", "webp", "zstd", "jxl"]
DType = Literal["uint8", "uint16", "float32"]
Loss = Literal["never", "always", "below 100"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A compression."""

    tag: int
    """TIFF's number for it."""
    encode: Callable[[NDArray[Any], int], bytes]
    """``encode(tile, quality)``."""
    decode: Callable[[bytes], Any]
    """Back to bytes, or to pixels; raises anything where they are damaged. Used where nothing was lost."""
    loss: Loss = "never"
    """At which qualities something is lost."""
    dtypes: tuple[DType, ...] = ("uint8", "uint16", "float32")
    """What it can hold."""
    differences: bool = False
    """Whether whole numbers are stored as differences to the pixel on the left: TIFF's predictor 2."""
    needs_imagecodecs: bool = False
    """Whether the package imagecodecs encodes it."""
    caveat: str = ""
    """Who does not read it."""


def _inflate(content: bytes) -> bytes:
    # zlib.error is no ValueError.
    return zlib.decompress(content)


def _encode_jpeg(tile: NDArray[Any], quality: int) -> bytes:
    """Return a complete JPEG file, so that a tile can be served as it is."""
    return _save(tile, "JPEG", quality=quality, subsampling="4:2:0")


def _encode_webp(tile: NDArray[Any], quality: int) -> bytes:
    if quality == 100:
        # The fastest way: four times as fast as the next one, and 7 % larger.
        return _save(tile, "WEBP", lossless=True, exact=True, quality=0, method=0)
    return _save(tile, "WEBP", quality=quality, method=2)


def _encode_jxl(tile: NDArray[Any], quality: int) -> bytes:
    import imagecodecs

    if quality == 100:
        # Effort 1 is ten times as fast, but libjxl 0.11.2 changes pixels where a row ends in equal ones.
        return bytes(imagecodecs.jpegxl_encode(tile, lossless=True, effort=2, numthreads=1))
    # Source: libjxl's JxlEncoderDistanceFromQuality.
    distance = 0.1 + (100 - quality) * 0.09 if quality >= 30 else 53 / 3000 * quality**2 - 23 / 20 * quality + 25
    return bytes(imagecodecs.jpegxl_encode(tile, distance=distance, effort=3, numthreads=1))


def _encode_lzw(tile: NDArray[Any], quality: int) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.lzw_encode(tile.tobytes()))


def _encode_zstd(tile: NDArray[Any], quality: int) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.zstd_encode(tile.tobytes(), level=1))


def _decode_by_imagecodecs(name: str) -> Callable[[bytes], Any]:
    def decode(content: bytes) -> Any:
        import imagecodecs

        return getattr(imagecodecs, name)(content)

    return decode


def _save(tile: NDArray[Any], format_: str, **options: Any) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(tile).save(content, format_, **options)
    return content.getvalue()


def _open_by_pillow(content: bytes) -> NDArray[Any]:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


KINDS: dict[Compression, Kind] = {
    "deflate": Kind(8, lambda tile, _: zlib.compress(tile.data, level=1), _inflate, differences=True),
    "jpeg": Kind(7, _encode_jpeg, _open_by_pillow, "always", ("uint8",)),
    "lzw": Kind(5, _encode_lzw, _decode_by_imagecodecs("lzw_decode"), differences=True, needs_imagecodecs=True),
    "none": Kind(1, lambda tile, _: tile.tobytes(), bytes),
    "webp": Kind(
        50001, _encode_webp, _open_by_pillow, "below 100", ("uint8",), caveat="OpenSlide and Pillow do not read it"
    ),
    "zstd": Kind(
        50000,
        _encode_zstd,
        _decode_by_imagecodecs("zstd_decode"),
        differences=True,
        needs_imagecodecs=True,
        caveat="some builds of libvips show it in black, without a word",
    ),
    "jxl": Kind(
        50002,
        _encode_jxl,
        _decode_by_imagecodecs("jpegxl_decode"),
        "below 100",
        ("uint8", "uint16"),
        needs_imagecodecs=True,
        caveat="only tifffile reads it, and libvips shows it in black, without a word",
    ),
}
