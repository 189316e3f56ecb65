"""How large a pixel is: on paper, or under a microscope."""

import math
from dataclasses import dataclass

from tiler.errors import OptionError
from tiler.fields import Fields

LEAST, MOST = 1e-3, 1e6
"""Of either number: what the fractions of TIFF hold, in every level of a pyramid."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """How large a pixel of level 0 is; nobody says it where both are None.

    Raises:
        OptionError: both are said, or one is out of its range.
    """

    dpi: float | None = None
    """Pixels an inch."""
    pixel_size_um: float | None = None
    """Side of a pixel in micrometres."""

    def __post_init__(self) -> None:
        if self.dpi is not None and self.pixel_size_um is not None:
            raise OptionError(
                f"Two resolutions: dpi={self.dpi}, pixel size={self.pixel_size_um} µm. Leave one of them out; "
                "dpi = 25400 / pixel size."
            )
        for name, value in (("dpi", self.dpi), ("pixel size", self.pixel_size_um)):
            if value is not None and not (_is_number(value) and LEAST <= value <= MOST):
                raise OptionError(f"No such resolution: {name}={value}. Use a number from {LEAST:g} to {MOST:g}.")

    @property
    def fields(self) -> Fields:
        """What is said, by names that people know."""
        said = {"dpi": self.dpi, "pixel size": self.pixel_size_um}
        return {name: f"{value:.15g}" for name, value in said.items() if value is not None}

    def find_tags(self, level: int) -> tuple[tuple[float, float] | None, str]:
        """Return the resolution of a level of a TIFF, and its unit. A level has half that of the level below."""
        if self.dpi is not None:
            side, unit = self.dpi / 2**level, "INCH"
        elif self.pixel_size_um is not None:
            side, unit = 10_000 / self.pixel_size_um / 2**level, "CENTIMETER"
        else:
            # A unit, even of a made-up resolution, would tell OpenSlide how many microns a pixel is.
            return None, "NONE"
        return (side, side), unit


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
