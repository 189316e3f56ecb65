"""Which picture of a file is meant, and who reads it."""

import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taesd_core.file_kinds import FileKind
from tiler.errors import InputError, Option
from tiler.sources.colour import Colour
from tiler.sources.input_file import HELD_ROWS, check_size, opened
from tiler.sources.libvips import open_by_libvips
from tiler.sources.picture import OpenedPicture, PictureSource
from tiler.sources.picture_boxes import BoxError, count_frames_of_avif
from tiler.sources.picture_headers import lacks_passes
from tiler.sources.pillow_picture import FORMATS, open_pillow_picture
from tiler.sources.png_chunks import ChunkError, check_png_packing, count_frames_of_png, read_png_texts
from tiler.sources.positions import Turned
from tiler.sources.tiff_picture import open_tiff_picture

if TYPE_CHECKING:
    import pyvips

BY_LIBVIPS = {"png": "PNG", "jpeg": "JPEG", "tiff": "TIFF", "webp": "WebP", "avif": "AVIF"}
"""What is read by libvips: names of kinds of files, and what people call them."""


BLURRED = "the JPEG ends before its last passes, which bring the fine detail: it may be cut"
ORIENTATION = 0x0112
"""The tag of EXIF."""


def open_picture(
    path: Path,
    kind: FileKind,
    *,
    page: int | None = None,
    colour: Colour | None = None,
    background: str = "white",
    spool_folder: Path | None = None,
) -> PictureSource | Turned:
    """Open a picture as (height, width, 3) in [0, 1], the right way up.

    Args:
        path: the file.
        kind: what it is.
        page: which of several pictures in it, from 0.
        colour: what its numbers are, whatever the file says.
        background: what shows through where it is transparent: "#rrggbb", "white" or "black".
        spool_folder: where a large one that can only be read from top to bottom is kept while it is needed.

    Raises:
        InputError: it cannot be used; the message says why, and what to do.
    """
    if kind.name not in (*BY_LIBVIPS, *FORMATS):
        raise InputError(
            f"Not a picture of a known format: path={path} is {kind.words}. It must be PNG, JPEG, TIFF, WebP, AVIF, "
            "BMP, PPM, JPEG 2000 or .npy. Convert it."
        )
    picture = find_picture(path, kind.name, page=page)
    source = PictureSource(picture, colour=colour, background=background, spool_folder=spool_folder)
    return Turned(source, picture.orientation) if picture.orientation > 1 else source


def find_picture(path: Path, kind: str, *, page: int | None = None) -> OpenedPicture:
    """Tell which picture of a file is meant; nothing but its header is read.

    Raises:
        InputError: there is none, or there are several of which none is chosen.
    """
    if kind == "tiff":
        return open_tiff_picture(path, page=page)
    if kind in FORMATS:
        return open_pillow_picture(path, kind)
    format = BY_LIBVIPS[kind]
    if kind == "png":
        check_png_packing(path)
    image = open_by_libvips(path, format, "sequential")
    n_pages = image.get_n_pages()
    if page is not None and not 0 <= page < n_pages:
        raise InputError(
            f"No such page: path={path}, page={page}, pages={n_pages}. Use {Option('page', 0)} to {n_pages - 1}."
        )
    if page is None and n_pages > 1:
        raise InputError(
            f"Several pictures: path={path}, pages={n_pages}. Choose one with {Option('page', 0)} to {n_pages - 1}."
        )
    options = {"page": page} if page is not None and format in ("WebP", "AVIF") else {}
    return OpenedPicture(
        path,
        format,
        partial(open_by_libvips, path, format, "sequential", **options),
        name=f"page {page}" if page else "",
        held_bytes=find_held(image, format, path),
        notes=find_notes(image, format, path),
        orientation=find_orientation(image, format, path) if format != "AVIF" else 1,
    )


def find_notes(image: "pyvips.Image", format: str, path: Path) -> tuple[str, ...]:
    """Return what is to be said of a picture before its pixels are read."""
    if format == "JPEG":
        return (BLURRED,) if comes_in_passes(image) and lacks_passes(path) else ()
    n_frames = 0
    # Where they cannot be counted, the file is no sequence, and its picture is read or refused for what it is.
    with suppress(BoxError, ChunkError):
        n_frames = {"PNG": count_frames_of_png, "AVIF": count_frames_of_avif}.get(format, lambda _: 0)(path)
    return (f"an animation of {n_frames} frames, of which the first, or its still picture, was read",) * (n_frames > 1)


def find_held(image: "pyvips.Image", format: str, path: Path) -> int:
    """Return what libvips keeps of a picture in memory while it decodes it.

    Raises:
        InputError: that is all of it, and it is too large, or far larger than its file.
    """
    row_bytes = image.width * image.bands * (2 if image.format == "ushort" else 1)
    if format in ("PNG", "JPEG") and not comes_in_passes(image):
        return HELD_ROWS * row_bytes
    check_size(image.width, image.height, path)
    # Of a progressive JPEG the coefficients, 16 bits each; of others what the codec gives, and a copy.
    return 2 * image.height * row_bytes


def comes_in_passes(image: "pyvips.Image") -> bool:
    """Say whether a picture comes coarse first."""
    return bool(image.get_typeof("interlaced") and image.get("interlaced"))


def find_orientation(image: "pyvips.Image", format: str, path: Path) -> int:
    """Return how a picture is to be turned, 1 to 8; what makes no sense is 1."""
    if image.get_typeof("orientation"):
        orientation = image.get("orientation")
    else:
        orientation = find_late_orientation(path) if format == "PNG" else 1
    return orientation if orientation in range(1, 9) else 1


def find_late_orientation(path: Path) -> Any:
    """Return how a PNG is to be turned whose EXIF stands behind its pixels, where libvips does not look."""
    from PIL import Image

    with opened(path) as descriptor:
        _, content, _ = read_png_texts(descriptor)
    exif, found = Image.Exif(), 1
    with warnings.catch_warnings(), suppress(Exception):  # It may be damaged in any way; the pixels are not.
        warnings.simplefilter("ignore")
        exif.load(content)
        found = exif.get(ORIENTATION, 1)
    return found
