"""A ``.npy`` file: the array as numpy stores it, to be memory-mapped by whoever reads it, while it is written too."""

import io
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tiler.dtypes import DType
from tiler.errors import Option, OptionError
from tiler.formats.output_file import OutputFile, PlannedFile
from tiler.formats.strided_sink import StridedSink, count_bytes
from tiler.formats.written import WrittenArray
from tiler.metadata import Metadata
from tiler.plan import Plan


@dataclass(frozen=True, slots=True)
class Npy(OutputFile):
    """A ``.npy`` file of (height, width, 3)."""

    kind = ".npy"
    endings = (".npy",)
    _: KW_ONLY
    dtype: DType = "uint8"  # type: ignore[misc]
    """"uint8" or "uint16", of 255 or 65535 where the model gives 1.0; "float32", what the model gives, not clipped."""

    def plan(self, plan: Plan, *, overwrite: bool, metadata: Metadata | None = None) -> PlannedFile:
        """Return the file that holds the output of a plan.

        Raises:
            OptionError: it is to hold metadata.
        """
        if metadata is not None:
            raise OptionError(
                f"A .npy has no place for metadata: path={self.path}. Leave {Option('keep_metadata')} out."
            )
        shape = plan.output_shape
        make_sink = partial(NpySink, self.path, shape, self.dtype)
        most_bytes = count_bytes(shape, self.dtype) + 1000
        return PlannedFile(self, overwrite, make_sink, most_bytes, {"kind": self.kind, "dtype": self.dtype})

    @classmethod
    def read_back(cls, path: Path) -> WrittenArray:
        """Map one into memory, to be compared."""
        return WrittenArray(np.load(path, mmap_mode="r"))


class NpySink(StridedSink):
    """A ``.npy`` file under construction; see ``StridedSink``."""

    def _header(self) -> bytes:
        header = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(self.dtype)
        said = {"descr": descr, "fortran_order": False, "shape": self.stored_shape}
        np.lib.format.write_array_header_1_0(header, said)
        return header.getvalue()
