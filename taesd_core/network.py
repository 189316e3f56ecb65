"""A network without its weights: what a planner needs to know, in plain integers and without Keras."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

from taesd_core.costs import Axis, layers_of, macs_of_axes, macs_of_whole, peak_bytes_of_window
from taesd_core.kernels.memory import RUNTIME_BYTES, count_cores, peak_bytes
from taesd_core.layers import Block, Layers, convolutions, decoder_layers, encoder_layers
from taesd_core.receptive_field import Stage, halo_of, scale_of, stages
from taesd_core.tensors import Tensors

KERAS_BYTES = 950_000_000
"""What Python and TensorFlow take with all programs traced, measured over long runs."""


@dataclass(frozen=True)
class Network:
    """A stack of layers that turns windows into windows.

    Sizes are given in latent px on both sides: a window of ``n`` latent px is ``n * scale_in`` input px and
    ``n * scale_out`` output px.
    """

    layers: Layers
    """The network, in order of execution."""

    @classmethod
    def decoder(cls, channels: int) -> "Network":
        """Return the decoder of latents with ``channels`` channels."""
        return cls(decoder_layers(channels))

    @classmethod
    def encoder(cls, channels: int) -> "Network":
        """Return the encoder to latents with ``channels`` channels."""
        return cls(encoder_layers(channels))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The layers, grouped by resolution."""
        return stages(self.layers)

    def tensors_of_stages(self, tensors: Tensors) -> list[Tensors]:
        """Return the weights, divided among the stages."""
        rest = iter(tensors)
        layers = [tuple(chain.from_iterable(map(layers_of, stage))) for stage in self.stages]
        return [tuple(next(rest) for _ in convolutions(each)) for each in layers]

    @cached_property
    def passes(self) -> tuple["Network", ...]:
        """What must run over the whole input first, one after another: each ends in front of a group norm.

        The moments of its output (see ``moments.py``) are what that norm needs. Most networks have none.
        """
        return tuple(
            replace(self, layers=(*self.layers[:position], layer.pool.convolutions[0]))
            for position, layer in enumerate(self.layers)
            if isinstance(layer, Block) and layer.pool is not None
        )

    @cached_property
    def halo(self) -> int:
        """Context that an output pixel needs per side, latent px."""
        return halo_of(self.layers)

    @property
    def scale_in(self) -> int:
        """Input px per latent px."""
        return self._scales[1]

    @property
    def scale_out(self) -> int:
        """Output px per latent px."""
        return self._scales[0]

    @property
    def channels_in(self) -> int:
        """Channels of the input."""
        return next(convolutions(self.layers)).convolution.n_in

    @property
    def channels_out(self) -> int:
        """Channels of the output."""
        return list(convolutions(self.layers))[-1].convolution.n_out

    def macs(self, rows: Iterable[Axis], columns: Iterable[Axis]) -> int:
        """Return the multiply-accumulates of all windows of the product ``rows`` × ``columns``."""
        return macs_of_axes(self.layers, rows, columns)

    def macs_of_whole(self, height: int, width: int) -> int:
        """Return the multiply-accumulates of the plain whole-image model for ``height`` × ``width`` latent px."""
        return macs_of_whole(self.layers, height, width)

    def peak_bytes(self, rows: Axis, columns: Axis, engine: str) -> int:
        """Return about how many bytes a process takes that runs a window on an engine, input and output apart."""
        if engine == "keras":
            return KERAS_BYTES + peak_bytes_of_window(self.layers, rows, columns)
        passes = [each.layers for each in self.passes]
        return RUNTIME_BYTES + peak_bytes(self.layers, passes, rows, columns, count_cores())

    @cached_property
    def _scales(self) -> tuple[int, int]:
        return scale_of([step for stage in self.stages for step in stage])
