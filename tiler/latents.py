"""Latents, and how they are read: what is said about them before they are opened."""

import os
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from tiler.errors import AxesQuestion, InputError, Option, OptionError
from tiler.fields import Fields
from tiler.model import Network
from tiler.options import check_fields
from tiler.sources.latent_space import find_space, to_diffusion_space
from tiler.sources.metadata import SIZE_KEY, read_size
from tiler.sources.opening import Openable, open_latents
from tiler.sources.positions import Wrap, Wrapped
from tiler.sources.ranges import Checked, NonFinite, Replaced, treat_nonfinite
from tiler.sources.source import LatentSpace, Source
from tiler.sources.upscale import Upscaled, find_margins


@dataclass(frozen=True, slots=True)
class Latents:
    """Latents, and how they are to be read.

    Example:
        >>> import tiler
        >>> large = tiler.Latents("latents.npy", upscale=4)
    """

    data: Openable
    """A file (``.npy``, ``.npz``, ``.safetensors``, ``.latent``, ``.pt``, ``.tif``, Zarr, an 8-bit RGBA PNG), an array
    or a source; (1, channels, h, w), (channels, h, w) or (h, w, channels) floats, about [-3, 3], as a diffusion
    pipeline's ``output_type="latent"`` gives them."""
    _: KW_ONLY
    key: str | None = None
    """Which array of a file of several; not needed where only one can be meant, or one has a usual name."""
    index: int | None = None
    """Which of a batch, from 0; not needed for a batch of one."""
    axes: str | None = None
    """What the axes of the array are, a letter each of B (batch), C (channels), H (rows), W (columns): "BCHW"; not
    needed where they can be told."""
    space: LatentSpace | None = None
    """"diffusion", what a sampler emits, or "vae"; by default what the file says, else "diffusion"."""
    scale: float | None = None
    """Of the way from VAE space, (latents - shift) * scale; by default the model's, where it is known."""
    shift: float | None = None
    """Likewise."""
    upscale: int = 1
    """Enlarge them so many times, by bicubic interpolation of each window."""
    wrap: Wrap | None = None
    """Ends that join without a seam, as those of a texture or a panorama do: "x" (left and right), "y" (top and bottom)
    or "both"."""
    nonfinite: NonFinite = "error"
    """What NaN and Inf are: an error that names the place, or "zero", read as 0."""

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, latents: "Openable | Latents") -> "Latents":
        """Return latents of which nothing was said as they are read by default."""
        return latents if isinstance(latents, cls) else cls(latents)  # type: ignore[arg-type]

    @property
    def fields(self) -> Fields:
        """What is said of them, by names that people know."""
        fields: Fields = {"upscale": self.upscale, "nonfinite": self.nonfinite}
        return fields | ({} if self.wrap is None else {"wrap": self.wrap})

    def find_channels(self, candidates: Iterable[int]) -> tuple[int, ...]:
        """Return how many channels they can have, of some numbers; none where they cannot be opened."""

        def fits(channels: int) -> bool:
            try:
                open_latents(self.data, channels, key=self.key, index=self.index, axes=self.axes)
            except AxesQuestion:
                return True
            except InputError:
                return False
            return True

        return tuple(channels for channels in candidates if fits(channels))

    def open(
        self,
        network: Network,
        *,
        convention: tuple[float, float] | None = None,
        replaced: Replaced | None = None,
    ) -> Source:
        """Open them for a decoder; where ends join they go on beyond these, as far as ``margins`` says.

        Args:
            network: of the decoder.
            convention: scale and shift of the model, where they are known.
            replaced: is told which values were NaN or Inf and are read as 0.

        Raises:
            InputError: they cannot be used.
            OptionError: what is said of them is out of its range.
        """
        scale, shift = convention or (None, None if self.scale is None else 0.0)
        source = open_latents(self.data, network.channels_in, key=self.key, index=self.index, axes=self.axes)
        if find_space(source, self.space) == "diffusion" and (self.scale, self.shift) != (None, None):
            raise OptionError(
                f"Nothing to convert: scale={self.scale}, shift={self.shift}, but the latents are in diffusion "
                f"space. Add {Option('space', 'vae')}, or leave them out."
            )
        source = to_diffusion_space(
            source,
            self.space,
            scale=scale if self.scale is None else self.scale,
            shift=shift if self.shift is None else self.shift,
        )
        source = treat_nonfinite(source, self.nonfinite, replaced)
        if self.wrap is not None or self.upscale != 1:
            source = Checked(source)
        if self.wrap is not None:
            # Before they are upscaled: interpolation sees no seam either.
            source = Wrapped(source, find_margins(self.wrap, network.halo, self.upscale))
        return source if self.upscale == 1 else Upscaled(source, self.upscale)

    def find_size(self, network: Network, shape: tuple[int, int, int]) -> tuple[int, int] | None:
        """Return (height, width) of the image, px, where the file keeps it and it is not all that they decode to.

        Args:
            network: of the decoder.
            shape: of the opened latents.

        Raises:
            InputError: the size does not fit the latents.
            OptionError: ends cannot join in front of the end of the latents.
        """
        if not isinstance(self.data, str | os.PathLike):
            return None
        rows, columns = self.margins(network)
        height, width, scale = shape[0] - 2 * rows, shape[1] - 2 * columns, network.scale_out
        kept = read_size(Path(self.data), (height // self.upscale * scale, width // self.upscale * scale), scale)
        if kept is None:
            return None
        size = kept[0] * self.upscale, kept[1] * self.upscale
        if size == (height * scale, width * scale):
            return None
        if self.wrap is not None:
            raise OptionError(
                f"These ends cannot join: wrap={self.wrap}, but the image ends before its latents do, at "
                f"{SIZE_KEY}={kept[1]}x{kept[0]} of its file. Leave {Option('wrap')} out, or save the latents "
                f"without that size."
            )
        return size

    def margins(self, network: Network) -> tuple[int, int]:
        """Return how far the opened latents go on beyond each end of their rows and of their columns, latent px."""
        rows, columns = find_margins(self.wrap, network.halo, self.upscale)
        return rows * self.upscale, columns * self.upscale
