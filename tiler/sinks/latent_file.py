"""Files of latents to be made by ``encode``, told apart by their endings."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tiler.fields import Fields
from tiler.options import check_fields
from tiler.plan import Plan
from tiler.sinks.encoded_sink import count_encoded_bytes
from tiler.sinks.latent_sinks import LatentPngSink, SafetensorsSink, check_png_shape
from tiler.sinks.npy_sink import NpySink
from tiler.sinks.outputs import check_kind
from tiler.sinks.planned_file import PathLike, PlannedFile
from tiler.sinks.strided_sink import StridedSink, count_bytes

LATENT_KINDS = (".npy", ".safetensors", ".png")
"""What ``encode`` writes."""


@dataclass(frozen=True, slots=True)
class LatentFile:
    """A file of latents; ``.npy`` and ``.safetensors`` hold (1, channels, h, w) float32, ``.png`` 8 bits.

    Raises:
        OptionError: the name ends in none of these.
    """

    path: PathLike
    """Its name."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_kind(Path(self.path), LATENT_KINDS)

    def choose_step(self, size_px: int) -> int:
        """Return what tiles must be multiples of by default, px."""
        return 512

    @property
    def keeps(self) -> bool:
        """Whether it has a place for what is said of its latents."""
        return Path(self.path).suffix.lower() != ".npy"

    def plan(self, plan: Plan, *, overwrite: bool, notes: Mapping[str, str] | None = None) -> PlannedFile:
        """Return the file that holds the output of a plan.

        Args:
            plan: the plan.
            overwrite: whether an existing file may be replaced.
            notes: texts to be kept with the latents, by name, where it has a place for them.

        Raises:
            OptionError: the latents do not fit such a file.
        """
        path, shape = Path(self.path), plan.output_shape
        kind = path.suffix.lower()

        def open_sink(reopen: bool, description: str) -> StridedSink:
            if kind == ".png":
                return LatentPngSink(path, shape, notes=notes, overwrite=overwrite, reopen=reopen)
            sink = NpySink if kind == ".npy" else partial(SafetensorsSink, notes=notes)
            return sink(path, shape, np.float32, channels_first=True, overwrite=overwrite, reopen=reopen)

        said: Fields = {"kind": kind, **(notes or {})}
        if kind != ".png":
            return PlannedFile(path, overwrite, open_sink, count_bytes(shape, np.float32) + 1000, 1, said)
        check_png_shape(shape)
        # All of the array is read to memory to be encoded.
        array_bytes, encoded_bytes = count_bytes(shape, np.uint8), count_encoded_bytes(shape, np.uint8)
        most_bytes = array_bytes + 1000 + encoded_bytes
        return PlannedFile(path, overwrite, open_sink, most_bytes, 1, said, array_bytes, encoded_bytes)
