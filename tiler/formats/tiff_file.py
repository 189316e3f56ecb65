"""What is said of a TIFF that is to be made."""

from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path

from tiler.codecs import CODECS
from tiler.dtypes import DType
from tiler.errors import OptionError
from tiler.fields import Fields
from tiler.formats import tiff_sink
from tiler.formats.planned_file import PathLike, PlannedFile, check_lossless, choose_file_tile, choose_step
from tiler.formats.resolution import Resolution
from tiler.formats.tiff_sink import Layout, TiffSink
from tiler.formats.tile_codec import Compression, TileCodec
from tiler.metadata import Metadata
from tiler.options import check_fields
from tiler.plan import Plan
from tiler.pyramid import level_shapes

TIFF_ENDINGS = (".tif", ".tiff", ".btf", ".tf2", ".tf8")
"""What names of TIFFs end in; the last three mean BigTIFF, which all of ours are."""
OME_ENDINGS = tuple(f".ome{ending}" for ending in TIFF_ENDINGS)
"""Names that promise OME-XML. Source: https://ome-model.readthedocs.io, OME-TIFF."""
QUALITY = 90
"""Where none is asked for."""


@dataclass(frozen=True, slots=True)
class Tiff:
    """A tiled BigTIFF; see ``tiler.formats.tiff_sink``.

    Example:
        >>> import tiler
        >>> small = tiler.Tiff("image.tif", compression="jpeg", quality=95)
    """

    path: PathLike
    """Its name."""
    _: KW_ONLY
    dtype: DType = "uint8"
    """"uint8" or "uint16", of 255 or 65535 where the model gives 1.0; "float32", what the model gives, not clipped."""
    layout: Layout | None = None
    """"pages" for OpenSlide, libvips, GDAL and most others; "ome" (OME-TIFF) for Bio-Formats, QuPath and Fiji. By
    default "ome" where the name ends in ``.ome.tif`` or the like, else "pages"."""
    compression: Compression = "deflate"
    """"deflate", "lzw", "zstd" and "none" lose nothing, nor do "webp" and "jxl" at a quality of 100; "jpeg" does.
    Not all readers know "zstd", "webp" and "jxl"."""
    quality: int | None = None
    """Of JPEG, WebP and JPEG XL, 1 to 100; 90 by default. What loses nothing has none."""
    file_tile_px: int | None = None
    """Side of the file's own tiles; by default the largest power of 2 up to 512 (1024 for huge images) that divides
    a tile of the plan."""
    pyramid: bool = True
    """Whether there are reduced levels for viewers."""

    dpi: float | None = None
    """Pixels an inch. A level of the pyramid has half that of the level below."""
    pixel_size_um: float | None = None
    """Side of a pixel in micrometres, in place of ``dpi``: OME's physical size, and TIFF's resolution."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def caveat(self) -> str:
        """What to know of it: who does not read it."""
        kind = CODECS.get(self.compression)
        return f"{self.compression} in a TIFF: {kind.caveat}." if kind is not None and kind.caveat else ""

    def choose_step(self, size_px: int) -> int:
        """Return what tiles must be multiples of by default, px: whole tiles of the file."""
        return choose_step(size_px, self.file_tile_px)

    def plan(self, plan: Plan, *, overwrite: bool, metadata: Metadata | None = None) -> PlannedFile:
        """Return the file that holds the output of a plan.

        Raises:
            OptionError: an option is out of its range.
        """
        path, shape, file_tile_px = Path(self.path), plan.output_shape, choose_file_tile(plan, self.file_tile_px)
        layout, quality = choose_layout(path, self.layout), self._choose_quality()
        resolution = Resolution(self.dpi, self.pixel_size_um)
        codec = TileCodec(self.compression, quality, file_tile_px, self.dtype)
        said: Fields = {"kind": "TIFF", "dtype": self.dtype, "layout": layout, "compression": self.compression}
        if not codec.lossless:
            said["quality"] = quality
        open_sink = partial(
            TiffSink,
            path,
            shape,
            dtype=self.dtype,
            layout=layout,
            compression=self.compression,
            quality=quality,
            file_tile_px=file_tile_px,
            pyramid=self.pyramid,
            overwrite=overwrite,
            resolution=resolution,
        )
        return PlannedFile(
            path,
            overwrite,
            open_sink,
            tiff_sink.count_most_bytes(shape, codec, pyramid=self.pyramid),
            len(level_shapes(*shape[:2], file_tile_px)) if self.pyramid else 1,
            said | resolution.fields | {"TIFF tile": f"{file_tile_px} px", "pyramid": self.pyramid},
        ).with_metadata(metadata)

    def check_verifiable(self) -> None:
        """Refuse what cannot be verified.

        Raises:
            OptionError: it loses something, nobody can tell how much.
        """
        if self.compression in ("webp", "jxl"):
            check_lossless(self.compression, self._choose_quality())

    def _choose_quality(self) -> int:
        kind = CODECS.get(self.compression)
        if self.quality is not None and kind is not None and kind.loss == "never":
            raise OptionError(
                f"No quality in this compression: quality={self.quality}, compression={self.compression}, which loses "
                "nothing. Leave --quality out, or use --compression jpeg."
            )
        return QUALITY if self.quality is None else self.quality


def choose_layout(path: Path, layout: Layout | None) -> Layout:
    """Return the layout that is asked for, or that a name means.

    Raises:
        OptionError: the name promises another one, or there is no such layout.
    """
    promised = path.name.lower().endswith(OME_ENDINGS)
    if layout is None:
        return "ome" if promised else "pages"
    tiff_sink.check_layout(layout)
    if promised and layout != "ome":
        raise OptionError(
            f"The name promises OME-XML: path={path}, layout={layout}, which has none. Leave --layout out, or name it "
            f"{path.with_suffix('').stem}{path.suffix}."
        )
    return layout
