"""The strips and tiles of a TIFF: where they lie, and what those hold that are no picture of libvips's.

That is latents, pixels as they are, and what libvips is not built to decompress. tifffile finds the tags; decoding is
ours, because a stream must not inflate to more than its segment holds, whatever it says: see ``tiler.codecs``.
Source: TIFF 6.0, and Adobe's Technical Note 3 for predictor 3.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.codecs import NONE, TIFF_CODECS

STRIP_BYTES = 2**20
"""What uncompressed strips that lie one behind the other are cut into, about."""
SEGMENT_LIMIT_BYTES = 2**30
"""Largest segment, decoded."""
FLAT_LIMIT_BYTES = 2**27
"""Largest segment that is decoded whatever it takes in the file."""
LIMIT_RATIO = 100
"""Most bytes of a segment by one of the file in a larger one."""


@dataclass(frozen=True, slots=True)
class Segments:
    """The segments of a page, plane by plane and row by row of segments."""

    shape: tuple[int, int, int]
    """(height, width, samples) of the page."""
    segment: tuple[int, int]
    """(height, width) of a tile or strip; those at the bottom may be less."""
    tiled: bool
    """Whether segments at the edges are filled up to their full size."""
    n_planes: int
    """As many as samples where each sample has segments of its own, else 1."""
    dtype: np.dtype[Any]
    """Of the samples, with the byte order of the file."""
    compression: int
    predictor: int
    """1: none, 2: differences, 3: differences of the bytes of floats."""
    offsets: NDArray[np.int64]
    """Where each begins in the file."""
    sizes: NDArray[np.int64]
    """Bytes of each."""

    @property
    def n_across(self) -> int:
        """Segments side by side."""
        return -(-self.shape[1] // self.segment[1])

    @property
    def n_down(self) -> int:
        """Segments one below the other."""
        return -(-self.shape[0] // self.segment[0])

    @property
    def n_samples(self) -> int:
        """Samples a pixel in one segment."""
        return self.shape[2] // self.n_planes

    def segment_shape(self, row: int) -> tuple[int, int, int]:
        """Return (height, width, samples) of the segments in a row of them, as they are stored."""
        height, width = self.segment
        if not self.tiled:
            height = min(height, self.shape[0] - row * height)
        return height, width, self.n_samples

    def decode(self, content: bytes, row: int) -> NDArray[Any]:
        """Return the samples of a segment in ``row``, (height, width, samples).

        Raises:
            Exception: of many kinds, where it is damaged.
        """
        shape = self.segment_shape(row)
        n_bytes = math.prod(shape) * self.dtype.itemsize
        # Some programs fill a segment at the bottom beyond the image.
        content = TIFF_CODECS[self.compression].decompress(content, shape, self.dtype)[:n_bytes]
        if len(content) < n_bytes:
            raise ValueError(f"{len(content)} of {n_bytes} bytes")
        if self.predictor == 3:
            return undo_float_differences(content, shape, self.dtype)
        values = np.frombuffer(content, self.dtype).reshape(shape)
        if self.predictor == 2:
            # Of floats too they are differences of integers, of as many bits.
            integers = values.view(f"{self.dtype.byteorder}u{self.dtype.itemsize}")
            values = np.add.accumulate(integers, axis=1, dtype=integers.dtype.newbyteorder("="))
            values = values.view(self.dtype.newbyteorder("="))
        return values


def describe_page(page: Any, size: int) -> Segments | None:
    """Return the segments of a page of a file of ``size`` bytes; None where it is of a kind that is not read here.

    Raises:
        ValueError: segments are missing, lie outside of the file, or are impossibly large.
    """
    # A frame is a page like its keyframe, but for the places of its segments.
    tags = page.keyframe
    if tags.dtype is None or tags.bitspersample not in (8, 16, 32, 64) or tags.imagedepth != 1 or tags.fillorder != 1:
        return None
    if tags.compression not in TIFF_CODECS:
        return None
    dtype = tags.dtype.newbyteorder(tags.parent.byteorder)
    # It means nothing where nothing is compressed.
    predictor = 1 if tags.compression == NONE else tags.predictor
    if predictor not in (1, 2, 3) or (predictor == 3 and dtype.kind != "f"):
        return None
    strip_height = min(tags.rowsperstrip, tags.imagelength)
    separate = tags.planarconfig == 2 and tags.samplesperpixel > 1
    segments = Segments(
        (tags.imagelength, tags.imagewidth, tags.samplesperpixel),
        (tags.tilelength, tags.tilewidth) if tags.is_tiled else (strip_height, tags.imagewidth),
        tags.is_tiled,
        tags.samplesperpixel if separate else 1,
        dtype,
        tags.compression,
        predictor,
        np.array(page.dataoffsets, np.int64),
        np.array(page.databytecounts, np.int64),
    )
    check_segments(segments, size)
    return cut_strips(segments)


def check_segments(segments: Segments, size: int) -> None:
    """Refuse segments that are missing, lie outside of a file of ``size`` bytes, or are far larger than they take.

    Raises:
        ValueError: they are.
    """
    n_segments = segments.n_across * segments.n_down * segments.n_planes
    if min(*segments.shape, *segments.segment) < 1 or not len(segments.offsets) == len(segments.sizes) == n_segments:
        raise ValueError(f"{len(segments.offsets)} segments of {segments.segment} px for {segments.shape} px")
    if segments.sizes.min() < 1 or segments.offsets.min() < 8:
        raise ValueError(f"{np.count_nonzero(segments.sizes < 1)} of {n_segments} segments are missing")
    if (segments.offsets + segments.sizes).max() > size:
        raise ValueError("it is truncated")
    n_bytes = math.prod(segments.segment_shape(0)) * segments.dtype.itemsize
    if segments.compression == NONE:
        if segments.tiled and segments.sizes.min() < n_bytes:
            raise ValueError(f"segments of {segments.sizes.min()} bytes for {segments.segment} px")
    elif n_bytes > max(FLAT_LIMIT_BYTES, min(SEGMENT_LIMIT_BYTES, LIMIT_RATIO * int(segments.sizes.min()))):
        raise ValueError(f"segments of {segments.segment} px are too large for {segments.sizes.min()} bytes")


def cut_strips(segments: Segments) -> Segments:
    """Return uncompressed strips that lie one behind the other as others of a convenient height.

    Else a file of a single strip would be read whole for each window.

    Raises:
        ValueError: there are fewer bytes than rows.
    """
    if segments.compression != NONE or segments.tiled:
        return segments
    height, width, _ = segments.shape
    row_bytes = width * segments.n_samples * segments.dtype.itemsize
    offsets = segments.offsets.reshape(segments.n_planes, -1)
    rows = np.minimum(segments.segment[0], height - np.arange(segments.n_down) * segments.segment[0])
    if (segments.sizes.reshape(segments.n_planes, -1) < rows * row_bytes).any():
        raise ValueError("strips are shorter than their rows")
    if (np.diff(offsets) != rows[:-1] * row_bytes).any():
        return segments
    n_rows = min(max(1, STRIP_BYTES // row_bytes), height)
    starts = np.arange(0, height, n_rows)
    sizes = np.minimum(n_rows, height - starts) * row_bytes
    return replace(
        segments,
        segment=(n_rows, width),
        offsets=(offsets[:, :1] + starts * row_bytes).reshape(-1),
        sizes=np.tile(sizes, segments.n_planes),
    )


def undo_float_differences(content: bytes, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return floats that were stored as differences: of all first bytes of a row, then of all second ones."""
    height, width, samples = shape
    differences = np.frombuffer(content, np.uint8).reshape(height, dtype.itemsize * width, samples)
    planes = np.add.accumulate(differences, axis=1, dtype=np.uint8).reshape(height, dtype.itemsize, width, samples)
    # The highest byte first, whatever the byte order of the file.
    return np.ascontiguousarray(np.moveaxis(planes, 1, 3)).view(dtype.newbyteorder(">"))[..., 0]
