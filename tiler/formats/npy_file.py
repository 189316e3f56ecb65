"""What is said of a ``.npy`` file that is to be made."""

from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from tiler.dtypes import DType, check_dtype
from tiler.errors import OptionError
from tiler.formats.npy_sink import NpySink
from tiler.formats.planned_file import PathLike, PlannedFile
from tiler.formats.strided_sink import count_bytes
from tiler.metadata import Metadata
from tiler.options import check_fields
from tiler.plan import Plan


@dataclass(frozen=True, slots=True)
class Npy:
    """A ``.npy`` file, to be memory-mapped; see ``tiler.formats.npy_sink``."""

    path: PathLike
    """Its name."""
    _: KW_ONLY
    dtype: DType = "uint8"
    """"uint8" or "uint16", of 255 or 65535 where the model gives 1.0; "float32", what the model gives, not clipped."""
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
            OptionError: an option is out of its range.
        """
        check_dtype(self.dtype)
        if metadata is not None:
            raise OptionError(f"A .npy has no place for metadata: path={self.path}. Leave --keep-metadata out.")
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
