"""Files of latents, which ``encode`` makes: ``.npy`` and ``.safetensors``; ``png_latents.py`` has those of 8 bits."""

import base64
import json
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from taesd_core.safetensors_file import HEADER_LIMIT_BYTES
from tiler.errors import Option, OptionError
from tiler.fields import Fields
from tiler.formats.encoded_sink import count_encoded_bytes
from tiler.formats.npy import NpySink
from tiler.formats.output_file import OutputFile, PlannedFile
from tiler.formats.sink import PathLike, Sink
from tiler.formats.strided_sink import StridedSink, count_bytes
from tiler.metadata import Metadata
from tiler.plan import Plan
from tiler.sources.metadata import EXIF_NAME

TENSOR_NAME = "latents"
"""Key of the latents in a ``.safetensors`` file."""
TENSOR_TYPES = {"float16": "F16", "float32": "F32"}
"""What the format calls number types."""
ALIGNMENT_BYTES = 8
"""What the values begin at a multiple of."""
MOST_METADATA_BYTES = HEADER_LIMIT_BYTES - 100_000
"""Or nobody could read the file again."""


@dataclass(frozen=True, slots=True)
class LatentFile(OutputFile):
    """A file of latents."""

    keeps: ClassVar[bool] = True
    """Whether it has a place for what is said of its latents."""
    is_encoded: ClassVar[bool] = False
    """Whether it is made of an array when all of that is there."""

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
        shape = plan.output_shape
        make_sink, n_bytes = self._choose_sink(shape, texts), count_bytes(shape, self.dtype)
        encoded_bytes = count_encoded_bytes(shape, self.dtype) + n_extra if self.is_encoded else 0
        return PlannedFile(
            self,
            overwrite,
            make_sink,
            n_bytes + 1000 + (encoded_bytes or n_extra),
            said,
            # All of the array is read to memory to be encoded.
            commit_bytes=n_bytes if self.is_encoded else 0,
            encoded_bytes=encoded_bytes,
        )

    @abstractmethod
    def _choose_sink(self, shape: tuple[int, int, int], texts: dict[str, str]) -> Callable[..., Sink]:
        """Return what makes the sink, if the latents fit such a file."""

    def _add_metadata(self, notes: dict[str, str], metadata: Metadata) -> dict[str, str]:
        exif = {EXIF_NAME: base64.b64encode(metadata.exif).decode()} if metadata.exif else {}
        texts = {**metadata.texts, **exif, **notes}
        n_bytes = len(json.dumps(texts))
        if n_bytes > MOST_METADATA_BYTES:
            raise OptionError(
                f"Too large to be taken along: metadata={n_bytes} bytes, limit={MOST_METADATA_BYTES} bytes. Leave "
                f"{Option('keep_metadata')} out."
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
            f"A .npy has no place for metadata: path={self.path}. Leave {Option('keep_metadata')} out, or write "
            f".safetensors."
        )


@dataclass(frozen=True, slots=True)
class SafetensorsLatents(LatentFile):
    """A ``.safetensors`` of (1, channels, h, w) float32."""

    kind, endings = ".safetensors", (".safetensors",)

    def _choose_sink(self, shape: tuple[int, int, int], texts: dict[str, str]) -> Callable[..., Sink]:
        return partial(SafetensorsSink, self.path, shape, np.float32, channels_first=True, notes=texts)


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
