"""What is said of an OME-Zarr that is to be made."""

from dataclasses import KW_ONLY, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from tiler.dtypes import DType, check_dtype
from tiler.errors import OptionError
from tiler.fields import Fields
from tiler.formats import zarr_sink
from tiler.formats.planned_file import PathLike, PlannedFile, choose_file_tile, choose_step
from tiler.formats.resolution import Resolution
from tiler.formats.zarr_shard import ShardCodec, ZarrCompression
from tiler.formats.zarr_sink import ZarrSink
from tiler.metadata import Metadata
from tiler.options import check_fields
from tiler.plan import Plan
from tiler.pyramid import level_shapes


@dataclass(frozen=True, slots=True)
class Zarr:
    """An OME-Zarr 0.5, a folder; see ``tiler.formats.zarr_sink``."""

    path: PathLike
    """Its name."""
    _: KW_ONLY
    dtype: DType = "uint8"
    """As of ``Tiff``."""
    compression: ZarrCompression = "deflate"
    """"deflate" (gzip), "zstd" or "none": nothing is lost."""
    file_tile_px: int | None = None
    """Side of a chunk, chosen as for ``Tiff``; a tile of the plan is a shard."""
    pyramid: bool = True
    """Whether there are reduced levels for viewers."""
    pixel_size_um: float | None = None
    """Side of a pixel in micrometres; without it, the unit of the axes is a pixel."""
    caveat: ClassVar[str] = ""
    """What to know of it."""

    def __post_init__(self) -> None:
        check_fields(self)

    def choose_step(self, size_px: int) -> int:
        """Return what tiles must be multiples of by default, px: whole chunks."""
        return choose_step(size_px, self.file_tile_px)

    def plan(self, plan: Plan, *, overwrite: bool, metadata: Metadata | None = None) -> PlannedFile:
        """Return the folder that holds the output of a plan.

        Raises:
            OptionError: an option is out of its range.
        """
        check_dtype(self.dtype)
        path, shape, file_tile_px = Path(self.path), plan.output_shape, choose_file_tile(plan, self.file_tile_px)
        resolution = Resolution(pixel_size_um=self.pixel_size_um)
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
            pixel_size_um=self.pixel_size_um,
        )
        said: Fields = {"kind": "OME-Zarr", "dtype": self.dtype, "compression": self.compression}
        return PlannedFile(
            path,
            overwrite,
            open_sink,
            zarr_sink.count_most_bytes(shape, codec, pyramid=self.pyramid),
            len(level_shapes(*shape[:2], file_tile_px)) if self.pyramid else 1,
            said | resolution.fields | {"chunk": f"{file_tile_px} px", "pyramid": self.pyramid},
        ).with_metadata(metadata)

    def check_verifiable(self) -> None:
        """Refuse what cannot be verified.

        Raises:
            OptionError: a package is missing.
        """
        if find_spec("zarr") is None:
            raise OptionError("A package is missing: --verify of an OME-Zarr needs zarr. Install 'taesd-tiler[zarr]'.")
