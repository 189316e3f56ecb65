"""A picture that has been written, read back by Pillow; whole, for that is how it reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tiler.checks.written_image import check_lossless, find_axes, through_jpeg
from tiler.errors import InputError
from tiler.sources.image_source import pillow_limit
from tiler.sources.png_file import check_png
from tiler.window import Window

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile


class WrittenPicture:
    """A PNG, JPEG or WebP."""

    file_tile_px = None

    def __init__(self, path: Path) -> None:
        from PIL import Image

        self._tables: dict[int, list[int]] | None = None
        # Not open_image_file: our own picture may be larger than what a stranger may hand in.
        with pillow_limit, path.open("rb") as file:
            pillows_own, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                with Image.open(file, formats=["PNG", "JPEG", "WEBP"]) as image:
                    self._pixels = self._load(image, file, path)
                    self.axes = find_axes(str(image.info.get("Description", b"")) + image.info.get("xmp", b"").decode())
            finally:
                Image.MAX_IMAGE_PIXELS = pillows_own
        self.levels: list[tuple[int, ...]] = [self._pixels.shape]
        self.dtype: np.dtype[Any] = self._pixels.dtype

    def _load(self, image: "ImageFile", file: BinaryIO, path: Path) -> NDArray[np.uint8]:
        if image.format == "PNG":
            header = check_png(file)
            if header.bits != 8:
                raise InputError(
                    f"The image cannot be verified: path={path}, bits={header.bits} a sample, of which Pillow reads 8."
                )
        elif image.format == "WEBP":
            check_lossless(path, image.info.get("xmp", b"").decode())
        else:
            self._tables = dict(image.quantization)  # type: ignore[attr-defined]
        return np.asarray(image)

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
