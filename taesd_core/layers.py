"""The network is a list of layers in order of execution; a position in it is the key of a checkpoint's tensors.

Everything else is derived from these lists: the Keras models, the receptive field, the operations, the names of
the tensors in a checkpoint.

Source: the layer tables of TAESD as published with its weights, https://github.com/madebyollin/taesd.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

KERNEL = 3
"""Height and width of a convolution that sees its neighbours."""
EPSILON = 1e-5
"""What a group norm adds to the variance."""


@dataclass(frozen=True, slots=True)
class Clamp:
    """Keep latents in (-3, 3), softly: ``tanh(x / 3) * 3``."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution with zeros around its input, so that ``stride`` 1 keeps the size."""

    n_in: int
    n_out: int
    stride: int = 1
    bias: bool = True
    kernel: int = KERNEL
    """Height and width: 3, or 1, which sees no neighbours."""
    norm_groups: int = 0
    """Groups of the group norm behind it; 0 without one."""

    @property
    def margin(self) -> int:
        """Neighbours that it sees on each side."""
        return self.kernel // 2


@dataclass(frozen=True, slots=True)
class Relu:
    """``max(x, 0)``."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What FLUX.2 adds to the input of a block first: ``x + conv(relu(norm(conv(x))))``, both convolutions 1×1.

    The norm takes mean and variance of each group of channels over the *whole* map, so it sees everything. Once they
    are known it is a factor and an offset for each channel, and sees no neighbours at all.
    """

    width: int
    hidden: int = 256
    groups: int = 4

    @property
    def convolutions(self) -> tuple[Convolution, Convolution]:
        """The one in front of the norm, and the one behind it."""
        return (
            Convolution(self.width, self.hidden, bias=False, kernel=1, norm_groups=self.groups),
            Convolution(self.hidden, self.width, bias=False, kernel=1),
        )


@dataclass(frozen=True, slots=True)
class Block:
    """A residual block: ``relu(conv(relu(conv(relu(conv(x))))) + x)``, behind a pool where it has one."""

    width: int
    pool: Pool | None = None

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """The three convolutions, each followed by a ReLU; the last by the addition first."""
        return (Convolution(self.width, self.width),) * 3


@dataclass(frozen=True, slots=True)
class Upsample:
    """Repeat each pixel twice in both directions (nearest ×2)."""


Layer = Clamp | Convolution | Relu | Pool | Block | Upsample
Layers = tuple[Layer, ...]


class Place(NamedTuple):
    """Where a convolution stands: the position in the list, and inside a block its place there."""

    position: int
    inner: tuple[str, int] | None
    """The branch, "pool" or "conv", and the position in it."""
    convolution: Convolution


def decoder_layers(channels: int, pool: Pool | None = None) -> Layers:
    """Return the decoder from latents with ``channels`` channels to RGB; FLUX.2 has a ``pool`` at latent resolution."""
    blocks = (Block(64),) * 3
    upsampling = (Upsample(), Convolution(64, 64, bias=False))
    return (
        Clamp(), Convolution(channels, 64), Relu(), *(Block(64, pool),) * 3,
        *upsampling, *blocks,
        *upsampling, *blocks,
        *upsampling, Block(64),
        Convolution(64, 3),
    )  # fmt: skip


def encoder_layers(channels: int, pool: Pool | None = None) -> Layers:
    """Return the encoder from RGB to latents with ``channels`` channels; FLUX.2 has a ``pool`` at latent resolution."""
    blocks = (Block(64),) * 3
    downsampling = Convolution(64, 64, stride=2, bias=False)
    return (
        Convolution(3, 64), Block(64),
        downsampling, *blocks,
        downsampling, *blocks,
        downsampling, *(Block(64, pool),) * 3,
        Convolution(64, channels),
    )  # fmt: skip


def sana_decoder_layers(channels: int) -> Layers:
    """Return the decoder of Sana, ×32, from latents with ``channels`` channels to RGB."""

    def upsampling(n_in: int, n_out: int) -> Layers:
        return Upsample(), Convolution(n_in, n_out, bias=False)

    return (
        Clamp(), Convolution(channels, 256), Relu(), *(Block(256),) * 3,
        *upsampling(256, 128), *(Block(128),) * 3,
        *upsampling(128, 64), *(Block(64),) * 3,
        *upsampling(64, 64), *(Block(64),) * 3,
        *upsampling(64, 64), *(Block(64),) * 3,
        *upsampling(64, 64), Block(64),
        Convolution(64, 3),
    )  # fmt: skip


def sana_encoder_layers(channels: int) -> Layers:
    """Return the encoder of Sana, 1/32, from RGB to latents with ``channels`` channels."""
    blocks = (Block(64),) * 3
    downsampling = Convolution(64, 64, stride=2, bias=False)
    return (
        Convolution(3, 32, stride=2), Relu(), Convolution(32, 64, stride=2), Relu(), Block(64),
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
        elif isinstance(layer, Pool):
            for inner, convolution in zip((0, 3), layer.convolutions, strict=True):
                yield Place(position, ("pool", inner), convolution)
        elif isinstance(layer, Block):
            if layer.pool is not None:
                yield from (place._replace(position=position) for place in convolutions((layer.pool,)))
            for inner, convolution in enumerate(layer.convolutions):
                yield Place(position, ("conv", 2 * inner), convolution)
