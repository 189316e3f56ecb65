"""Families: the networks that published autoencoders have, whatever their weights."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from taesd_core.layers import (
    Layers,
    Pool,
    decoder_layers,
    encoder_layers,
    sana_decoder_layers,
    sana_encoder_layers,
)


class Family(NamedTuple):
    """A network, but for the number of channels of its latents."""

    decoder: Callable[[int], Layers]
    """From the channels to the layer table."""
    encoder: Callable[[int], Layers]
    """Likewise."""


FAMILIES = {
    "taesd": Family(decoder_layers, encoder_layers),
    "taef2": Family(partial(decoder_layers, pool=Pool(64)), partial(encoder_layers, pool=Pool(64))),
    "taesana": Family(sana_decoder_layers, sana_encoder_layers),
}
"""Every family by its name; which one a file is of follows from the tensors in it."""
