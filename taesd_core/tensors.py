"""The tensors of one convolution, in Keras' order of axes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


class ConvolutionTensors(NamedTuple):
    """What a checkpoint holds for a convolution."""

    kernel: Float32
    """(height, width, n_in, n_out)."""
    bias: Float32 | None
    """(n_out,), or none."""


Tensors = tuple[ConvolutionTensors, ...]
"""One entry for each convolution of a network, in order of execution."""
