"""Files of latents, which ``encode`` makes: ``.npy``, ``.safetensors``, and PNG of 8-bit latents."""

import base64
import json
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from taesd_core.safetensors_file import HEADER_LIMIT_BYTES
from tiler import files
from tiler.errors import Option, OptionError
from tiler.fields import Fields
from tiler.formats.encoded_sink import Appended, EncodedSink, count_encoded_bytes
from tiler.formats.npy import NpySink
from tiler.formats.output_file import OutputFile, PlannedFile
from tiler.formats.png import SIGNATURE, check_texts
from tiler.formats.sink import PathLike, Piece, Sink, Skeleton
from tiler.formats.strided_sink import StridedSink, count_bytes
from tiler.metadata import Metadata
from tiler.plan import Plan
from tiler.sources.metadata import EXIF_NAME
from tiler.window import Window

TENSOR_NAME = "latents"
"""Key of the latents in a ``.safetensors`` file."""
TENSOR_TYPES = {"float16": "F16", "float32": "F32"}
"""What the format calls number types."""
ALIGNMENT_BYTES = 8
"""What the values begin at a multiple of."""
PNG_CHANNELS = 4
"""An RGBA picture has as many."""
PNG_LIMIT_PX = 2**26
"""Largest PNG of latents, which is compressed in memory: those of an image of four gigapixels."""
MOST_METADATA_BYTES = HEADER_LIMIT_BYTES - 100_000
"""Or nobody could read the file again."""


