"""Files to be made: what they are to be like, and which kind a name means."""

import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from tiler.errors import OptionError
from tiler.fields import Fields
from tiler.plan import Plan
from tiler.pyramid import level_shapes
from tiler.sinks import tiff_sink, zarr_sink
from tiler.sinks.compression import KINDS, Compression, DType
from tiler.sinks.encoded_sink import count_encoded_bytes
from tiler.sinks.npy_sink import NpySink
from tiler.sinks.picture_sink import LIMITS, PictureFormat, PictureSink, check_picture
from tiler.sinks.planned_file import PlannedFile, choose_file_tile, choose_step
from tiler.sinks.strided_sink import count_bytes
from tiler.sinks.tiff_sink import Layout, TiffSink
from tiler.sinks.tile_codec import TileCodec, check_dtype
from tiler.sinks.zarr_shard import ShardCodec, ZarrCompression
from tiler.sinks.zarr_sink import ZarrSink

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Npy:
    """A ``.npy`` file, to be memory-mapped; see ``tiler.sinks.npy_sink``."""

    path: PathLike
    """Its name."""
    _: KW_ONLY
    dtype: DType = "uint8"
    """"uint8" or "uint16", of 255 or 65535 where the model gives 1.0; "float32", what the model gives, not clipped."""
    caveat: ClassVar[str] = ""
    """What to know of it."""

    def choose_step(self, size_px: int) -> int:
        """Return what tiles must be multiples of by default, px."""
        return 512

    def plan(self, plan: Plan, *, overwrite: bool) -> PlannedFile:
        """Return the file that holds the output of a plan.

        Raises:
            OptionError: an option is out of its range.
        """
        check_dtype(self.dtype)
        path, shape = Path(self.path), plan.output_shape
        open_sink = partial(NpySink, path, shape, self.dtype, overwrite=overwrite)
        return PlannedFile(
            path,
            overwrite,
            lambda reopen, description: open_sink(reopen=reopen),
            count_bytes(shape, self.dtype) + 1000,
            1,
            {"kind": ".npy", "dtype": self.dtype},
        )

    def check_verifiable(self) -> None:
        """Do nothing: it is."""


@dataclass(frozen=True, slots=True)
class Tiff:
    """A tiled BigTIFF; see ``tiler.sinks.tiff_sink``.

    Example:
        >>> import tiler
        >>> small = tiler.Tiff("image.tif", compression="jpeg", quality=95)
    """

    path: PathLike
    """Its name."""
    _: KW_ONLY
    dtype: DType = "uint8"
    """"uint8" or "uint16", of 255 or 65535 where the model gives 1.0; "float32", what the model gives, not clipped."""
    layout: Layout = "pages"
    """"pages" for OpenSlide, libvips, GDAL and most others; "ome" (OME-TIFF) for Bio-Formats, QuPath and Fiji."""
    compression: Compression = "deflate"
    """"deflate", "lzw", "zstd" and "none" lose nothing, nor do "webp" and "jxl" at a quality of 100; "jpeg" does.
    "lzw", "zstd" and "jxl" need the extra ``codecs``. Not all readers know "zstd", "webp" and "jxl"."""
    quality: int = 90
    """Of JPEG, WebP and JPEG XL, 1 to 100."""
    file_tile_px: int | None = None
    """Side of the file's own tiles; by default the largest power of 2 up to 512 (1024 for huge images) that divides
    a tile of the plan."""
    pyramid: bool = True
    """Whether there are reduced levels for viewers."""

    @property
    def caveat(self) -> str:
        """What to know of it: who does not read it."""
        kind = KINDS.get(self.compression)
        return f"{self.compression} in a TIFF: {kind.caveat}." if kind is not None and kind.caveat else ""

    def choose_step(self, size_px: int) -> int:
        """Return what tiles must be multiples of by default, px: whole tiles of the file."""
        return choose_step(size_px, self.file_tile_px)

    def plan(self, plan: Plan, *, overwrite: bool) -> PlannedFile:
        """Return the file that holds the output of a plan.

        Raises:
            OptionError: an option is out of its range.
        """
        path, shape, file_tile_px = Path(self.path), plan.output_shape, choose_file_tile(plan, self.file_tile_px)
        codec = TileCodec(self.compression, self.quality, file_tile_px, self.dtype)
        tiff_sink.check_layout(self.layout)
        said: Fields = {"kind": "TIFF", "dtype": self.dtype, "layout": self.layout, "compression": self.compression}
        if not codec.lossless:
            said["quality"] = self.quality
        open_sink = partial(
            TiffSink,
            path,
            shape,
            dtype=self.dtype,
            layout=self.layout,
            compression=self.compression,
            quality=self.quality,
            file_tile_px=file_tile_px,
            pyramid=self.pyramid,
            overwrite=overwrite,
        )
        return PlannedFile(
            path,
            overwrite,
            open_sink,
            tiff_sink.count_most_bytes(shape, codec, pyramid=self.pyramid),
            len(level_shapes(*shape[:2], file_tile_px)) if self.pyramid else 1,
            said | {"TIFF tile": f"{file_tile_px} px", "pyramid": self.pyramid},
        )

    def check_verifiable(self) -> None:
        """Refuse what cannot be verified.

        Raises:
            OptionError: it loses something, nobody can tell how much.
        """
        if self.compression in ("webp", "jxl"):
            _check_lossless(self.compression, self.quality)


