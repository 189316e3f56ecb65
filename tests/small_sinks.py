"""Sinks opened by the options of their files, without a plan."""

from functools import partial

from tiler.formats.picture import PictureSink
from tiler.formats.tiff import Tiff, TiffSink
from tiler.formats.zarr import Zarr, ZarrSink

OF_SINKS = ("shard_px", "metadata", "overwrite", "description", "begun")


def open_sink(kind, path, shape, **options):
    """A sink of a kind of file, given options of both."""
    if kind is Tiff:
        options.setdefault("file_tile_px", 512)
    of_sink = {name: options.pop(name) for name in OF_SINKS if name in options}
    sink = {Tiff: TiffSink, Zarr: ZarrSink}.get(kind, PictureSink)
    return sink(kind(path, **options), shape, **of_sink)


open_tiff = partial(open_sink, Tiff)
open_zarr = partial(open_sink, Zarr)
