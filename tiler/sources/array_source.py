"""Arrays as sources: NumPy, memory maps, dask, torch, and whatever else has a shape, a dtype and slices.

What is masked, or missing by its attributes, is NaN, whatever lies there: an error that names its place, or 0 where
that is asked for.
"""

import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError
from tiler.sources.absent_chunks import tell_absent_chunks
from tiler.sources.axes import name_axes
from tiler.sources.fingerprint import fingerprint_array
from tiler.sources.layout import Wanted, find_layout
from tiler.sources.readings import ChannelsFirst
from tiler.sources.source import Source
from tiler.sources.stored_numbers import (
    LATENT_TYPES,
    check_type,
    clear_missing,
    find_missing,
    refuse_packed,
)
from tiler.window import Window


class SliceableArray(Protocol):
    """What is needed of an array; ``numpy.asarray`` must take its slices."""

    @property
    def shape(self) -> Any:
        """Its size along each axis."""

    @property
    def dtype(self) -> Any:
        """Its number type."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return a part of it."""


class ArraySource(Source):
    """One map in an array; only the windows that are read are ever computed or copied.

    Args:
        array: 3-D or 4-D.
        channels: how many channels there must be.
        types: number types that are accepted.
        index: which map of a batch, from 0.
        axes: of the array, where somebody says them.
        named: the axes that a file names; else what the array itself calls them.
        first: whether such arrays have the channels first; latents of torch usually have.
        name: what to call it in a message.
        fingerprint: a text that is another one when the array holds something else, where that is known.

    Raises:
        InputError: it is not an array, or not one that holds such a map.
    """

    def __init__(
        self,
        array: SliceableArray,
        channels: int,
        *,
        types: Sequence[str] = LATENT_TYPES,
        index: int | None = None,
        axes: str | None = None,
        named: str | None = None,
        first: ChannelsFirst | None = None,
        name: str = "array",
        fingerprint: str | None = None,
    ) -> None:
        if not all(hasattr(array, name) for name in ("shape", "dtype", "__getitem__")):
            raise InputError(
                f"Not an array: type={type(array).__name__}. It needs shape, dtype and slices. "
                "Pass numpy.asarray(...) of it, or a path."
            )
        try:
            stored = [operator.index(size) for size in array.shape]
        except (TypeError, ValueError) as error:
            raise InputError(
                f"The array has no definite shape: shape={array.shape}. Every size must be known. "
                "For dask: compute_chunk_sizes()."
            ) from error
        refuse_packed(array, name)
        self._array, self._fingerprint = array, fingerprint
        latents = types is LATENT_TYPES
        self._layout = find_layout(
            stored,
            Wanted(channels, index=index, axes=axes, types=types),
            name=name,
            named=named or find_names(array, len(stored)),
            first="usually" if latents and first is None and hasattr(array, "detach") else first,
        )
        self._type, self._types, self._name = find_type(array), tuple(types), name
        check_type(self._type, types, name=name)
        self._missing = find_missing(array, self._type) if latents else ()
        self.stored_type, self.axes = self._type, self._layout.axes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self._layout.shape

    @property
    def fingerprint(self) -> str:
        """A text that is another one when the array holds something else; of lazy ones, as far as windows tell."""
        known = self._fingerprint
        if known is None and isinstance(self._array, np.ndarray):
            known = fingerprint_array(self._array)
            if isinstance(self._array, np.ma.MaskedArray):
                known += f", mask {fingerprint_array(np.ma.getmaskarray(self._array))}"
        if known is None:
            return super().fingerprint
        return known if self._layout.index is None else f"{known}, index {self._layout.index}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of what was read."""
        return tell_absent_chunks(self._array)

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the (height, width, channels) float32 values of ``window``, which lies inside the array."""
        part = to_numpy(self._array[tuple(span.slice for span in self._layout.find_spans(window))])
        # Integers and floats mean other values; among floats there may be others, as where a file scales them.
        same = part.dtype.name == self._type.name
        if part.dtype.name not in self._types or ("u" in (part.dtype.kind, self._type.kind) and not same):
            raise InputError(
                f"The array gives other numbers than it says: {self._name}, dtype={self._type.name}, given="
                f"{part.dtype.name}. Pass numpy.asarray(...) of it."
            )
        values = clear_missing(self._layout.to_map(np.asarray(part)), self._missing)
        if np.ma.is_masked(part):
            masked = self._layout.to_map(np.ma.getmaskarray(part).astype(np.float32))
            return np.where(masked > 0, np.float32(np.nan), values)
        # The caller may write to what it gets, and the array belongs to somebody else.
        return values.copy() if np.may_share_memory(values, part) else values


def find_names(array: SliceableArray, n_axes: int) -> str | None:
    """Return the axes that an array names, "?" for unknown ones: one of xarray, Zarr, netCDF4 or h5py; None if not."""
    sources: tuple[Callable[[Any], Any], ...] = (
        lambda each: each.dims,
        lambda each: each.dimensions,
        lambda each: each.metadata.dimension_names,
        lambda each: each.attrs["_ARRAY_DIMENSIONS"],
    )
    for find in sources:
        # Anything may be called so in an array of another kind.
        with suppress(Exception):
            names = [getattr(each, "label", each) for each in find(array)]
            if len(names) == n_axes and (axes := name_axes(names)):
                return axes
    return None


def find_type(array: SliceableArray) -> np.dtype[Any]:
    """Return the dtype of an array as NumPy will see it.

    Raises:
        InputError: NumPy cannot take its elements.
    """
    dtype: np.dtype[Any]
    with suppress(TypeError, ValueError):
        if array.dtype is not None:  # which would be float64
            dtype = np.dtype(array.dtype)
            return dtype
    # torch and TensorFlow name their types in their own way; one element tells.
    try:
        dtype = to_numpy(array[(slice(0, 1),) * len(array.shape)]).dtype
    except Exception as error:
        held = str(getattr(array, "device", "")) != "meta"
        advice = "For torch: latents.to_dense().float()." if held else "Its device is meta: it has no values."
        raise InputError(
            f"NumPy cannot read this array: type={type(array).__name__}, dtype={array.dtype}. {advice}"
        ) from error
    return dtype


def to_numpy(part: Any) -> NDArray[Any]:
    """Return a part of an array as NumPy's, with its mask where it has one.

    Of a torch tensor it may be on any device, and its bfloat16 become float32.
    """
    if hasattr(part, "detach"):
        part = part.detach().cpu().resolve_neg()
        part = part.float() if str(part.dtype) == "torch.bfloat16" else part
    if hasattr(part, "compute"):
        part = part.compute()  # dask's: numpy.asarray would drop a mask
    return part if isinstance(part, np.ma.MaskedArray) else np.asarray(part)