@dataclass(frozen=True, slots=True)
class Zarr:
    """An OME-Zarr 0.5, a folder; see ``tiler.sinks.zarr_sink``."""

    path: PathLike
    """Its name."""
    _: KW_ONLY
    dtype: DType = "uint8"
    """As of ``Tiff``."""
    compression: ZarrCompression = "deflate"
    """"deflate" (gzip), "zstd" (with the extra ``codecs``) or "none": nothing is lost."""
    file_tile_px: int | None = None
    """Side of a chunk, chosen as for ``Tiff``; a tile of the plan is a shard."""
    pyramid: bool = True
    """Whether there are reduced levels for viewers."""
    caveat: ClassVar[str] = ""
    """What to know of it."""

    def choose_step(self, size_px: int) -> int:
        """Return what tiles must be multiples of by default, px: whole chunks."""
        return choose_step(size_px, self.file_tile_px)

    def plan(self, plan: Plan, *, overwrite: bool) -> PlannedFile:
        """Return the folder that holds the output of a plan.

        Raises:
            OptionError: an option is out of its range.
        """
        check_dtype(self.dtype)
        path, shape, file_tile_px = Path(self.path), plan.output_shape, choose_file_tile(plan, self.file_tile_px)
        codec = ShardCodec(self.compression, plan.tile_px, file_tile_px, shape[2], self.dtype)
        open_sink = partial(
            ZarrSink,
            path,
            shape,
            shard_px=plan.tile_px,
            dtype=self.dtype,
            compression=self.compression,
            file_tile_px=file_tile_px,
            pyramid=self.pyramid,
            overwrite=overwrite,
        )
        said: Fields = {"kind": "OME-Zarr", "dtype": self.dtype, "compression": self.compression}
        return PlannedFile(
            path,
            overwrite,
            open_sink,
            zarr_sink.count_most_bytes(shape, codec, pyramid=self.pyramid),
            len(level_shapes(*shape[:2], file_tile_px)) if self.pyramid else 1,
            said | {"chunk": f"{file_tile_px} px", "pyramid": self.pyramid},
        )

    def check_verifiable(self) -> None:
        """Refuse what cannot be verified.

        Raises:
            OptionError: a package is missing.
        """
        if find_spec("zarr") is None:
            raise OptionError("A package is missing: --verify of an OME-Zarr needs zarr. Install 'taesd-tiler[zarr]'.")


