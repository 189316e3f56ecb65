"""Which page of a TIFF is the picture, and what kind of picture that is.

Of several pages only those that are said to be reduced are left out; which of the others is meant is for people to
say. What libvips would take for something else, or is not built to read, is refused here, by its name.
Source: TIFF 6.0; libvips 8.18 was compared with tifffile on all kinds of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tiler.codecs import DEFLATE, JPEG, LZW, NONE, OLD_DEFLATE, PACKBITS, ZSTD
from tiler.errors import InputError, Option
from tiler.sources.encoding import Encoding
from tiler.sources.input_file import HELD_ROWS, printable
from tiler.sources.tiff_places import check_places
from tiler.sources.tiff_segments import Segments, describe_page
from tiler.sources.tiff_tags import find_tiff_colours, name_other_channels, read_tiff

COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
"""Photometric interpretations, and samples a pixel that are colours: grey twice, RGB, palette, inks, YCbCr."""
MINISWHITE, MINISBLACK, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
ASSOCIATED = 1
"""Among ExtraSamples: transparency that the colours are multiplied by."""
BY_LIBVIPS = (NONE, 2, 3, 4, LZW, JPEG, DEFLATE, PACKBITS, OLD_DEFLATE)
"""The compressions that libvips is built with: three of fax, LZW, JPEG, deflate by both numbers, packbits."""
FLOAT = 3
"""The sample format of floats."""
BITS = {1: (1, 2, 4, 8, 16), FLOAT: (16, 32)}
"""Of a sample, by sample format: what libvips reads right. It takes 12 bits for 16, and has no range for 32."""
GROWN_BYTES = 2**28
"""Largest file that is copied so that libvips takes its tiles."""
REDUCED = 1
"""The bit of NewSubfileType that says so."""


@dataclass(frozen=True, slots=True)
class TiffPicture:
    """One page, as its tags describe it."""

    page: int
    """Which, from 0."""
    size: tuple[int, int]
    """(height, width) as it is stored, px."""
    n_colours: int
    """Samples a pixel that are colours."""
    inverted: bool
    """Whether 0 is white."""
    orientation: int
    """How it is to be turned, 1 to 8."""
    extra: tuple[int, ...]
    """What the samples behind the colours are, by the numbers of the tag ExtraSamples."""
    profile: bytes | None
    """An ICC profile."""
    colours: Encoding | str | None
    """What its other tags say of its colours, or why that is not read."""
    tiled: bool
    """Whether it is stored as tiles, not as strips."""
    held_bytes: int
    """What libvips keeps of it in memory."""
    grown: tuple[tuple[int, bytes], ...]
    """Places in the file and what to put there, so that it says that the picture is whole tiles; nothing where libvips
    takes its tiles as they are. It refuses those that are about three times as long as the picture, or more."""
    segments: Segments | None
    """Where it lies, where that is not read by libvips: strips of pixels as they are, and what was made by zstd."""


def find_tiff_picture(path: Path, *, page: int | None = None) -> TiffPicture:
    """Tell which page of a TIFF is the picture, and what it is.

    Raises:
        InputError: there is none, several may be meant, or it is of a kind that is not read.
    """

    def read(tiff: Any, size: int) -> TiffPicture:
        number = choose_page(tiff, path, page)
        tags = tiff.pages[number]
        unread = name_unread(tags)
        if unread:
            raise InputError(f"A kind of TIFF that is not read: path={path}, {unread}. Save it as 8 or 16-bit RGB.")
        check_places(tags, size, path)
        segments = None
        if reads_itself(tags):
            segments = describe_page(tags, size)
            if segments is None:
                raise InputError(
                    f"A kind of TIFF that needs a codec: path={path}, Compression={_name(tags.compression)}. "
                    "pip install 'taesd-tiler[codecs]', or save it with deflate, its planes together."
                )
        profile = tags.tags.valueof(34675)
        return TiffPicture(
            number,
            (tags.imagelength, tags.imagewidth),
            COLOURS[int(tags.photometric)],
            tags.photometric == MINISWHITE,
            tags.tags.valueof(274, 1),
            tuple(int(each) for each in tags.extrasamples),
            bytes(profile) if profile is not None else None,
            find_tiff_colours(tags),
            tags.is_tiled,
            find_held(tags),
            grow(tags, size) if tags.is_tiled else (),
            segments,
        )

    return read_tiff(path, read)


def choose_page(tiff: Any, path: Path, page: int | None) -> int:
    """Return the number of the page that is meant.

    Raises:
        InputError: it is not there, or none is meant more than another.
    """
    n_pages = len(tiff.pages)
    if page is not None:
        if not 0 <= page < n_pages:
            raise InputError(
                f"No such page: path={path}, page={page}, pages={n_pages}. Use {Option('page', 0)} to {n_pages - 1}."
            )
        return page
    full = [number for number, each in enumerate(tiff.pages) if not each.subfiletype & REDUCED]
    if not full:
        raise InputError(
            f"No picture but reduced ones: path={path}, pages={n_pages}. Choose one with {Option('page', 0)} to "
            f"{n_pages - 1}."
        )
    n_hidden = count_hidden(tiff)
    if len(full) > 1 or n_hidden > 1:
        what = f"pages={n_hidden}, in one" if n_hidden > 1 else f"pages={', '.join(map(str, full[:8]))}"
        what += " …" if len(full) > 8 else ""
        how = ", 0 is the first." if n_hidden > 1 else ", or save colours as one page of RGB."
        raise InputError(
            f"Several pictures, or channels apart: path={path}, {what}. Choose one with {Option('page')}{how}"
        )
    others = name_other_channels(tiff, full[0])
    if others:
        raise InputError(
            f"Channels or slices in several files: path={path}, {others}. Save colours as one page of RGB, or take "
            f"this page alone with {Option('page', full[0])}."
        )
    return full[0]


def count_hidden(tiff: Any) -> int:
    """Return how many pictures lie behind the only page, as ImageJ and tifffile write more than 4 GiB; 0 for none."""
    if len(tiff.pages) > 1:
        return 0
    first = tiff.pages.first
    if first.is_imagej:
        return int((tiff.imagej_metadata or {}).get("images", 0))
    if first.is_shaped:
        for each in tiff.shaped_metadata or ():
            if each.get("truncated"):
                return int(np.prod(each["shape"])) // max(1, int(np.prod(first.shape)))
    return 0


def name_unread(tags: Any) -> str:
    """Return what of a page is not read, in words; nothing where it is read."""
    bits, numbers = tags.tags.valueof(258, 1), tags.sampleformat
    kind = {1: "integers", 2: "signed integers", 3: "floats"}.get(numbers, f"numbers of SampleFormat={numbers}")
    colours = COLOURS.get(int(tags.photometric))
    if colours is None:
        return f"PhotometricInterpretation={_name(tags.photometric)}"
    if isinstance(bits, tuple) and len(set(bits)) > 1:
        return f"samples of {', '.join(map(str, bits))} bits"
    if tags.bitspersample not in BITS.get(numbers, ()):
        return f"{kind} of {tags.bitspersample} bits"
    if tags.compression not in (*BY_LIBVIPS, ZSTD):
        return f"Compression={_name(tags.compression)}"
    extra = tags.samplesperpixel - colours
    checks = {
        "samples deep": tags.imagedepth > 1,
        f"{tags.samplesperpixel} samples a pixel, of which {colours} are to be colours": extra < 0,
        f"{tags.samplesperpixel} samples a pixel that are not said to be colours (PhotometricInterpretation="
        f"{_name(tags.photometric)})": tags.photometric in (MINISWHITE, MINISBLACK, PALETTE) and extra > 1,
        f"{tags.samplesperpixel} samples of {tags.bitspersample} bits": tags.bitspersample < 8
        and tags.samplesperpixel > 1,
        "floats of which 0 is white": numbers == FLOAT and tags.photometric == MINISWHITE,
        "floats of 16 bits in planes": numbers == FLOAT
        and tags.bitspersample == 16
        and tags.planarconfig == 2
        and not reads_itself(tags),
        "a palette of floats": numbers == FLOAT and tags.photometric == PALETTE,
        "a palette, or colours multiplied by transparency, in zstd or in tiles of planes apart": reads_itself(tags)
        and (tags.photometric == PALETTE or ASSOCIATED in tags.extrasamples),
        f"{tags.bitspersample} bits in zstd": reads_itself(tags) and tags.bitspersample < 8,
        "YCbCr that is not JPEG": tags.photometric == YCBCR and tags.compression != JPEG,
    }
    return next((name for name, unread in checks.items() if unread), "")


def reads_itself(tags: Any) -> bool:
    """Say whether a page is read without libvips, which has no zstd and no tiles of planes apart.

    So are pixels in strips as they are, which libvips would read from the first to the last.
    """
    apart = tags.planarconfig == 2 and tags.samplesperpixel > 1
    if tags.compression == ZSTD or (tags.is_tiled and apart):
        return True
    plain = tags.compression == NONE and not tags.is_tiled and tags.photometric in (MINISBLACK, RGB)
    return plain and tags.bitspersample >= 8 and ASSOCIATED not in tags.extrasamples


def grow(tags: Any, file_bytes: int) -> tuple[tuple[int, bytes], ...]:
    """Return what a small picture in large tiles must say for its size to be whole tiles, by places in the file."""
    sizes = ((256, tags.imagewidth, tags.tilewidth), (257, tags.imagelength, tags.tilelength))
    if all(tile <= 2 * size for _, size, tile in sizes) or file_bytes > GROWN_BYTES:
        return ()
    order: Literal["little", "big"] = "little" if tags.parent.byteorder == "<" else "big"
    found = [(tags.tags[code], -(-size // tile) * tile) for code, size, tile in sizes]
    if any(whole >= 256**tag.valuebytecount for tag, whole in found):
        return ()
    return tuple((tag.valueoffset, whole.to_bytes(tag.valuebytecount, order)) for tag, whole in found)


def find_held(tags: Any) -> int:
    """Return what libvips keeps of a page in memory while it reads it, bytes; measured of pages of wide rows."""
    row_bytes = tags.imagewidth * max(tags.samplesperpixel, 3) * max(tags.bitspersample, 8) // 8
    if tags.is_tiled:
        return 2 * row_bytes * int(tags.tilelength)
    # Of planes apart, and of JPEG, it decodes whole strips.
    whole = tags.planarconfig == 2 or tags.compression == JPEG
    whole_strips = 2 * min(tags.rowsperstrip, tags.imagelength) if whole else 0
    return (HELD_ROWS + whole_strips) * row_bytes


def _name(value: Any) -> str:
    return printable(getattr(value, "name", str(value)))
