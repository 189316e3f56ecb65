"""Which array of a file, which axis of it is which, and which map of a batch.

Diffusion pipelines give latents channels first, ``(1, channels, height, width)``; TensorFlow and image files
have them last. Both are accepted, with or without the batch axis; ``tiler.sources.readings`` tells which it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError, Option
from tiler.sources.input_file import printable
from tiler.sources.readings import ChannelsFirst, choose_axes, refuse_shape
from tiler.sources.stored_numbers import LATENT_TYPES, VALUES
from tiler.window import Span, Window


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which map of an input is meant, and what it must be."""

    channels: int
    """How many channels there must be."""
    key: str | None = None
    """The name of its array; not needed where only one can be meant, or one has a usual name."""
    index: int | None = None
    """Which of a batch, from 0; not needed for a batch of one."""
    axes: str | None = None
    """The axes of the array, where somebody says them."""
    types: Sequence[str] = LATENT_TYPES
    """Number types that are accepted."""

    @property
    def is_picture(self) -> bool:
        """Whether a picture is meant, and not latents."""
        return self.types is not LATENT_TYPES


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
    wanted: Wanted,
    *,
    name: str,
    named: str | None = None,
    first: ChannelsFirst | None = None,
) -> Layout:
    """Find height, width and channels in the shape of an array, and the one map of a batch that is meant.

    Args:
        shape: ``(1, channels, height, width)``, ``(1, height, width, channels)``, or either without the 1.
        wanted: which map is meant.
        name: what to call the array in a message.
        named: those that the file names, "?" for what it does not.
        first: whether files of this format have the channels first.

    Raises:
        AxesQuestion: the shape can be read in several ways.
        AxesError: the shape is none of these.
        InputError: it has no elements, is a batch of several without ``index``, or ``index`` is outside of it.
        OptionError: what was said are no axes.
    """
    shape, channels, index, picture = tuple(shape), wanted.channels, wanted.index, wanted.is_picture
    if not 3 <= len(shape) <= 5:
        raise refuse_shape(shape, channels, name, picture=picture)
    if min(shape) < 1:
        raise InputError(f"Nothing in it: {name}, shape={shape}. Every axis must be 1 or longer.")
    axes = choose_axes(shape, channels, name=name, said=wanted.axes, named=named, first=first, picture=picture)
    n_maps = shape[axes.index("B")] if "B" in axes else 1
    if index is None and n_maps > 1:
        how = "pass one of them" if picture else f"choose it with {Option('index', 0)} to {n_maps - 1}"
        raise InputError(f"A batch of several: {name}, shape={shape}, batch={n_maps}. One at a time: {how}.")
    if index is not None and not 0 <= index < n_maps:
        raise InputError(
            f"Not in the batch: {name}, index={index}, shape={shape}, batch={n_maps}. Use {Option('index', 0)} to "
            f"{n_maps - 1}."
        )
    return Layout(shape, axes, index)


KNOWN_KEYS = ("latent_tensor", "latents", "latent", "samples")
"""What ComfyUI, diffusers scripts and others call them; the first that is there is taken."""
N_NAMED = 8
"""Most names in a message."""


def choose_key(shapes: Mapping[str, tuple[int, ...]], key: str | None, *, name: str) -> str:
    """Return the key of the latents: what is asked for, the only array of 3 or 4 axes (else of 5), or a known name.

    Args:
        shapes: the shape of each array by its key.
        key: what is asked for.
        name: what to call the file in a message.

    Raises:
        InputError: it is not there, or cannot be told.
    """
    if key is not None:
        if key in shapes:
            return key
        raise InputError(
            f"No such array: {name}, key={printable(key)}. There is {describe_keys(shapes)}. Change {Option('key')}."
        )
    full = {each: shape for each, shape in shapes.items() if shape and min(shape) > 0}
    # Of five axes where that has a known name, or there is no other: no other is taken in its place.
    videos = [each for each, shape in full.items() if len(shape) == 5]
    named = [each for each in videos if each.rpartition(".")[2] in KNOWN_KEYS]
    candidates = [each for each, shape in full.items() if len(shape) in (3, 4)] + named or videos
    if len(candidates) == 1:
        return candidates[0]
    for known in KNOWN_KEYS:
        # Inside of other dictionaries only where it is the only one.
        inside = [each for each in candidates if each.rpartition(".")[2] == known]
        if known in candidates or len(inside) == 1:
            return known if known in candidates else inside[0]
    if not candidates:
        raise InputError(f"No latents: {name}. No array of 3 to 5 axes; there is {describe_keys(shapes)}.")
    if all(each.endswith((".weight", ".bias")) for each in shapes):
        raise InputError(
            f"Weights, not latents: {name}. There is {describe_keys(shapes)}. Give them as {Option('weights')}."
        )
    raise InputError(f"Several arrays: {name}. There is {describe_keys(shapes)}. Choose one with {Option('key')}.")


def describe_keys(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the first few arrays of a file in words."""
    named = [f"{printable(key)} {str(tuple(shape))[:60]}" for key, shape in list(shapes.items())[:N_NAMED]]
    more = [f"{len(shapes) - N_NAMED} more"] if len(shapes) > N_NAMED else []
    return ", ".join(named + more) or "nothing"
