"""What is to be written, before it is opened: its options, how large it gets, what tells it from others."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from numpy.typing import DTypeLike

from tiler.fingerprint import Fields
from tiler.npy_sink import NpySink, count_bytes
from tiler.plan import Plan
from tiler.pyramid import level_shapes
from tiler.sink import Sink
from tiler.tiff_sink import TiffSink, count_most_bytes
from tiler.tile_codec import Compression, TileCodec


@dataclass(frozen=True, slots=True)
class Output:
    """A file to be made."""

    path: Path
    """Its final name."""
    overwrite: bool
    """Whether an existing file of that name may be replaced."""
    open_sink: Callable[[bool], Sink]
    """``open_sink(reopen)``: anew, or what an earlier run has left."""
    most_bytes: int
    """How large the file can get, at most."""
    n_levels: int
    """Levels of its pyramid; 1 without one."""
    fields: Fields
    """Its options, by names that people know."""


def plan_npy(
    path: Path, plan: Plan, dtype: DTypeLike, *, channels_first: bool = False, overwrite: bool = False
) -> Output:
    """Return a ``.npy`` file; see ``NpySink``."""
    shape = plan.output_shape
    open_sink = partial(NpySink, path, shape, dtype, channels_first=channels_first, overwrite=overwrite)
    most_bytes = count_bytes(shape, dtype) + 1000
    return Output(path, overwrite, lambda reopen: open_sink(reopen=reopen), most_bytes, 1, {"kind": ".npy"})


def plan_tiff(
    path: Path,
    plan: Plan,
    *,
    compression: Compression,
    quality: int,
    file_tile_px: int,
    pyramid: bool,
    overwrite: bool = False,
) -> Output:
    """Return a TIFF; see ``TiffSink``.

    Raises:
        OptionError: an option is out of its range.
    """
    shape = plan.output_shape
    codec = TileCodec(compression, quality, file_tile_px)
    fields: Fields = {"kind": "TIFF", "compression": compression}
    if not codec.lossless:
        fields["quality"] = quality
    open_sink = partial(
        TiffSink,
        path,
        shape,
        compression=compression,
        quality=quality,
        file_tile_px=file_tile_px,
        pyramid=pyramid,
        overwrite=overwrite,
    )
    return Output(
        path,
        overwrite,
        lambda reopen: open_sink(reopen=reopen),
        count_most_bytes(shape, codec, pyramid=pyramid),
        len(level_shapes(*shape[:2], file_tile_px)) if pyramid else 1,
        fields | {"TIFF tile": f"{file_tile_px} px", "pyramid": pyramid},
    )
