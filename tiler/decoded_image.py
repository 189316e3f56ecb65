"""Latents, as the image that they decode to: known at once, decoded where somebody looks."""

import os
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiler.array_index import read_index
from tiler.checks.verification import Samples, Verification
from tiler.errors import OptionError, RefusedError
from tiler.formats.output_file import OutputFile
from tiler.jobs.engine import run_tile
from tiler.jobs.room import check_memory
from tiler.jobs.schedule import Progress
from tiler.jobs.statistics import PreparedModel
from tiler.latents import Latents
from tiler.models import PathLike
from tiler.opened_latents import OpenedLatents
from tiler.overview import Overview
from tiler.pyramid import halve, level_shapes, level_window
from tiler.region import Region, check_inside, find_window
from tiler.report import Report
from tiler.small_picture import preview_source
from tiler.sources.opening import Openable
from tiler.sources.ranges import check_range
from tiler.sources.source import TravellingSource
from tiler.tile_cache import TileCache
from tiler.verifying import verify_output
from tiler.window import Window, split_window
from tiler.writing import write_image

if TYPE_CHECKING:
    import dask.array

CACHE_BYTES = 256_000_000
"""Of decoded tiles, by default."""
MOST_TILES = 64
"""A read decodes no more of them, unless all of it is asked for as an array."""
SMALLEST_PX = 256
"""The last level of an image is no larger than this on either side."""


