"""PNG, JPEG and WebP as sinks: encoded strip by strip where the format can, else in memory."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiler.dtypes import check_dtype
from tiler.errors import OptionError
from tiler.formats.encoded_sink import Appended, EncodedSink
from tiler.formats.png_writer import is_keyword, write_png
from tiler.formats.resolution import Resolution
from tiler.formats.sink import check_rgb
from tiler.formats.srgb_profile import srgb_profile
from tiler.metadata import Metadata
from tiler.phase import Phase
from tiler.sources.input_file import printable
from tiler.window import Span

PictureFormat = Literal["png", "jpeg", "webp"]
MOST_JPEG_METADATA_BYTES = 60_000
"""A segment has 64 kB, and some of it is for how the image was made."""
MOST_JPEG_DPI = 2**16 - 1
"""Source: JFIF 1.02, Xdensity."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a format can hold."""

    name: str
    """What people call it."""
    signature: bytes
    """How a file begins."""
    side_px: int
    """Longest side."""
    dtypes: tuple[str, ...]
    """Numbers it can hold."""
    bytes_a_px: int
    """Memory that encoding takes, measured."""


LIMITS: dict[PictureFormat, Limits] = {
    # Sources: libpng's PNG_USER_WIDTH_MAX; libjpeg's JPEG_MAX_DIMENSION; libwebp's WEBP_MAX_DIMENSION.
    "png": Limits("PNG", b"\x89PNG", 1_000_000, ("uint8", "uint16"), 0),
    "jpeg": Limits("JPEG", b"\xff\xd8\xff", 65_500, ("uint8",), 4),
    "webp": Limits("WebP", b"RIFF", 16_383, ("uint8",), 28),
}


