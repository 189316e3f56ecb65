"""A ``.npy`` file as a sink: the array as numpy stores it, to be memory-mapped by whoever reads it."""

import io

import numpy as np

from tiler.formats.strided_sink import StridedSink


class NpySink(StridedSink):
    """A ``.npy`` file under construction; see ``StridedSink``."""

    def _header(self) -> bytes:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header,
            {
                "descr": np.lib.format.dtype_to_descr(self.dtype),
                "fortran_order": False,
                "shape": self.stored_shape,
            },
        )
        return header.getvalue()
