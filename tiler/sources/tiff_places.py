"""Where the strips or tiles of a picture in TIFF lie: are all of them there, and can they hold its pixels?"""

from pathlib import Path
from typing import Any

import numpy as np

from tiler.codecs import DEFLATE, JPEG, LZW, NONE, OLD_DEFLATE, PACKBITS
from tiler.errors import InputError
from tiler.sources.input_file import INFLATED_BYTES_A_BYTE, printable

MOST_BYTES_A_BYTE = {
    **{NONE: 1, 2: 214, LZW: 2731, PACKBITS: 64},
    **dict.fromkeys((DEFLATE, OLD_DEFLATE), INFLATED_BYTES_A_BYTE),
}
"""What a byte of the file can stand for at most: 2,560 px by 12 bits of fax; 4,096 bytes by 12 bits of LZW; 128 bytes
by 2 of packbits. The other faxes repeat a row by one bit, whatever its length."""
JPEG_SIDE = 2**16 - 1
"""Longest side of a JPEG, px."""
JPEG_PX_A_BYTE = 512
"""What a byte of it can stand for at most: in passes a block of 64 px takes a bit for its mean, and hardly more."""


def check_places(tags: Any, size: int, path: Path) -> None:
    """Refuse a page of which parts are not stored, or lie outside of a file of ``size`` bytes.

    Raises:
        InputError: parts are not stored.
        ValueError: the file is cut, or there are not as many parts as there should be.
    """
    offsets, sizes = np.array(tags.dataoffsets, np.int64), np.array(tags.databytecounts, np.int64)
    height, width = (tags.tilelength, tags.tilewidth) if tags.is_tiled else (tags.rowsperstrip, tags.imagewidth)
    n_planes = tags.samplesperpixel if tags.planarconfig == 2 else 1
    if min(height, width) < 1:
        raise ValueError(f"segments of {height} × {width} px")
    n_segments = -(-tags.imagelength // height) * -(-tags.imagewidth // width) * n_planes
    if not len(offsets) == len(sizes) == n_segments:
        raise ValueError(f"{len(offsets)} segments of {height} × {width} px for {tags.shape}")
    n_missing = np.count_nonzero((sizes < 1) | (offsets < 8))
    if n_missing:
        raise InputError(
            f"Not all of the picture is there: path={path}, {n_missing} of {n_segments} tiles or strips are not "
            "stored. It is sparse, or half done. Save it with all of its pixels."
        )
    if (offsets + sizes).max() > size:
        raise ValueError("it is truncated")
    check_packing(tags, min(height, tags.imagelength), width, int(sizes.max()))


def check_packing(tags: Any, height: int, width: int, size: int) -> None:
    """Refuse strips or tiles that cannot be packed into what they take, before memory is taken for them.

    Args:
        tags: of the page.
        height: of a strip or tile, px.
        width: of it, px.
        size: of the largest in the file, bytes.

    Raises:
        ValueError: they cannot.
    """
    # Libraries take them as long as they should be before they look at what is in them.
    n_samples = 1 if tags.planarconfig == 2 else tags.samplesperpixel
    n_bytes = height * (width * n_samples * tags.bitspersample // 8)
    most = size * MOST_BYTES_A_BYTE.get(int(tags.compression), n_bytes)
    too_many = max(height, width) > JPEG_SIDE or height * width > JPEG_PX_A_BYTE * size
    if n_bytes > most or (tags.compression == JPEG and too_many):
        name = printable(getattr(tags.compression, "name", str(tags.compression)))
        raise ValueError(f"{height} × {width} px do not fit into {size} bytes of {name}")
