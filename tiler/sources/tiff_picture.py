"""Pictures in TIFF: tiles by libvips, strips of pixels as they are and zstd by window too, the rest from the top."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tiler.errors import DamagedError
from tiler.sources.libvips import make_image, open_by_libvips
from tiler.sources.picture import OpenedPicture
from tiler.sources.tiff_page import TiffPicture, find_tiff_picture
from tiler.sources.tiff_source import CACHE_BYTES, TiffSource
from tiler.window import Window

if TYPE_CHECKING:
    import pyvips


def open_tiff_picture(path: Path, *, page: int | None = None) -> OpenedPicture:
    """Tell which picture of a TIFF is meant; nothing but its tags is read.

    Raises:
        InputError: it is damaged, of a kind that is not read, or one of several of which none is chosen.
    """
    found = find_tiff_picture(path, page=page)
    picture = OpenedPicture(
        path,
        "TIFF",
        partial(_open, path, found),
        by_window=found.tiled,
        extra=found.extra,
        tagged=found.colours,
        orientation=found.orientation if found.orientation in range(1, 9) else 1,
        name=f"page {found.page}" if found.page else "",
        held_bytes=found.held_bytes,
    )
    if found.segments is None:
        return picture
    read = partial(_read, found, TiffSource(path, [found.segments]))
    return replace(picture, open=partial(_open_empty, found), read=read, by_window=True, held_bytes=CACHE_BYTES)


def _open(path: Path, found: TiffPicture) -> "pyvips.Image":
    image = open_by_libvips(
        path, "TIFF", "random" if found.tiled else "sequential", changes=found.grown, page=found.page
    )
    height, width = found.size
    if found.grown and image.height >= height and image.width >= width:
        image = image.crop(0, 0, width, height)
    if (image.height, image.width) != found.size:
        raise DamagedError(
            f"The TIFF is damaged: path={path} (pixels={image.height} × {image.width}, by its tags {found.size}). Copy "
            "or save it again."
        )
    # Of halves libvips says that they are words.
    return (
        image.copy(interpretation=_name_colours(found.n_colours, np.dtype(np.float32)))
        if image.format == "float"
        else image
    )


def _open_empty(found: TiffPicture) -> "pyvips.Image":
    assert found.segments is not None
    height, width, bands = found.segments.shape
    # No pixel of it is ever asked for.
    pixels = np.broadcast_to(np.zeros(1, _find_type(found.segments.dtype)), (1, 1, bands))
    return _make_image(pixels, found).embed(0, 0, width, height)


def _read(found: TiffPicture, source: TiffSource, window: Window) -> "pyvips.Image":
    samples = source.read_samples(window)
    return _make_image((~samples if found.inverted else samples).astype(_find_type(samples.dtype), copy=False), found)


def _make_image(pixels: NDArray[Any], found: TiffPicture) -> "pyvips.Image":
    return make_image(pixels, interpretation=_name_colours(found.n_colours, pixels.dtype), profile=found.profile)


def _find_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32) if dtype.kind == "f" else dtype.newbyteorder("=")


def _name_colours(n_colours: int, dtype: np.dtype[Any]) -> str:
    if n_colours == 4:
        return "cmyk"
    if dtype == np.uint16:
        return "grey16" if n_colours == 1 else "rgb16"
    return "b-w" if n_colours == 1 else "scrgb" if dtype.kind == "f" else "srgb"
