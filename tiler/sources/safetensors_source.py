"""Latents in ``.safetensors`` files, read by window; ComfyUI's ``.latent`` is one of them."""

import os
from pathlib import Path
from typing import get_args

import numpy as np

from taesd_core.safetensors_file import FLOATS, SafetensorsError, read_header, read_metadata
from tiler.errors import InputError, Option
from tiler.sources.input_file import printable
from tiler.sources.latent_space import Converted
from tiler.sources.layout import Wanted, choose_key
from tiler.sources.source import LatentSpace, Source
from tiler.sources.strided_source import StoredArray, StridedSource

COMFY_KEY = "latent_tensor"
"""The latents in a ``.latent`` file."""
COMFY_VERSION = "latent_format_version_0"
"""An empty tensor that tells a newer ``.latent`` file."""
COMFY_OLD_FACTOR = 1 / 0.18215
"""What the values of an older one are multiplied by. Source: ComfyUI's node LoadLatent."""


class SafetensorsSource(StridedSource):
    """One map of a tensor in a ``.safetensors`` file.

    Args:
        path: the file.
        wanted: which tensor, and which map of it.

    Raises:
        InputError: the file is missing, is no whole safetensors file, or holds something else.
    """

    def __init__(self, path: str | os.PathLike[str], wanted: Wanted) -> None:
        self._wanted = wanted
        super().__init__(path, self._find_array, wanted)

    def _find_array(self, descriptor: int, path: Path) -> StoredArray:
        try:
            self.entries, start = read_header(descriptor)
            said = read_metadata(descriptor).get("latent_space")
        except SafetensorsError as error:
            raise InputError(f"Not a whole .safetensors file: path={path} ({error}). Save or copy it again.") from error
        self.space: LatentSpace | None = said if said in get_args(LatentSpace) else None  # type: ignore[assignment]
        """Of the latents, where the file says it."""
        shapes = {name: entry.shape for name, entry in self.entries.items()}
        self.key = choose_key(shapes, self._wanted.key, name=f"path={path}")
        entry = self.entries[self.key]
        name = f"key={printable(self.key)}"
        if entry.dtype not in FLOATS:
            raise InputError(
                f"Wrong number type: path={path}, {name}, dtype={entry.dtype}. It must be one of "
                f"{', '.join(FLOATS)}. Convert it, or choose another with {Option('key')}."
            )
        return StoredArray(
            entry.shape,
            np.dtype(FLOATS[entry.dtype]),
            start + entry.start_bytes,
            entry.size_bytes,
            bfloat16=entry.dtype == "BF16",
            name=name,
            # Pipelines and ComfyUI write what PyTorch works on.
            first="always",
        )


def open_safetensors(path: str | os.PathLike[str], wanted: Wanted) -> Source:
    """Open a ``.safetensors`` or ``.latent`` file; the source of a ``.latent`` says that it is in VAE space.

    Raises:
        InputError: the file is missing, is no whole safetensors file, or holds something else.
    """
    source = SafetensorsSource(path, wanted)
    if source.key != COMFY_KEY:
        return source
    factor = 1.0 if COMFY_VERSION in source.entries else COMFY_OLD_FACTOR
    return Converted(source, scale=factor, shift=0.0, space="vae")
