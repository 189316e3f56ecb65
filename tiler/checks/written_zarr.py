"""An OME-Zarr that has been written, read back by the zarr library."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.checks.written_image import DamagedImageError, find_axes
from tiler.sources.input_file import shorten
from tiler.window import Window


class WrittenZarr:
    """The arrays that an OME-Zarr names as its levels."""

    quantization = None

    def __init__(self, path: Path) -> None:
        import zarr

        group = zarr.open_group(path, mode="r")
        attributes: Any = group.attrs.asdict()
        [multiscale] = attributes["ome"]["multiscales"]
        self.axes = find_axes(json.dumps(attributes.get("taesd-tiler")))
        names = [each["path"] for each in multiscale["datasets"]]
        self._arrays: list[Any] = [group[name] for name in names]
        for name, array in zip(names, self._arrays, strict=True):
            # What has no chunk is read as 0, without an error.
            n_shards = int(np.prod([-(-size // shard) for size, shard in zip(array.shape, array.shards, strict=True)]))
            n_found = sum(each.is_file() for each in (path / name / "c").rglob("*"))
            if n_found != n_shards:
                raise DamagedImageError(f"level {name} has {n_found} of {n_shards} shards")
        self.levels: list[tuple[int, ...]] = [(*each.shape[1:], each.shape[0]) for each in self._arrays]
        self.dtype: np.dtype[Any] = self._arrays[0].dtype
        self.file_tile_px: int = self._arrays[0].chunks[2]

    def read(self, level: int, window: Window) -> NDArray[Any]:
        """Return a window."""
        try:
            return np.moveaxis(self._arrays[level][:, *window.slices], 0, 2)
        except MemoryError:
            raise
        except Exception as error:  # The library, and its codecs, raise a dozen kinds.
            raise DamagedImageError(f"chunks cannot be read ({shorten(error)})") from error

    def recompress(self, window: Window, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the pixels: nothing is lost."""
        return pixels

    def close(self) -> None:
        """Release the arrays."""
        self._arrays = []
