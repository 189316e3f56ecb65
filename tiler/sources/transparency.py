"""Transparent pictures on a background, as viewers show them: in the numbers of sRGB."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError, OptionError

NAMES = {"white": "#ffffff", "black": "#000000"}
"""Colours that have a name."""


class Background:
    """What shows through where a picture is transparent.

    Args:
        colour: "#rrggbb", "white" or "black".

    Raises:
        OptionError: it is none of these.
    """

    def __init__(self, colour: str = "white") -> None:
        code = NAMES.get(colour, colour) if isinstance(colour, str) else ""
        if not re.fullmatch("#[0-9a-fA-F]{6}", code):
            raise OptionError(
                f"No such background: background={str(colour)[:40]!r}. Use #rrggbb, such as #c0ffee, or white or black."
            )
        self.colour = colour
        self.shown = False
        """Whether it has shown through anywhere so far."""
        self._values = np.frombuffer(bytes.fromhex(code[1:]), np.uint8).astype(np.float32) / np.float32(255)

    @property
    def note(self) -> str:
        """What is to be said where it has shown through."""
        return f"transparency composited on {self.colour}"

    def lay_under(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return (height, width, 4) pixels, the last value being alpha, as (height, width, 3) without it.

        Args:
            pixels: uint16, or float32 with alpha in [0, 1].

        Raises:
            InputError: an alpha is not in [0, 1].
        """
        colours, alpha = pixels[:, :, :3], pixels[:, :, 3:]
        largest = np.float32(65535 if pixels.dtype == np.uint16 else 1)
        if (alpha == largest).all():
            return np.ascontiguousarray(colours)
        if not ((alpha >= 0) & (alpha <= largest)).all():
            raise InputError(
                f"Transparency out of its range: alpha from {alpha.min():.3g} to {alpha.max():.3g}. It must be in "
                "[0, 1], and no NaN. Save the picture without it."
            )
        self.shown = True
        share = alpha / largest
        # What is hidden may be anything, NaN included.
        seen = np.where(alpha > 0, colours, 0) * share + self._values * largest * (1 - share)
        return np.rint(seen).astype(pixels.dtype) if pixels.dtype == np.uint16 else seen.astype(pixels.dtype)
