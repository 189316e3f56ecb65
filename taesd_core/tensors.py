"""The tensors of one convolution, in Keras' order of axes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


class NormTensors(NamedTuple):
    """What a checkpoint holds for a group norm: what the normalised values are multiplied by, and what is added."""

    scale: Float32
    """(n_out,)."""
    offset: Float32
    """(n_out,)."""


class ConvolutionTensors(NamedTuple):
    """What a checkpoint holds for a convolution."""

    kernel: Float32
    """(height, width, n_in, n_out)."""
    bias: Float32 | None
    """(n_out,), or none."""
    norm: NormTensors | None = None
    """Of the group norm behind it, or none."""

    @property
    def arrays(self) -> "tuple[Float32, ...]":
        """All of them."""
        return tuple(each for each in (self.kernel, self.bias, *(self.norm or ())) if each is not None)


Tensors = tuple[ConvolutionTensors, ...]
"""One entry for each convolution of a network, in order of execution."""