class PictureSink(EncodedSink):
    """A PNG, JPEG or WebP under construction, one level.

    Args:
        path: the final name.
        shape: (height, width, 3).
        format_: "png" (lossless), "jpeg" (4:2:0) or "webp".
        dtype: of the pixels: uint8, and for PNG uint16.
        quality: of JPEG and WebP, 1 to 100; a WebP of 100 is lossless.
        dpi: pixels an inch, if somebody says them.
        metadata: texts and EXIF to be stored with the image.
        overwrite: whether an existing file may be replaced (when the new one is complete).
        description: any text, stored with the image.
        reopen: write on what an earlier run left; all else must be as it was then.

    Raises:
        OptionError: an option is out of its range, or the image is too large for the format.
        InputError: what is to be reopened is another file than it was.
        OSError: the disk is too full for the array.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: tuple[int, int, int],
        format_: PictureFormat,
        *,
        dtype: DTypeLike = np.uint8,
        quality: int = 90,
        dpi: float | None = None,
        metadata: Metadata | None = None,
        overwrite: bool = False,
        description: str | None = None,
        reopen: bool = False,
    ) -> None:
        check_picture(Path(path), shape, format_, dtype, quality)
        check_dpi(format_, dpi)
        check_metadata(format_, metadata)
        self.metadata = metadata or Metadata()
        self.format, self.quality, self.dpi, self.description = format_, quality, dpi, description
        self.signature = LIMITS[format_].signature
        super().__init__(path, shape, dtype, overwrite=overwrite, reopen=reopen)

    def _encode(self, output: Appended) -> None:
        if self.format == "png":
            strips, profile = self._read_pixels(), srgb_profile()
            write_png(
                output.write,
                self.shape,
                self.dtype,
                strips,
                profile=profile,
                description=self.description,
                dpi=self.dpi,
                metadata=self.metadata,
            )
        else:
            self._encode_by_pillow(output)

    def _encode_by_pillow(self, output: Appended) -> None:
        from PIL import Image

        height, width, _ = self.shape
        # A bomb is what others make; and this one is in memory by intention.
        image = Image.new("RGB", (width, height))
        row = 0
        for strip in self._read_pixels():
            image.paste(Image.fromarray(strip), (0, row))
            row += len(strip)
        options: dict[str, Any] = {"icc_profile": srgb_profile(), "quality": self.quality}
        exif, rest = self.metadata.for_pictures()
        if self.description:
            options["xmp"] = _write_xmp(rest.add_to(self.description))
        if self.format == "jpeg":
            options["subsampling"] = "4:2:0"
            if self.dpi is not None:
                options["dpi"] = self.dpi, self.dpi
        elif self.quality == 100:
            options |= {"lossless": True, "exact": True, "quality": 0, "method": 0}
        if self.format == "webp" and self.dpi is not None:
            # 296 is the unit, 2 an inch. Source: EXIF 2.3, 4.6.4.
            exif[282] = exif[283] = self.dpi
            exif[296] = 2
        if len(exif):
            options["exif"] = exif
        image.save(output, LIMITS[self.format].name, **options)  # type: ignore[arg-type]

    def _read_pixels(self) -> Iterator[NDArray[Any]]:
        """Yield strips of rows, from top to bottom."""
        height, width, _ = self.shape
        phase = Phase(f"Completing {self.path}", -(-height // self._count_rows(width)), "strips")
        for strip in self._read_strips(Span(0, height), Span(0, width)):
            yield strip.view(self.dtype)
            phase.count(strip.shape[0] * width)


def check_picture(
    path: Path, shape: tuple[int, int, int], format_: PictureFormat, dtype: DTypeLike, quality: int
) -> None:
    """Refuse what a format cannot hold, before any work is done.

    Raises:
        OptionError: that is so; a TIFF can hold it.
    """
    if format_ not in get_args(PictureFormat):
        raise OptionError(f"No such format: format={format_}. Use {', '.join(get_args(PictureFormat))}.")
    limits = LIMITS[format_]
    check_rgb(shape)
    height, width, _ = shape
    if not 1 <= quality <= 100:
        raise OptionError(f"No such quality: quality={quality}. Use 1 to 100.")
    instead = path.with_suffix(".tif").name
    if max(height, width) > limits.side_px:
        compression = "deflate" if format_ == "png" else "jpeg"
        raise OptionError(
            f"Too large for a {limits.name}: image={height} × {width} px, at most {limits.side_px} px a side. "
            f"Write a TIFF: tiler decode … {instead} --compression {compression}"
        )
    numbers = check_dtype(dtype)
    if numbers.name not in limits.dtypes:
        raise OptionError(
            f"No such numbers in a {limits.name}: dtype={numbers}, which holds {', '.join(limits.dtypes)}. "
            f"Write a TIFF: tiler decode … {instead} --dtype {numbers}"
        )


def check_dpi(format_: PictureFormat, dpi: float | None) -> None:
    """Refuse a resolution that a format cannot hold.

    Raises:
        OptionError: that is so.
    """
    Resolution(dpi)
    if format_ == "png" and dpi is not None and dpi < 1:
        raise OptionError(f"No such resolution in a PNG, which has whole pixels a metre: dpi={dpi}. Use 1 or more.")
    if format_ == "jpeg" and dpi is not None and (dpi != int(dpi) or not 1 <= dpi <= MOST_JPEG_DPI):
        raise OptionError(
            f"No such resolution in a JPEG: dpi={dpi}. Use a whole number from 1 to {MOST_JPEG_DPI}, or write a TIFF."
        )


def check_metadata(format_: PictureFormat, metadata: Metadata | None) -> None:
    """Refuse metadata that a format cannot hold.

    Raises:
        OptionError: that is so.
    """
    if metadata is None:
        return
    if format_ == "png":
        for name, text in metadata.texts.items():
            if not is_keyword(name) or "\0" in text:
                raise OptionError(
                    f"No text of a PNG: name={printable(name)}. Names have 1 to 79 characters of Latin-1. Leave "
                    "--keep-metadata out, or write a TIFF."
                )
    if format_ == "jpeg":
        exif, rest = metadata.for_pictures()
        for size in (len(exif.tobytes()), len(rest.add_to("{}"))):
            if size > MOST_JPEG_METADATA_BYTES:
                raise OptionError(
                    f"Too large for a JPEG: metadata={size} bytes, limit={MOST_JPEG_METADATA_BYTES} bytes. Leave "
                    "--keep-metadata out, or write a PNG, WebP or TIFF."
                )


def _write_xmp(description: str) -> bytes:
    """Return metadata in which many programs look for a description."""
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>'
        f'<rdf:li xml:lang="x-default">{escape(description, quote=False)}</rdf:li>'
        "</rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()
