"""Latents and the weights that they are for, opened and read once: what every call begins with."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from taesd_core.engines import Engine
from tiler import models
from tiler.dtypes import check_dtype
from tiler.formats.output_file import OutputFile
from tiler.latents import Latents
from tiler.model import Model
from tiler.models import (
    PathLike,
    Precision,
    find_checkpoint,
    find_convention,
    read_checkpoint,
    settle_engine,
)
from tiler.plan import Plan
from tiler.planning import find_area, make_plan
from tiler.region import Region
from tiler.sources.opening import Openable
from tiler.sources.ranges import Replaced


class OpenedLatents:
    """What is decoded, by what, and how it is cut into tiles; the arguments are those of ``tiler.open``."""

    def __init__(
        self,
        latents: Openable | Latents,
        *,
        weights: PathLike | None = None,
        region: Region | None = None,
        tile_size_px: int | None = None,
        memory_bytes: int | None = None,
        precision: Precision = "float32",
        engine: Engine | None = None,
        dtype: DTypeLike = "uint8",
    ) -> None:
        self.latents = Latents.of(latents)
        """What was opened."""
        self.dtype: np.dtype[Any] = check_dtype(dtype)
        """Of the pixels."""
        self.engine = settle_engine(engine, precision)
        """What runs the network."""
        self.weights = weights
        self.weights_file = find_checkpoint(weights, "decoder", self.latents)
        """The decoder's."""
        self.precision = precision
        self.replaced = Replaced()
        """Values of the latents that were NaN or Inf and were read as 0."""
        self.convention = find_convention(weights)
        """Scale and shift of its latents, where they are known."""
        checkpoint = read_checkpoint(self.weights_file, "decoder")
        self.network, self.weights_sha256 = checkpoint.network, checkpoint.sha256
        self.source = self.latents.open(self.network, convention=self.convention, replaced=self.replaced)
        """The latents, by window."""
        self.area = find_area(self.latents, self.network, self.source, region)
        """What of them is made."""
        self.tile_size_px, self.memory_bytes = tile_size_px, memory_bytes
        # What opens it again, with the engine that was found here.
        self.given = {
            "region": region,
            "tile_size_px": tile_size_px,
            "memory_bytes": memory_bytes,
            "precision": precision,
            "engine": self.engine,
            "dtype": self.dtype.name,
        }
        self.plan = self.plan_for(None)
        """How it is cut into tiles, and what decoding all of it costs."""

    def plan_for(self, file: OutputFile | None, workers: int | None = None, *, resume: bool = False) -> Plan:
        """Return the plan of writing it to a file, whose own tiles may want others of the plan."""
        return make_plan(
            self.source,
            self.network,
            file,
            self.tile_size_px,
            self.memory_bytes,
            workers,
            resume=resume,
            engine=self.engine,
            **self.area,
        )

    def travelling_latents(self) -> Latents:
        """Return the latents by a name that other processes understand."""
        data = self.latents.data
        return (
            replace(self.latents, data=Path(data).absolute()) if isinstance(data, str | os.PathLike) else self.latents
        )

    def load(self, dtype: str) -> Callable[[], Model]:
        """Return what loads the decoder, in any process of this machine, for pixels of a type."""
        path = self.weights_file.absolute()
        return partial(models.load_model, path, "decoder", self.precision, dtype, self.engine)  # type: ignore[arg-type]
