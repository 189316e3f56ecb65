"""Pictures of one level, encoded when all pixels are there: what PNG, JPEG and WebP have in common."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from tiler.dtypes import DType
from tiler.errors import Option, OptionError
from tiler.fields import Fields
from tiler.formats.encoded_sink import Appended, EncodedSink, count_encoded_bytes
from tiler.formats.output_file import OutputFile, PlannedFile
from tiler.formats.resolution import Resolution
from tiler.formats.sink import Skeleton
from tiler.formats.strided_sink import count_bytes
from tiler.metadata import Metadata
from tiler.phase import Phase
from tiler.plan import Plan
from tiler.window import Span


@dataclass(frozen=True, slots=True)
class Picture(OutputFile):
    """What PNG, JPEG and WebP have in common."""

    signature: ClassVar[bytes]
    """How a file begins."""
    side_px: ClassVar[int]
    """Longest side."""
    bytes_a_px: ClassVar[int] = 0
    """Memory that encoding takes, measured."""
    dtype: ClassVar[DType] = "uint8"
    quality: ClassVar[int] = 100
    """Nothing is lost."""
    _: KW_ONLY
    dpi: float | None = None
    """Pixels an inch, for programs that print: a whole number in a JPEG, pixels a metre in a PNG, EXIF in a WebP."""

    def _check(self) -> None:
        Resolution(self.dpi)

    def check_metadata(self, metadata: Metadata) -> None:
        """Refuse metadata that the format cannot hold.

        Raises:
            OptionError: that is so.
        """

    @abstractmethod
    def encode(self, sink: "PictureSink", output: Appended) -> None:
        """Write the file."""

    def plan(self, plan: Plan, *, overwrite: bool, metadata: Metadata | None = None) -> PlannedFile:
        """Return the file that holds the output of a plan.

        Raises:
            OptionError: the image is too large for the format, or so are metadata.
        """
        shape = plan.output_shape
        if max(shape) > self.side_px:
            raise OptionError(
                f"Too large for a {self.kind}: image={shape[0]} × {shape[1]} px, at most {self.side_px} px a side. "
                f"Write a TIFF, as {self.as_tiff}, with "
                f"{Option('compression', 'deflate' if self.quality == 100 else 'jpeg')}."
            )
        said: Fields = {"kind": self.kind, "dtype": self.dtype, **Resolution(self.dpi).fields}
        if self.quality < 100 or self.kind == "JPEG":
            said["quality"] = self.quality
        encoded_bytes = count_encoded_bytes(shape, self.dtype)
        if metadata is not None:
            self.check_metadata(metadata)
            said |= metadata.fields
            encoded_bytes += metadata.size_bytes
        return PlannedFile(
            self,
            overwrite,
            partial(PictureSink, self, shape, metadata=metadata),
            count_bytes(shape, self.dtype) + 1000 + encoded_bytes,
            said,
            commit_bytes=shape[0] * shape[1] * self.bytes_a_px,
            encoded_bytes=encoded_bytes,
        )

    @property
    def as_tiff(self) -> str:
        """The name that it would have as a TIFF."""
        return Path(self.path).with_suffix(".tif").name


class PictureSink(EncodedSink):
    """A PNG, JPEG or WebP under construction, one level; see ``StridedSink``."""

    def __init__(
        self,
        file: Picture,
        shape: tuple[int, int, int],
        *,
        metadata: Metadata | None = None,
        overwrite: bool = False,
        description: str = "",
        begun: Skeleton | None = None,
    ) -> None:
        self.file, self.signature = file, file.signature
        self.metadata, self.description = metadata or Metadata(), description
        super().__init__(file.path, shape, file.dtype, overwrite=overwrite, begun=begun)

    def _encode(self, output: Appended) -> None:
        self.file.encode(self, output)

    def read_pixels(self) -> Iterator[NDArray[Any]]:
        """Yield strips of rows, from top to bottom."""
        height, width, _ = self.shape
        phase = Phase(f"Completing {self.path}", -(-height // self._count_rows(width)), "strips")
        for strip in self._read_strips(Span(0, height), Span(0, width)):
            yield strip.view(self.dtype)
            phase.count(strip.shape[0] * width)
