"""The two spaces that latents come in, and the way from one to the other.

A sampler works in the diffusion space, and TAESD takes what it gives. The autoencoder of the model itself works in
the VAE space; between the two lie a scale and a shift of each model: ``diffusion = (vae - shift) * scale``.
"""

import math
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from tiler.errors import Option, OptionError
from tiler.sources.source import DerivedSource, LatentSpace, Readable, Source
from tiler.window import Window


class Converted(DerivedSource):
    """A source less ``shift``, times ``scale``.

    Args:
        source: any source.
        scale: a finite number, not 0.
        shift: a finite number.
        space: which space the result is in; None where nobody need know.

    Raises:
        OptionError: scale or shift is no such number.
    """

    def __init__(self, source: Readable, *, scale: float, shift: float, space: LatentSpace | None = None) -> None:
        if not (math.isfinite(scale) and scale and math.isfinite(shift)):
            raise OptionError(f"Not a scale and a shift of latents: scale={scale}, shift={shift}. Use finite numbers.")
        super().__init__(source)
        self._scale, self._shift = scale, shift
        self.space = space

    @property
    def fingerprint(self) -> str:
        """That of the source, and what it is converted by."""
        return f"{self.source.fingerprint}, less {self._shift!r}, times {self._scale!r}"

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
        values = self.source.read(window)
        # What is NaN, or becomes infinite here, is for the engine to find.
        with np.errstate(over="ignore", invalid="ignore"):
            return (values - np.float32(self._shift)) * np.float32(self._scale)


def find_space(source: Source, space: LatentSpace | None = None) -> LatentSpace:
    """Return the space that latents are in: the one named, or what the source says of itself, or the diffusion space.

    Raises:
        OptionError: there is no such space.
    """
    if space is not None and space not in get_args(LatentSpace):
        raise OptionError(f"No such space of latents: space={space}. Use {', '.join(get_args(LatentSpace))}.")
    return space or source.space or "diffusion"


def to_diffusion_space(
    source: Source, space: LatentSpace | None = None, *, scale: float | None, shift: float | None
) -> Source:
    """Return latents as a decoder takes them, whichever space they are in.

    Args:
        source: latents.
        space: the space they are in; by default what the source says of itself, else the diffusion space.
        scale: of the model; None where it is not known.
        shift: of the model, likewise.

    Raises:
        OptionError: there is no such space; or they must be converted and scale or shift are not known.
    """
    if find_space(source, space) == "diffusion":
        return source
    if scale is None or shift is None:
        raise OptionError(
            f"These latents are in VAE space, and the model's scale and shift are not known: it takes (latents - "
            f"shift) * scale. Say them with {Option('scale')} and {Option('shift')} (Stable Diffusion 1 and 2: "
            f"0.18215 and 0, SDXL: 0.13025 and 0), or convert the latents and use {Option('space', 'diffusion')}."
        )
    return source if (scale, shift) == (1.0, 0.0) else Converted(source, scale=scale, shift=shift, space="diffusion")
