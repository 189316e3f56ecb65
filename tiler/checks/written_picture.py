"""A picture that has been written, read back whole: PNG by libvips, JPEG and WebP by Pillow."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taesd_core.file_kinds import find_kind
from tiler.checks.written_image import check_lossless, find_axes, through_jpeg
from tiler.sources.libvips import open_by_libvips, read_strips
from tiler.sources.pillow_picture import open_by_pillow
from tiler.window import Window


class WrittenPicture:
    """A PNG, JPEG or WebP."""

    file_tile_px = None

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            kind = find_kind(file).name
        self._tables: dict[int, list[int]] | None = None
        # Without the limits of open_image: our own picture may be larger than what a stranger may hand in.
        if kind == "png":
            # Pillow does not look at the checksums of pixels, and what is missing it leaves black.
            image = open_by_libvips(path, "PNG", "sequential")
            self._pixels = read_strips(image, path, "PNG")
            said = [image.get(name) for name in image.get_fields() if re.fullmatch("png-comment-.*|xmp-data", name)]
            self.axes = find_axes("".join(each if isinstance(each, str) else each.decode() for each in said))
        else:
            with open_by_pillow(path, "WEBP" if kind == "webp" else "JPEG", None) as opened:
                if kind == "webp":
                    check_lossless(path, opened.info.get("xmp", b"").decode())
                else:
                    self._tables = dict(opened.quantization)  # type: ignore[attr-defined]
                self._pixels = np.asarray(opened)
                self.axes = find_axes(opened.info.get("xmp", b"").decode())
        self.levels: list[tuple[int, ...]] = [self._pixels.shape]
        self.dtype: np.dtype[Any] = self._pixels.dtype

    @property
    def quantization(self) -> list[list[int]] | None:
        """The steps by which JPEG rounds, for brightness and colour; None where nothing is lost."""
        return None if self._tables is None else [list(table) for _, table in sorted(self._tables.items())]

    def read(self, level: int, window: Window) -> NDArray[Any]:
        """Return a window."""
        assert level == 0
        return self._pixels[window.slices]

    def recompress(self, window: Window, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what the file's compression makes of ``pixels``."""
        return pixels if self._tables is None else through_jpeg(pixels, self._tables)

    def close(self) -> None:
        """Release the pixels."""
        del self._pixels