@dataclass(frozen=True, slots=True)
class LatentFile(OutputFile):
    """A file of latents."""

    keeps: ClassVar[bool] = True
    """Whether it has a place for what is said of its latents."""

    def plan(
        self,
        plan: Plan,
        *,
        overwrite: bool,
        metadata: Metadata | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> PlannedFile:
        """Return the file that holds the output of a plan.

        Args:
            plan: the plan.
            overwrite: whether an existing file may be replaced.
            metadata: what is to be taken along from the picture.
            notes: texts to be kept with the latents, by name, where it has a place for them.

        Raises:
            OptionError: the latents, or the metadata, do not fit such a file.
        """
        said: Fields = {"kind": self.kind, **(notes or {})}
        texts = dict(notes or {})
        if metadata is not None:
            said |= metadata.fields
            texts = self._add_metadata(texts, metadata)
        n_extra = sum(2 * (len(name) + len(text)) for name, text in texts.items())
        return self._plan(plan.output_shape, overwrite, said, texts, n_extra)

    def _plan(
        self, shape: tuple[int, int, int], overwrite: bool, said: Fields, texts: dict[str, str], n_extra: int
    ) -> PlannedFile:
        most_bytes = count_bytes(shape, np.float32) + 1000 + n_extra
        return PlannedFile(self, overwrite, self._choose_sink(shape, texts), most_bytes, said)

    @abstractmethod
    def _choose_sink(self, shape: tuple[int, int, int], texts: dict[str, str]) -> Callable[..., Sink]:
        """Return what makes the sink."""

    def _add_metadata(self, notes: dict[str, str], metadata: Metadata) -> dict[str, str]:
        exif = {EXIF_NAME: base64.b64encode(metadata.exif).decode()} if metadata.exif else {}
        texts = {**metadata.texts, **exif, **notes}
        n_bytes = len(json.dumps(texts))
        if n_bytes > MOST_METADATA_BYTES:
            raise OptionError(
                f"Too large to be taken along: metadata={n_bytes} bytes, limit={MOST_METADATA_BYTES} bytes. Leave ",
                Option("keep_metadata"),
                " out.",
            )
        return texts


@dataclass(frozen=True, slots=True)
class NpyLatents(LatentFile):
    """A ``.npy`` of (1, channels, h, w) float32."""

    kind, endings, keeps = ".npy", (".npy",), False

    def _choose_sink(self, shape: tuple[int, int, int], texts: dict[str, str]) -> Callable[..., Sink]:
        return partial(NpySink, self.path, shape, np.float32, channels_first=True)

    def _add_metadata(self, notes: dict[str, str], metadata: Metadata) -> dict[str, str]:
        raise OptionError(
            f"A .npy has no place for metadata: path={self.path}. Leave ",
            Option("keep_metadata"),
            " out, or write .safetensors.",
        )


@dataclass(frozen=True, slots=True)
class SafetensorsLatents(LatentFile):
    """A ``.safetensors`` of (1, channels, h, w) float32."""

    kind, endings = ".safetensors", (".safetensors",)

    def _choose_sink(self, shape: tuple[int, int, int], texts: dict[str, str]) -> Callable[..., Sink]:
        return partial(SafetensorsSink, self.path, shape, np.float32, channels_first=True, notes=texts)


@dataclass(frozen=True, slots=True)
class PngLatents(LatentFile):
    """An RGBA PNG of 8-bit latents."""

    kind, endings = ".png", (".png",)

    def _choose_sink(self, shape: tuple[int, int, int], texts: dict[str, str]) -> Callable[..., Sink]:
        return partial(LatentPngSink, self.path, shape, notes=texts)

    def _plan(
        self, shape: tuple[int, int, int], overwrite: bool, said: Fields, texts: dict[str, str], n_extra: int
    ) -> PlannedFile:
        check_png_shape(shape)
        # All of the array is read to memory to be encoded.
        array_bytes, encoded_bytes = count_bytes(shape, np.uint8), count_encoded_bytes(shape, np.uint8) + n_extra
        return PlannedFile(
            self,
            overwrite,
            self._choose_sink(shape, texts),
            array_bytes + 1000 + encoded_bytes,
            said,
            commit_bytes=array_bytes,
            encoded_bytes=encoded_bytes,
        )

    def _add_metadata(self, notes: dict[str, str], metadata: Metadata) -> dict[str, str]:
        texts = LatentFile._add_metadata(self, notes, metadata)
        check_texts(texts)
        return texts


class SafetensorsSink(StridedSink):
    """A ``.safetensors`` file of one tensor under construction; see ``StridedSink``.

    Source: the format's description, https://huggingface.co/docs/safetensors.

    Args:
        path: the final name.
        shape: (height, width, channels).
        dtype: of the array.
        notes: texts to be stored with it, by name.
        options: of ``StridedSink``.
    """

    def __init__(
        self,
        path: PathLike,
        shape: tuple[int, int, int],
        dtype: Any,
        *,
        notes: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self._notes = notes or {}
        super().__init__(path, shape, dtype, **options)

    def _header(self) -> bytes:
        dtype, shape = TENSOR_TYPES[self.dtype.name], self.stored_shape
        n_bytes = math.prod(shape) * self.dtype.itemsize
        tensor = {"dtype": dtype, "shape": shape, "data_offsets": [0, n_bytes]}
        metadata = {"latent_space": "diffusion", **self._notes}
        text = json.dumps({"__metadata__": metadata, TENSOR_NAME: tensor}).encode()
        text += b" " * (-len(text) % ALIGNMENT_BYTES)
        return len(text).to_bytes(8, "little") + text


class LatentPngSink(EncodedSink):
    """An RGBA PNG of 8-bit latents under construction.

    Args:
        path: the final name.
        shape: (height, width, 4).
        notes: texts to be stored with it, by name.
        overwrite: whether an existing file may be replaced (when the new one is complete).
        description: has no place in it.
        begun: write on what an earlier run left, whose skeleton this is; all else must be as it was then.

    Raises:
        OptionError: there are not four channels, or too many latents.
        InputError: what is to be reopened is another file than it was.
        OSError: the disk is too full.
    """

    signature = SIGNATURE

    def __init__(
        self,
        path: PathLike,
        shape: tuple[int, int, int],
        *,
        notes: Mapping[str, str] | None = None,
        overwrite: bool = False,
        description: str = "",
        begun: Skeleton | None = None,
    ) -> None:
        check_png_shape(shape)
        self._notes = notes or {}
        self._n_clipped, self._counting = 0, Lock()
        super().__init__(path, shape, np.uint8, overwrite=overwrite, begun=begun)

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