@dataclass(frozen=True, slots=True)
class _Picture:
    """What PNG, JPEG and WebP have in common."""

    path: PathLike
    """Its name."""
    _: KW_ONLY
    format: ClassVar[PictureFormat]
    """Which it is."""
    dtype: ClassVar[DType] = "uint8"
    """Of the pixels."""
    quality: ClassVar[int] = 100
    """Nothing is lost."""
    caveat: ClassVar[str] = ""
    """What to know of it."""

    def choose_step(self, size_px: int) -> int:
        """Return what tiles must be multiples of by default, px."""
        return 512

    def plan(self, plan: Plan, *, overwrite: bool) -> PlannedFile:
        """Return the file that holds the output of a plan.

        Raises:
            OptionError: an option is out of its range, or the image is too large for the format.
        """
        path, shape, limits = Path(self.path), plan.output_shape, LIMITS[self.format]
        check_picture(path, shape, self.format, self.dtype, self.quality)
        open_sink = partial(
            PictureSink, path, shape, self.format, dtype=self.dtype, quality=self.quality, overwrite=overwrite
        )
        said: Fields = {"kind": limits.name, "dtype": self.dtype}
        if self.quality < 100 or self.format == "jpeg":
            said["quality"] = self.quality
        encoded_bytes = count_encoded_bytes(shape, self.dtype)
        return PlannedFile(
            path,
            overwrite,
            open_sink,
            count_bytes(shape, self.dtype) + 1000 + encoded_bytes,
            1,
            said,
            shape[0] * shape[1] * limits.bytes_a_px,
            encoded_bytes,
        )

    def check_verifiable(self) -> None:
        """Refuse what cannot be verified.

        Raises:
            OptionError: it loses something, nobody can tell how much; or no library at hand reads it whole.
        """
        if self.format == "webp":
            _check_lossless("webp", self.quality)
        if self.dtype != "uint8":
            raise OptionError(
                f"Not to be verified: dtype={self.dtype} in a PNG, of which Pillow reads 8 bits. "
                "Leave --verify out, or write a TIFF."
            )


@dataclass(frozen=True, slots=True)
class Png(_Picture):
    """A PNG, at most a million px a side."""

    format = "png"
    _: KW_ONLY
    dtype: DType = "uint8"  # type: ignore[misc]
    """"uint8" or "uint16"."""


@dataclass(frozen=True, slots=True)
class Jpeg(_Picture):
    """A JPEG, at most 65,500 px a side; it takes 4 bytes of memory a px."""

    format = "jpeg"
    _: KW_ONLY
    quality: int = 90  # type: ignore[misc]
    """1 to 100."""


@dataclass(frozen=True, slots=True)
class WebP(_Picture):
    """A WebP, at most 16,383 px a side."""

    format = "webp"
    _: KW_ONLY
    quality: int = 90  # type: ignore[misc]
    """1 to 100; 100 loses nothing."""


OutputFile = Tiff | Npy | Zarr | Png | Jpeg | WebP
"""What ``decode`` writes."""

_KINDS: dict[str, type[OutputFile]] = {
    ".tif": Tiff,
    ".tiff": Tiff,
    ".npy": Npy,
    ".zarr": Zarr,
    ".png": Png,
    ".jpg": Jpeg,
    ".jpeg": Jpeg,
    ".webp": WebP,
}


def describe_output(output: PathLike | OutputFile, options: Mapping[str, Any] | None = None) -> OutputFile:
    """Return the kind of file that a name's ending means, with options by their names.

    Raises:
        OptionError: there is no such kind, or it has no such option.
    """
    if isinstance(output, OutputFile):
        return output
    kind = _KINDS[check_kind(Path(output))]
    options = options or {}
    for name, value in options.items():
        if name not in {field.name for field in fields(kind)}:
            raise OptionError(f"Not an option of a {Path(output).suffix} file: {name}={value}. Leave it out.")
    return kind(output, **options)


def check_kind(path: Path, kinds: tuple[str, ...] = tuple(_KINDS)) -> str:
    """Return the ending of an output's name.

    Raises:
        OptionError: it is none of ``kinds``.
    """
    kind = path.suffix.lower()
    if kind not in kinds:
        raise OptionError(f"No such kind of output: path={path}. The name must end in {', '.join(kinds)}.")
    return kind


def _check_lossless(compression: str, quality: int) -> None:
    if quality < 100:
        raise OptionError(
            f"Not to be verified: compression={compression}, quality={quality}; nothing says how far its pixels may be "
            "off. Use --quality 100, which loses nothing, another compression, or leave --verify out."
        )
