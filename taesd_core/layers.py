"""The network is a list of layers in order of execution; a position in it is the key of a checkpoint's tensors.

Everything else is derived from these lists: the Keras models, the receptive field, the operations, the names of
the tensors in a checkpoint.

Source: the layer tables of TAESD as published with its weights, https://github.com/madebyollin/taesd.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

KERNEL = 3
"""Height and width of every convolution."""


@dataclass(frozen=True, slots=True)
class Clamp:
    """Keep latents in (-3, 3), softly: ``tanh(x / 3) * 3``."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """A 3×3 convolution with zeros around its input, so that ``stride`` 1 keeps the size."""

    n_in: int
    n_out: int
    stride: int = 1
    bias: bool = True


@dataclass(frozen=True, slots=True)
class Relu:
    """``max(x, 0)``."""


@dataclass(frozen=True, slots=True)
class Block:
    """A residual block: ``relu(conv(relu(conv(relu(conv(x))))) + x)``."""

    width: int

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """The three convolutions, each followed by a ReLU; the last by the addition first."""
        return (Convolution(self.width, self.width),) * 3


@dataclass(frozen=True, slots=True)
class Upsample:
    """Repeat each pixel twice in both directions (nearest ×2)."""


Layer = Clamp | Convolution | Relu | Block | Upsample
Layers = tuple[Layer, ...]


class Place(NamedTuple):
    """Where a convolution stands: the position in the list, and inside a block its position there."""

    position: int
    inner: int | None
    convolution: Convolution


def decoder_layers(channels: int) -> Layers:
    """Return the decoder from latents with ``channels`` channels to RGB."""
    blocks = (Block(64),) * 3
    upsampling = (Upsample(), Convolution(64, 64, bias=False))
    return (
        Clamp(), Convolution(channels, 64), Relu(), *blocks,
        *upsampling, *blocks,
        *upsampling, *blocks,
        *upsampling, Block(64),
        Convolution(64, 3),
    )  # fmt: skip


def encoder_layers(channels: int) -> Layers:
    """Return the encoder from RGB to latents with ``channels`` channels."""
    blocks = (Block(64),) * 3
    downsampling = Convolution(64, 64, stride=2, bias=False)
    return (
        Convolution(3, 64), Block(64),
        downsampling, *blocks,
        downsampling, *blocks,
        downsampling, *blocks,
        Convolution(64, channels),
    )  # fmt: skip


def convolutions(layers: Layers) -> Iterator[Place]:
    """Yield every convolution in order of execution, with its place."""
    for position, layer in enumerate(layers):
        if isinstance(layer, Convolution):
            yield Place(position, None, layer)
        elif isinstance(layer, Block):
            for inner, convolution in enumerate(layer.convolutions):
                yield Place(position, 2 * inner, convolution)
