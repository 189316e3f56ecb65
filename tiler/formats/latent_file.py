"""Files of latents to be made by ``encode``, told apart by their endings."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from taesd_core.safetensors_file import HEADER_LIMIT_BYTES
from tiler.errors import OptionError
from tiler.fields import Fields
from tiler.formats.encoded_sink import count_encoded_bytes
from tiler.formats.latent_sinks import LatentPngSink, SafetensorsSink, check_png_shape
from tiler.formats.npy_sink import NpySink
from tiler.formats.outputs import check_kind
from tiler.formats.picture_sink import check_metadata
from tiler.formats.planned_file import PathLike, PlannedFile
from tiler.formats.strided_sink import StridedSink, count_bytes
from tiler.metadata import Metadata
from tiler.options import check_fields
from tiler.plan import Plan
from tiler.sources.metadata import EXIF_NAME

MOST_METADATA_BYTES = HEADER_LIMIT_BYTES - 100_000
"""Or nobody could read the file again."""
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

    def plan(
        self,
        plan: Plan,
        *,
        overwrite: bool,
        notes: Mapping[str, str] | None = None,
        metadata: Metadata | None = None,
    ) -> PlannedFile:
        """Return the file that holds the output of a plan.

        Args:
            plan: the plan.
            overwrite: whether an existing file may be replaced.
            notes: texts to be kept with the latents, by name, where it has a place for them.
            metadata: what is to be taken along from the picture.

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
        if metadata is not None:
            said |= metadata.fields
            notes = self._add_metadata(notes or {}, metadata)
        n_extra = sum(2 * (len(name) + len(text)) for name, text in (notes or {}).items())
        if kind != ".png":
            return PlannedFile(path, overwrite, open_sink, count_bytes(shape, np.float32) + 1000 + n_extra, 1, said)
        check_png_shape(shape)
        # All of the array is read to memory to be encoded.
        array_bytes, encoded_bytes = count_bytes(shape, np.uint8), count_encoded_bytes(shape, np.uint8)
        encoded_bytes += n_extra
        most_bytes = array_bytes + 1000 + encoded_bytes
        return PlannedFile(path, overwrite, open_sink, most_bytes, 1, said, array_bytes, encoded_bytes)

    def _add_metadata(self, notes: Mapping[str, str], metadata: Metadata) -> dict[str, str]:
        """Return all that is to be kept as texts.

        Raises:
            OptionError: the file has no place for it.
        """
        if not self.keeps:
            raise OptionError(
                f"A .npy has no place for metadata: path={self.path}. Leave --keep-metadata out, or write .safetensors."
            )
        exif = {EXIF_NAME: base64.b64encode(metadata.exif).decode()} if metadata.exif else {}
        texts = {**metadata.texts, **exif, **notes}
        n_bytes = len(json.dumps(texts))
        if n_bytes > MOST_METADATA_BYTES:
            raise OptionError(
                f"Too large to be taken along: metadata={n_bytes} bytes, limit={MOST_METADATA_BYTES} bytes. Leave "
                "--keep-metadata out."
            )
        if Path(self.path).suffix.lower() == ".png":
            check_metadata("png", Metadata(texts))
        return texts
