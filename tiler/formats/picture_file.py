"""What is said of a PNG, JPEG or WebP that is to be made."""

from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from tiler.dtypes import DType
from tiler.fields import Fields
from tiler.formats.encoded_sink import count_encoded_bytes
from tiler.formats.picture_sink import LIMITS, PictureFormat, PictureSink, check_dpi, check_metadata, check_picture
from tiler.formats.planned_file import PathLike, PlannedFile, check_lossless
from tiler.formats.resolution import Resolution
from tiler.formats.strided_sink import count_bytes
from tiler.metadata import Metadata
from tiler.options import check_fields
from tiler.plan import Plan


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
    dpi: float | None = None
    """Pixels an inch, for programs that print: a whole number in a JPEG, pixels a metre in a PNG, EXIF in a WebP."""
    caveat: ClassVar[str] = ""
    """What to know of it."""

    def __post_init__(self) -> None:
        check_fields(self)

    def choose_step(self, size_px: int) -> int:
        """Return what tiles must be multiples of by default, px."""
        return 512

    def plan(self, plan: Plan, *, overwrite: bool, metadata: Metadata | None = None) -> PlannedFile:
        """Return the file that holds the output of a plan.

        Raises:
            OptionError: an option is out of its range, or the image is too large for the format.
        """
        path, shape, limits = Path(self.path), plan.output_shape, LIMITS[self.format]
        check_picture(path, shape, self.format, self.dtype, self.quality)
        check_dpi(self.format, self.dpi)
        check_metadata(self.format, metadata)
        open_sink = partial(
            PictureSink,
            path,
            shape,
            self.format,
            dtype=self.dtype,
            quality=self.quality,
            dpi=self.dpi,
            metadata=metadata,
            overwrite=overwrite,
        )
        said: Fields = {"kind": limits.name, "dtype": self.dtype, **Resolution(self.dpi).fields}
        if self.quality < 100 or self.format == "jpeg":
            said["quality"] = self.quality
        encoded_bytes = count_encoded_bytes(shape, self.dtype)
        if metadata is not None:
            said |= metadata.fields
            encoded_bytes += metadata.size_bytes
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
            OptionError: it loses something, nobody can tell how much.
        """
        if self.format == "webp":
            check_lossless("webp", self.quality)


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
