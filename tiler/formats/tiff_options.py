"""What is said of a TIFF that is to be made, and how large it gets."""

from abc import ABC
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tiler.codecs import CODECS, Codec
from tiler.errors import Option, OptionError
from tiler.fields import Fields
from tiler.formats.output_file import TiledFile, check_lossless
from tiler.formats.resolution import Resolution
from tiler.formats.tiled_sink import count_squares
from tiler.options import check_choice

Compression = Literal["deflate", "jpeg", "lzw", "none", "webp", "zstd", "jxl"]
Layout = Literal["pages", "ome"]
QUALITY = 90
"""Where none is asked for."""


@dataclass(frozen=True, slots=True)
class TiffOptions(TiledFile, ABC):
    """What is said of a tiled BigTIFF of sRGB pixels."""

    kind = "TIFF"
    endings = (".tif", ".tiff", ".btf", ".tf2", ".tf8")
    _: KW_ONLY
    layout: Layout | None = None
    """"pages", top-level ones, for OpenSlide, libvips, GDAL and most others; "ome" (OME-TIFF), pages below the first
    one, for Bio-Formats, QuPath and Fiji. By default "ome" where the name ends in ``.ome.tif`` or the like, else
    "pages"."""
    compression: Compression = "deflate"
    """"deflate", "lzw", "zstd" and "none" lose nothing, nor do "webp" and "jxl" at a quality of 100; "jpeg" (4:2:0)
    does. Not all readers know "zstd", "webp" and "jxl"."""
    quality: int | None = None
    """Of JPEG, WebP and JPEG XL, 1 to 100; 90 by default. What loses nothing has none."""
    dpi: float | None = None
    """Pixels an inch, in place of ``pixel_size_um``. A level of the pyramid has half that of the level below."""

    def _check(self) -> None:
        check_choice("compression", self.compression, Compression)
        if self.layout is not None:
            check_choice("layout", self.layout, Layout)
        if self.promises_ome and self.chosen_layout != "ome":
            raise OptionError(
                f"The name promises OME-XML: path={self.path}, layout={self.layout}, which has none. Leave "
                f"{Option('layout')} out, or name it {Path(self.path).with_suffix('').stem}{Path(self.path).suffix}."
            )
        if self.dtype not in self.codec.dtypes:
            raise OptionError(
                f"No such numbers in this compression: dtype={self.dtype}, compression={self.compression}, which holds "
                f"{', '.join(self.codec.dtypes)}. Use {Option('compression', 'deflate')}, or another {Option('dtype')}."
            )
        if self.quality is not None and self.codec.loss == "never":
            raise OptionError(
                f"No quality in this compression: quality={self.quality}, compression={self.compression}, which loses "
                f"nothing. Leave {Option('quality')} out, or use {Option('compression', 'jpeg')}."
            )
        Resolution(self.dpi, self.pixel_size_um)

    @property
    def codec(self) -> Codec:
        """What compresses its tiles."""
        return CODECS[self.compression]

    @property
    def differences(self) -> bool:
        """Whether tiles hold differences to the pixel on the left, modulo 256 or 65536: TIFF's predictor 2."""
        return self.codec.differences and self.dtype != "float32"

    @property
    def chosen_quality(self) -> int:
        """The quality that is asked for, or the usual one."""
        return QUALITY if self.quality is None else self.quality

    @property
    def is_lossless(self) -> bool:
        """Whether its compression loses nothing."""
        return self.codec.is_lossless(self.chosen_quality)

    @property
    def chosen_layout(self) -> Layout:
        """The layout that is asked for, or that the name means."""
        return self.layout or ("ome" if self.promises_ome else "pages")

    @property
    def resolution(self) -> Resolution:
        """How large a pixel is."""
        return Resolution(self.dpi, self.pixel_size_um)

    @property
    def caveat(self) -> str:
        """What to know of it: who does not read it."""
        return f"{self.compression} in a TIFF: {self.codec.caveat}." if self.codec.caveat else ""

    @property
    def fields(self) -> Fields:
        """What it is, by names that people know."""
        said: Fields = {"kind": self.kind, "dtype": self.dtype, "layout": self.chosen_layout}
        said["compression"] = self.compression
        if not self.is_lossless:
            said["quality"] = self.chosen_quality
        return said | self.resolution.fields | {"TIFF tile": f"{self.file_tile_px} px", "pyramid": self.pyramid}

    def count_most_bytes(self, levels: list[tuple[int, int]], tile_px: int) -> int:
        """Return how large a file of these levels can get, at most."""
        assert self.file_tile_px is not None
        size = self.file_tile_px
        tile_bytes = self.codec.count_most_bytes((size, size, 3), np.dtype(self.dtype), self.chosen_quality)
        # An even number for each tile, two numbers in the tables, the other tags of each page, and the description.
        return count_squares(levels, size) * (tile_bytes + 1 + 2 * 8) + len(levels) * 2000 + 10_000

    def check_verifiable(self) -> None:
        """Refuse what loses something, nobody can tell how much."""
        if self.codec.loss == "below 100":
            check_lossless(self.compression, self.chosen_quality)