class DecodedImage(OpenedLatents):
    """The image that latents decode to, in the pixels of decoding all of it at once; see ``tiler.open``.

    It is read like an array, ``image[100:300, 200:500]``, or by window and level. What is decoded are tiles of its
    plan, so that it has the bytes of a file that is written by the same plan; the last ones are kept.
    """

    def __init__(self, latents: Openable | Latents, *, cache_bytes: int = CACHE_BYTES, **options: Any) -> None:
        super().__init__(latents, **options)
        self._cache_bytes, self._cache = cache_bytes, TileCache(cache_bytes)
        self._decoding = Lock()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.plan.output_shape

    @property
    def ndim(self) -> int:
        """Axes."""
        return 3

    @property
    def levels(self) -> list[tuple[int, int]]:
        """(height, width) of every level, each half of the one before, down to one of at most 256 px."""
        return level_shapes(*self.shape[:2], SMALLEST_PX)

    def read(self, level: int, window: Window | Region) -> NDArray[Any]:
        """Return pixels of a level: at level 0 those of the image, above their means as a pyramid has them.

        Args:
            level: from 0, the image itself.
            window: in px of the level: a ``Window``, or (x, y, width, height).

        Returns:
            (height, width, channels).

        Raises:
            OptionError: there is no such level, or the window leaves it.
            RefusedError: it takes decoding more than 64 tiles; ``overview`` shows such parts, ``write`` makes a file.
            InputError: the latents hold NaN or Inf there.
            TileError: a tile failed.
        """
        window = self._check(level, window)
        below = Window.whole(*self.levels[0])
        whole = (window * (1 << level)).grow(0, *below.shape) if level else window
        n_tiles = sum(1 for _ in split_window(whole, (self.plan.tile_px,) * 2))
        if n_tiles > MOST_TILES:
            raise RefusedError(
                f"Too much to decode for a look: level={level}, window={window}, tiles={n_tiles} of "
                f"{self.plan.tile_px} px, at most {MOST_TILES}. overview() shows it from averaged latents, write() "
                "makes a file of it."
            )
        return self._read(level, window)

    def tile(self, level: int, row: int, column: int) -> NDArray[Any]:
        """Return a tile of the grid of a level, as ``read`` does; tiles of all levels have the plan's size."""
        n_rows, n_columns = (-(-side // self.plan.tile_px) for side in self._check_level(level))
        if not (0 <= row < n_rows and 0 <= column < n_columns):
            raise OptionError(f"No such tile: row={row}, column={column}, level {level} has {n_rows} × {n_columns}.")
        return self.read(level, level_window(self.levels, self.plan.tile_px, (level, row, column)))

    def overview(self, level: int, window: Window | Region) -> NDArray[np.uint8]:
        """Return about the pixels of a level, decoded from averaged latents: quick, whatever the size; not exact.

        Args:
            level: as for ``read``.
            window: as for ``read``.

        Returns:
            (height, width, channels) uint8.
        """
        return self._overview.read(level, self._check(level, window), self.levels[level])

    def preview(self, size_px: int = 512) -> NDArray[np.uint8]:
        """Return a small picture of all of the latents; see ``tiler.preview``."""
        latents = replace(self.latents, wrap=None)
        source = latents.open(self.network, convention=self.convention)
        kept = latents.find_size(self.network, source.shape)
        return preview_source(source, self.network, kept, size_px, self.load("uint8"), self.engine)

    def to_dask(self) -> "dask.array.Array":
        """Return it as a dask array, a chunk per tile; nothing is decoded until it is computed.

        Latents in a file are opened in each process that computes a chunk.
        """
        import dask.array

        latents = self.travelling_latents()
        plan, source = (
            self.plan,
            TravellingSource(partial(latents.open, self.network, convention=self.convention), self.source.shape),
        )
        model = PreparedModel(self.load(self.dtype.name), plan, source)

        def decode_chunk(block_id: tuple[int, int, int]) -> NDArray[Any]:
            return run_tile(plan.tile(*block_id[:2]), source, model)

        chunks = (*(tuple(len(each.core) for each in axis) for axis in (plan.rows, plan.columns)), (self.shape[2],))
        empty = np.empty((0, 0, 0), self.dtype)
        # A name of our own, or dask hashes the source to make one.
        name = f"decode-{os.urandom(16).hex()}"
        return dask.array.map_blocks(decode_chunk, chunks=chunks, dtype=self.dtype, meta=empty, name=name)

    def write(self, output: PathLike | OutputFile, **options: Any) -> Report:
        """Write it to a file; the options are those of ``tiler.decode`` that say how the file is made.

        They are ``overwrite``, ``resume``, ``force``, ``keep_metadata``, ``verify``, ``workers``, ``progress``,
        ``profile`` and ``client``.
        """
        return write_image(self, output, **options)

    def verify(
        self, output: PathLike, *, samples: Samples = 8, seed: int = 0, progress: Progress | None = None
    ) -> Verification:
        """Compare a file that was written of it with the latents, as ``tiler.verify`` does."""
        return verify_output(Path(output), lambda _: self, samples, seed, progress)

    def close(self) -> None:
        """Forget what was decoded."""
        self._cache.clear()

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Return a part, as NumPy would of the whole: of whole numbers, slices and an ellipsis."""
        window, inner = read_index(index, self.shape)
        if window is None:
            # A view of nothing has the shape that NumPy gives it.
            return np.array(np.broadcast_to(np.zeros((), self.dtype), self.shape)[index])
        return self._read(0, window)[inner]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all of it, decoded."""
        if copy is False:
            raise ValueError("It is decoded anew: nothing of it can be given without a copy.")
        size_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        check_memory(size_bytes + self.plan.peak_bytes, advice="Read a window, or write a file")
        return self._read(0, Window.whole(*self.shape[:2])).astype(dtype or self.dtype, copy=False)

    def __len__(self) -> int:
        return self.shape[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        data, (height, width, channels), plan = self.latents.data, self.shape, self.plan
        of = os.fspath(data) if isinstance(data, str | os.PathLike) else f"an {type(data).__name__}"
        return (
            f"<DecodedImage {height:,} × {width:,} × {channels} {self.dtype.name} of {of}, by "
            f"{self.weights_file.name}: {plan.n_tiles:,} tiles of {plan.tile_px:,} px, {len(self.levels)} levels>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        latents = self.travelling_latents()
        if not isinstance(latents.data, Path):
            raise TypeError(
                f"Latents in memory cannot travel: {type(latents.data).__name__}. Save them, and open that."
            )
        weights = self.weights if self.weights is not None and not Path(self.weights).exists() else None
        return _reopen, (latents, weights or self.weights_file.absolute(), self._cache_bytes, self.given)

    @cached_property
    def _model(self) -> PreparedModel:
        check_range(self.source.unscaled)
        return PreparedModel(self.load(self.dtype.name), self.plan, self.source)

    @cached_property
    def _overview(self) -> Overview:
        latents = replace(self.latents, wrap=None)
        source = latents.open(self.network, convention=self.convention)
        return Overview(self.plan, source, self.load("uint8"))

    def _check_level(self, level: int) -> tuple[int, int]:
        if not 0 <= level < len(self.levels):
            raise OptionError(f"No such level: level={level}, there are {len(self.levels)}, from 0.")
        return self.levels[level]

    def _check(self, level: int, window: Window | Region) -> Window:
        shape = self._check_level(level)
        found = window if isinstance(window, Window) else find_window(window)
        assert found is not None
        check_inside(found, *shape)
        return found

    def _read(self, level: int, window: Window) -> NDArray[Any]:
        pixels = np.empty((*window.shape, self.shape[2]), self.dtype)
        # A level's part is made of twice as much of the level below: so a tile of level 0 is a part of level 1.
        side = self.plan.tile_px if level == 0 else max(1, self.plan.tile_px // 2)
        for row, column, part in split_window(window, (side, side)):
            if level == 0:
                whole = level_window(self.levels, side, (0, row, column))
                made = self._cache.get((row, column), partial(self._decode, row, column))[(part - whole).slices]
            else:
                below = Window.whole(*self.levels[level - 1])
                made = halve(self._read(level - 1, (part * 2).grow(0, *below.shape)))
            pixels[(part - window).slices] = made
        return pixels

    def _decode(self, row: int, column: int) -> NDArray[Any]:
        # One at a time: it takes all cores, and the memory of one is what is planned for.
        with self._decoding:
            return run_tile(self.plan.tile(row, column), self.source, self._model)


def _reopen(latents: Latents, weights: PathLike, cache_bytes: int, given: dict[str, Any]) -> DecodedImage:
    return DecodedImage(latents, weights=weights, cache_bytes=cache_bytes, **given)
