"""PNG of 8-bit latents."""

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler import files
from tiler.errors import OptionError
from tiler.formats.encoded_sink import Appended, EncodedSink
from tiler.formats.latents import LatentFile
from tiler.formats.png import SIGNATURE, check_texts
from tiler.formats.sink import PathLike, Piece, Sink
from tiler.metadata import Metadata
from tiler.sources.metadata import EXIF_NAME
from tiler.window import Window

PNG_CHANNELS = 4
"""An RGBA picture has as many."""
PNG_LIMIT_PX = 2**26
"""Largest PNG of latents, which is compressed in memory: those of an image of four gigapixels."""


@dataclass(frozen=True, slots=True)
class PngLatents(LatentFile):
    """An RGBA PNG of 8-bit latents."""

    kind, endings, dtype, is_encoded = ".png", (".png",), "uint8", True

    def _choose_sink(self, shape: tuple[int, int, int], texts: dict[str, str]) -> Callable[..., Sink]:
        check_png_shape(shape)
        return partial(LatentPngSink, self.path, shape, notes=texts)

    def _add_metadata(self, notes: dict[str, str], metadata: Metadata) -> dict[str, str]:
        texts = LatentFile._add_metadata(self, notes, metadata)
        check_texts(texts)
        return texts


class LatentPngSink(EncodedSink):
    """An RGBA PNG of 8-bit latents under construction; see ``StridedSink``.

    Args:
        path: the final name.
        shape: (height, width, 4).
        notes: texts to be stored with it, by name.
        options: of ``StridedSink``.

    Raises:
        OptionError: there are not four channels, or too many latents.
    """

    signature = SIGNATURE

    def __init__(
        self, path: PathLike, shape: tuple[int, int, int], *, notes: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        check_png_shape(shape)
        self._notes = notes or {}
        self._n_clipped, self._counting = 0, Lock()
        super().__init__(path, shape, np.uint8, **options)

    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> Piece:
        """Put latents (height, width, 4) at ``window``, as bytes: [-3, 3] is [0, 255], what is beyond is clipped.

        Source: the convention of TAESD, ``round(clip(z / 6 + 0.5, 0, 1) * 255)``.

        Returns:
            The CRC-32 of these.

        Raises:
            InputError: another level, a window that leaves the picture, or latents of another shape.
        """
        scaled = pixels / np.float32(6) + np.float32(0.5)
        clipped = np.clip(scaled, 0, 1)
        with self._counting:
            self._n_clipped += int(np.count_nonzero(scaled != clipped))
        return super().write(level, window, np.round(clipped * np.float32(255)).astype(np.uint8))

    @property
    def notes(self) -> tuple[str, ...]:
        """How many latents were clipped by this run, if any."""
        if not self._n_clipped:
            return ()
        return (
            f"{self._n_clipped:,} values of the latents, beyond [-3, 3], were clipped, for a PNG holds no others; "
            ".safetensors does",
        )

    def _encode(self, output: Appended) -> None:
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        texts = PngInfo()
        exif = base64.b64decode(self._notes.get(EXIF_NAME, ""))
        for name, text in self._notes.items():
            if name != EXIF_NAME:
                texts.add_text(name, text)
        content = files.read_at(self._file, math.prod(self.shape), self._start)
        picture = Image.fromarray(np.frombuffer(content, np.uint8).reshape(self.shape))
        picture.save(output, "PNG", pnginfo=texts, **({"exif": exif} if exif else {}))  # type: ignore[arg-type]


def check_png_shape(shape: tuple[int, int, int]) -> None:
    """Refuse latents that do not fit a PNG.

    Raises:
        OptionError: there are not four channels, or too many latents.
    """
    if shape[2] != PNG_CHANNELS:
        raise OptionError(f"Not the channels of an RGBA PNG: channels={shape[2]}, RGBA=4. Write .npy or .safetensors.")
    if shape[0] * shape[1] > PNG_LIMIT_PX:
        raise OptionError(
            f"Too many latents for a PNG: size={shape[0]} × {shape[1]}, limit={PNG_LIMIT_PX}. "
            "Write .npy or .safetensors."
        )
