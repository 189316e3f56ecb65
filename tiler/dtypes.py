"""What numbers pixels may be."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike

from tiler.errors import OptionError

DType = Literal["uint8", "uint16", "float32"]
UNITS = {"uint8": 1.0, "uint16": 1 / 257, "float32": 255.0}
"""What 1 is in each, of 255."""


def check_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the type of pixels.

    Raises:
        OptionError: it is not among those that are decoded to.
    """
    try:
        found = np.dtype(dtype)
        if found.name in get_args(DType) and found.isnative:
            return found
    except (TypeError, ValueError, SyntaxError, AttributeError, OverflowError):  # NumPy has one for each odd value
        pass
    raise OptionError(f"No such numbers: dtype={' '.join(str(dtype).split())[:80]}. Use {', '.join(get_args(DType))}.")
