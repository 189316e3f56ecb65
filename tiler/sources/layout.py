"""How an array holds a map: which axis is which, and what its numbers mean.

Diffusion pipelines give latents channels first, ``(1, channels, height, width)``; TensorFlow and image files
have them last. Both are accepted, with or without the batch axis; ``tiler.sources.readings`` tells which it is. Of a
batch of several, one is chosen by its index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError
from tiler.sources.readings import ChannelsFirst, choose_axes, refuse_shape
from tiler.window import Span, Window

LATENT_TYPES = ("bfloat16", "float16", "float32", "float64")
"""Number types of latents."""

IMAGE_TYPES = ("uint8", "uint16", "float16", "float32", "float64")
"""Number types of images: 0 to 255, 0 to 65535, or floats in [0, 1]."""

VALUES = {
    np.dtype(np.uint8): (np.arange(256) / 255).astype(np.float32),
    np.dtype(np.uint16): (np.arange(65536) / 65535).astype(np.float32),
}
"""What each integer of an image stands for."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The axes of an array that holds one map, or a batch of them of which one is meant.

    Raises:
        ValueError: these are not the axes of one map, or ``index`` lies outside of the batch.
    """

    stored: tuple[int, ...]
    """Shape of the array."""
    axes: str
    """A letter for each axis: C channels, H rows, W columns, B batch; see ``tiler.sources.readings``."""
    index: int | None = None
    """Position in the batch; needed where that is longer than 1."""

    def __post_init__(self) -> None:
        batch = dict(zip(self.axes, self.stored, strict=True)).get("B", 1)
        fits = all(size == 1 for axis, size in zip(self.axes, self.stored, strict=True) if axis not in "BCHW")
        fits = fits and (batch == 1 if self.index is None else 0 <= self.index < batch)
        if not fits or any(self.axes.count(letter) != 1 for letter in "CHW"):
            raise ValueError(f"Not the layout of one map: {self}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = (self.stored[self.axes.index(letter)] for letter in "HWC")
        return height, width, channels

    def find_spans(self, window: Window) -> list[Span]:
        """Return what ``window`` covers of each axis of the array, all channels of it."""
        height, width, _ = self.shape
        # Past the end of a row lies the next row: a file would give wrong numbers, not an error.
        assert window.rows.stop <= height, (window, self.shape)
        assert window.columns.stop <= width, (window, self.shape)
        position = self.index or 0
        spans = {"H": window.rows, "W": window.columns, "B": Span(position, position + 1)}
        return [spans.get(axis, Span(0, size)) for axis, size in zip(self.axes, self.stored, strict=True)]

    def to_map(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return ``values``, a part of the array with all its axes, as (height, width, channels) float32.

        uint8 and uint16 become [0, 1]. float64 beyond the range of float32 becomes infinite, for the engine to find.
        The result may share memory with ``values``.
        """
        last = [self.axes.index(letter) for letter in "HWC"]
        values = values.transpose(*(axis for axis in range(values.ndim) if axis not in last), *last)
        values = values.reshape(values.shape[-3:])
        of_integers = VALUES.get(values.dtype.newbyteorder("="))
        if of_integers is not None:
            return of_integers.take(values)
        # A signalling NaN is invalid to convert; the engine finds it as well.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.ascontiguousarray(values, dtype=np.float32)


def find_layout(
    shape: Sequence[int],
    channels: int,
    *,
    name: str,
    index: int | None = None,
    axes: str | None = None,
    named: str | None = None,
    first: ChannelsFirst | None = None,
    picture: bool = False,
) -> Layout:
    """Find height, width and channels in the shape of an array, and the one map of a batch that is meant.

    Args:
        shape: ``(1, channels, height, width)``, ``(1, height, width, channels)``, or either without the 1.
        channels: how many channels there must be.
        name: what to call the array in a message.
        index: which of a batch, from 0; without it the batch must be one.
        axes: those that the user says.
        named: those that the file names, "?" for what it does not.
        first: whether files of this format have the channels first.
        picture: whether it is a picture, and not latents.

    Raises:
        AxesQuestion: the shape can be read in several ways.
        AxesError: the shape is none of these.
        InputError: it has no elements, is a batch of several without ``index``, or ``index`` is outside of it.
        OptionError: ``axes`` are none.
    """
    shape = tuple(shape)
    if not 3 <= len(shape) <= 5:
        raise refuse_shape(shape, channels, name, picture=picture)
    if min(shape) < 1:
        raise InputError(f"Nothing in it: {name}, shape={shape}. Every axis must be 1 or longer.")
    axes = choose_axes(shape, channels, name=name, said=axes, named=named, first=first, picture=picture)
    n_maps = shape[axes.index("B")] if "B" in axes else 1
    if index is None and n_maps > 1:
        advice = "pass one of them" if picture else f"choose it with --index, 0 to {n_maps - 1} (in Python index=)"
        raise InputError(f"A batch of several: {name}, shape={shape}, batch={n_maps}. One at a time: {advice}.")
    if index is not None and not 0 <= index < n_maps:
        raise InputError(
            f"Not in the batch: {name}, index={index}, shape={shape}, batch={n_maps}. Use --index 0 to {n_maps - 1}."
        )
    return Layout(shape, axes, index)


def check_type(dtype: np.dtype[Any], types: Sequence[str], *, name: str) -> None:
    """Refuse numbers that are not of one of ``types``; their byte order does not matter.

    Raises:
        InputError: they are not.
    """
    if dtype.hasobject:
        raise InputError(
            f"Python objects, not numbers: {name}, dtype={describe_type(dtype)}. They could run code "
            "and are never loaded. Save an array of float32."
        )
    if dtype.names is not None:
        raise InputError(
            f"A structured array, not numbers: {name}, dtype={describe_type(dtype)}, fields={describe_fields(dtype)}. "
            "Save one of them."
        )
    if dtype.name in ("void8", "void16"):
        raise InputError(
            f"Raw bytes, not numbers: {name}, dtype=V{dtype.itemsize}. As such NumPy saves bfloat16 (V2) and float8 "
            "(V1), and does not say which. Convert them before: array.astype(numpy.float32)."
        )
    if dtype.name not in types:
        raise InputError(
            f"Wrong number type: {name}, dtype={describe_type(dtype)}. It must be one of "
            f"{', '.join(types)}. Convert it first."
        )


def describe_fields(dtype: np.dtype[Any]) -> str:
    """Return the names of a structured dtype's fields, kept short: there may be thousands."""
    return ascii(", ".join(dtype.names or ()))[1:-1][:60]


def describe_type(dtype: np.dtype[Any]) -> str:
    """Return the name of a dtype, kept short: a structured one may have thousands of fields."""
    return dtype.name[:40]
