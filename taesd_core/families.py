"""Families: the networks that published autoencoders have, whatever their weights."""

from collections.abc import Callable
from typing import NamedTuple

from taesd_core.layers import Layers, decoder_layers, encoder_layers


class Family(NamedTuple):
    """A network, but for the number of channels of its latents."""

    decoder: Callable[[int], Layers]
    """From the channels to the layer table."""
    encoder: Callable[[int], Layers]
    """Likewise."""


FAMILIES = {"taesd": Family(decoder_layers, encoder_layers)}
"""Every family by its name; which one a file is of follows from the tensors in it."""
