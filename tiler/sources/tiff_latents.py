"""Latents in a TIFF: a page of so many samples a pixel, or so many pages of one, of floats."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tiler.errors import InputError
from tiler.sources.layout import Wanted, find_layout
from tiler.sources.source import Source
from tiler.sources.stored_numbers import LATENT_TYPES, check_type, find_missing_in_tiff, refuse_packed_tiff
from tiler.sources.strided_source import StoredArray, StridedSource
from tiler.sources.tiff_segments import Segments, describe_page
from tiler.sources.tiff_source import TiffSource
from tiler.sources.tiff_tags import read_tiff

REDUCED_OR_MASK = 1 | 4
"""Of NewSubfileType: a page that shows another one again, smaller, or says which of its pixels count."""


@dataclass(frozen=True, slots=True)
class Series:
    """What tifffile takes for one array."""

    shape: tuple[int, ...]
    """Of the array."""
    dtype: np.dtype[Any]
    """Of its values, with the byte order of the file."""
    start_bytes: int | None
    """Where its values begin, if they lie in the file as they are and in one piece."""
    pages: list[Segments]
    """Its pages; none where one is of a kind that is not read here."""
    named: str | None
    """Its axes, as far as the file names them; see ``tiler.sources.readings``."""
    missing: tuple[float, ...]
    """Values that stand for none."""


def read_first_series(path: Path) -> Series:
    """Read the tags of what tifffile takes for the first array of a TIFF that is no thumbnail, level or mask.

    Raises:
        InputError: it is damaged, there are several such arrays, or its numbers are packed.
    """

    def read(tiff: Any, size: int) -> Series:
        full = [each for each in tiff.series if not each.keyframe.subfiletype & REDUCED_OR_MASK] or tiff.series
        if len(full) > 1:
            shapes = ", ".join(str(each.shape) for each in full[:8])
            raise InputError(
                f"Several arrays: path={path}, arrays={len(full)}, shapes={shapes}. Nothing says which is meant; save "
                "that one in a file of its own."
            )
        series = full[0]
        tags = series.keyframe.tags
        refuse_packed_tiff(tags, f"path={path}")
        pages = [describe_page(page, size) for page in series.pages]
        whole = [] if None in pages else [page for page in pages if page is not None]
        return Series(
            series.shape,
            series.dtype.newbyteorder(tiff.byteorder),
            series.dataoffset,
            whole,
            name_axes(series.axes),
            find_missing_in_tiff(tags, series.dtype),
        )

    return read_tiff(path, read)


def name_axes(axes: str) -> str | None:
    """Return axes by tifffile's letters: of samples, rows and columns; None where it knows but the shape of an array.

    Pages are rows and columns. But an array that tifffile itself has cut into pages, by its shape alone, has its
    axes called Q: (rows, columns, channels) become a page for each row.
    """
    if "S" not in axes and "C" not in axes and "Q" in axes:
        return None
    channels = "S" if "S" in axes else "C"
    letters = {channels: "C", "Y": "H", "X": "W", "T": "T"}
    return "".join(letters.get(each, "?") for each in axes)


def open_tiff_latents(path: Path, wanted: Wanted) -> Source:
    """Open latents in a TIFF: a page of so many samples a pixel, or so many pages of one, of floats.

    Raises:
        InputError: the file is missing, damaged, or holds something else.
    """
    series = read_first_series(path)
    name = f"path={path}"
    check_type(series.dtype, LATENT_TYPES, name=name)
    if series.start_bytes is not None:
        return StridedSource(path, lambda descriptor, _: _place(series, descriptor), wanted)
    layout, channels = find_layout(series.shape, wanted, name=name, named=series.named), wanted.channels
    pages = series.pages
    interleaved = pages and pages[0].n_samples > 1
    # Of a batch the maps lie one behind the other.
    n_pages = max(1, channels // pages[0].shape[2]) if pages else 0
    whole = pages and pages[0].shape[2] * n_pages == channels and len({page.shape for page in pages}) == 1
    if not whole or len(pages) % n_pages or not layout.axes.endswith("HWC" if interleaved else "CHW"):
        raise InputError(
            f"No latents that can be read by window: {name}, shape={series.shape}. A page must hold all {channels} "
            "channels, or one of them, uncompressed or deflated. Save them with numpy.save."
        )
    start = (layout.index or 0) * n_pages
    return TiffSource(
        path,
        pages[start : start + n_pages],
        axes=layout.axes,
        index=layout.index if len(pages) > n_pages else None,
        missing=series.missing,
    )


def _place(series: Series, descriptor: int) -> StoredArray:
    assert series.start_bytes is not None
    declared = math.prod(series.shape) * series.dtype.itemsize
    room = min(declared, os.fstat(descriptor).st_size - series.start_bytes)
    return StoredArray(series.shape, series.dtype, series.start_bytes, room, named=series.named, missing=series.missing)
