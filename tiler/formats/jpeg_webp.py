"""JPEG and WebP: encoded in memory, by Pillow."""

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tiler.errors import Option, OptionError
from tiler.formats.encoded_sink import Appended
from tiler.formats.output_file import check_lossless
from tiler.formats.picture import Picture, PictureSink
from tiler.formats.resolution import Resolution
from tiler.formats.srgb_profile import srgb_profile
from tiler.formats.written import WrittenArray, find_axes, refuse_lossy
from tiler.metadata import Metadata
from tiler.sources.pillow_picture import open_by_pillow

MOST_JPEG_METADATA_BYTES = 60_000
"""A segment has 64 kB, and some of it is for how the image was made."""
MOST_JPEG_DPI = 2**16 - 1
"""Source: JFIF 1.02, Xdensity."""


@dataclass(frozen=True, slots=True)
class PillowPicture(Picture):
    """What Pillow encodes in memory."""

    def encode(self, sink: PictureSink, output: Appended) -> None:
        """Write the file."""
        from PIL import Image

        height, width, _ = sink.shape
        # A bomb is what others make; and this one is in memory by intention.
        image = Image.new("RGB", (width, height))
        row = 0
        for strip in sink.read_pixels():
            image.paste(Image.fromarray(strip), (0, row))
            row += len(strip)
        exif, rest = sink.metadata.for_pictures()
        options = {"icc_profile": srgb_profile(), "quality": self.quality, **self._choose_options(exif)}
        if sink.description:
            options["xmp"] = _write_xmp(rest.add_to(sink.description))
        if len(exif):
            options["exif"] = exif
        image.save(output, self.kind, **options)  # type: ignore[arg-type]

    @abstractmethod
    def _choose_options(self, exif: Any) -> dict[str, Any]:
        """Return how Pillow is to save it; EXIF may get more."""

    @classmethod
    def read_back(cls, path: Path) -> WrittenArray:
        """Read one by Pillow."""
        with open_by_pillow(path, cls.kind.upper(), None) as opened:
            said = opened.info.get("xmp", b"").decode()
            if cls is WebP:
                refuse_lossy(path, said)
            tables = getattr(opened, "quantization", None)
            return WrittenArray(np.asarray(opened), axes=find_axes(said), tables=tables and dict(tables))


@dataclass(frozen=True, slots=True)
class Jpeg(PillowPicture):
    """A JPEG (4:2:0), at most 65,500 px a side; it takes 4 bytes of memory a px."""

    kind, endings, signature = "JPEG", (".jpg", ".jpeg"), b"\xff\xd8\xff"
    side_px, bytes_a_px = 65_500, 4  # Source: libjpeg's JPEG_MAX_DIMENSION.
    _: KW_ONLY
    quality: int = 90  # type: ignore[misc]
    """1 to 100."""

    def _check(self) -> None:
        Resolution(self.dpi)
        if self.dpi is not None and (self.dpi != int(self.dpi) or not 1 <= self.dpi <= MOST_JPEG_DPI):
            raise OptionError(
                f"No such resolution in a JPEG: dpi={self.dpi}. Use a whole number from 1 to {MOST_JPEG_DPI}, or write "
                "a TIFF."
            )

    def check_metadata(self, metadata: Metadata) -> None:
        """Refuse metadata that are too large."""
        exif, rest = metadata.for_pictures()
        for size in (len(exif.tobytes()), len(rest.add_to("{}"))):
            if size > MOST_JPEG_METADATA_BYTES:
                raise OptionError(
                    f"Too large for a JPEG: metadata={size} bytes, limit={MOST_JPEG_METADATA_BYTES} bytes. Leave "
                    f"{Option('keep_metadata')} out, or write a PNG, WebP or TIFF."
                )

    def _choose_options(self, exif: Any) -> dict[str, Any]:
        return {"subsampling": "4:2:0"} | ({} if self.dpi is None else {"dpi": (self.dpi, self.dpi)})


@dataclass(frozen=True, slots=True)
class WebP(PillowPicture):
    """A WebP, at most 16,383 px a side."""

    kind, endings, signature = "WebP", (".webp",), b"RIFF"
    side_px, bytes_a_px = 16_383, 28  # Source: libwebp's WEBP_MAX_DIMENSION.
    _: KW_ONLY
    quality: int = 90  # type: ignore[misc]
    """1 to 100; 100 loses nothing."""

    def check_verifiable(self) -> None:
        """Refuse what loses something, nobody can tell how much."""
        check_lossless("webp", self.quality)

    def _choose_options(self, exif: Any) -> dict[str, Any]:
        if self.dpi is not None:
            # 296 is the unit, 2 an inch. Source: EXIF 2.3, 4.6.4.
            exif[282] = exif[283] = self.dpi
            exif[296] = 2
        return {"lossless": True, "exact": True, "quality": 0, "method": 0} if self.quality == 100 else {}


def _write_xmp(description: str) -> bytes:
    """Return metadata in which many programs look for a description."""
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>'
        f'<rdf:li xml:lang="x-default">{escape(description, quote=False)}</rdf:li>'
        "</rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()
