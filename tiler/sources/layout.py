"""How an array holds a map: which axis is which, and what its numbers mean.

Diffusion pipelines give latents channels first, ``(1, channels, height, width)``; TensorFlow and image files
have them last. Both are accepted, with or without the batch axis. A shape that fits both ways, such as
``(4, 9, 4)`` for four channels, is taken as channels first. Of a batch of several, one is chosen by its index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError
from tiler.window import Span, Window

LATENT_TYPES = ("bfloat16", "float16", "float32", "float64")
"""Number types of latents."""

IMAGE_TYPES = ("uint8", "float16", "float32", "float64")
"""Number types of images: 0 to 255, or floats in [0, 1]."""

BYTE_VALUES: NDArray[np.float32] = (np.arange(256) / 255).astype(np.float32)
"""What each uint8 of an image stands for."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The axes of an array that holds one map, or a batch of them of which one is meant.

    Raises:
        ValueError: an axis of the three is named twice, or ``index`` lies outside of one beside them.
    """

    stored: tuple[int, ...]
    """Shape of the array."""
    rows: int
    """Number of the axis of rows."""
    columns: int
    """Number of the axis of columns."""
    channels: int
    """Number of the axis of channels."""
    index: int | None = None
    """Position along the axes beside these; needed where one is longer than 1."""

    def __post_init__(self) -> None:
        batch = [self.stored[axis] for axis in self._batch]
        fits = all(size == 1 if self.index is None else 0 <= self.index < size for size in batch)
        if len({self.rows, self.columns, self.channels}) != 3 or not fits:
            raise ValueError(f"Not the layout of one map: {self}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.stored[self.rows], self.stored[self.columns], self.stored[self.channels]

    def find_spans(self, window: Window) -> list[Span]:
        """Return what ``window`` covers of each axis of the array, all channels of it."""
        height, width, _ = self.shape
        # Past the end of a row lies the next row: a file would give wrong numbers, not an error.
        assert window.rows.stop <= height, (window, self.shape)
        assert window.columns.stop <= width, (window, self.shape)
        position = self.index or 0
        spans = [Span(0, size) for size in self.stored]
        for axis in self._batch:
            spans[axis] = Span(position, position + 1)
        spans[self.rows], spans[self.columns] = window.rows, window.columns
        return spans

    @property
    def _batch(self) -> list[int]:
        return [axis for axis in range(len(self.stored)) if axis not in (self.rows, self.columns, self.channels)]

    def to_map(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return ``values``, a part of the array with all its axes, as (height, width, channels) float32.

        uint8 becomes [0, 1]. float64 beyond the range of float32 becomes infinite, for the engine to find.
        The result may share memory with ``values``.
        """
        values = values.transpose(*self._batch, self.rows, self.columns, self.channels)
        values = values.reshape(values.shape[-3:])
        if values.dtype == np.uint8:
            return BYTE_VALUES.take(values)
        # A signalling NaN is invalid to convert; the engine finds it as well.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.ascontiguousarray(values, dtype=np.float32)


def find_layout(shape: Sequence[int], channels: int, *, name: str, index: int | None = None) -> Layout:
    """Find height, width and channels in the shape of an array; channels first wins where both fit.

    Args:
        shape: ``(1, channels, height, width)``, ``(1, height, width, channels)``, or either without the 1.
        channels: how many channels there must be.
        name: what to call the array in a message.
        index: which of a batch, from 0; without it the batch must be one.

    Raises:
        InputError: the shape is none of these, has no elements, is a batch of several without ``index``, or ``index``
            is outside of it.
    """
    shape = tuple(shape)
    expected = f"(1, {channels}, h, w), ({channels}, h, w), (h, w, {channels}) or (1, h, w, {channels})"
    if len(shape) not in (3, 4):
        raise InputError(f"Wrong number of axes: {name}, axes={len(shape)}. The shape must be {expected}. Reshape it.")
    if min(shape) < 1:
        raise InputError(f"Nothing in it: {name}, shape={shape}. Every axis must be 1 or longer.")
    first = len(shape) - 3
    if shape[first] == channels:
        layout = (first + 1, first + 2, first)
    elif shape[-1] == channels:
        layout = (first, first + 1, first + 2)
    elif first == 0 and channels >= 16 and shape[2] == 4 * channels:
        # What FLUX pipelines give: (batch, height / 2 * width / 2, 4 * channels), which no longer tells the height.
        raise InputError(
            f"Packed latents: {name}, shape={shape}, expected channels={channels}. Unpack them first; in diffusers: "
            "pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)."
        )
    else:
        raise InputError(
            f"Wrong number of channels: {name}, shape={shape}, expected channels={channels}. "
            f"The shape must be {expected}. Transpose it, or choose a variant of so many channels."
        )
    n_maps = shape[0] if first else 1
    if index is None and n_maps > 1:
        raise InputError(
            f"A batch of several: {name}, shape={shape}, batch={n_maps}. One at a time: choose it with --index, "
            f"0 to {n_maps - 1}."
        )
    if index is not None and not 0 <= index < n_maps:
        raise InputError(
            f"Not in the batch: {name}, index={index}, shape={shape}, batch={n_maps}. Use --index 0 to {n_maps - 1}."
        )
    return Layout(shape, *layout, index)


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
    if dtype.name not in types:
        raise InputError(
            f"Wrong number type: {name}, dtype={describe_type(dtype)}. It must be one of "
            f"{', '.join(types)}. Convert it first."
        )


def describe_type(dtype: np.dtype[Any]) -> str:
    """Return the name of a dtype, kept short: a structured one may have thousands of fields."""
    return dtype.name[:40]
