"""A job of a few tiles with a stand-in decoder, and how its result is compared."""

from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
import tifffile
from conftest import RepeatModel

from taesd_core.network import Network
from tiler.formats.jpeg_webp import Jpeg, WebP
from tiler.formats.npy import Npy
from tiler.formats.png import Png
from tiler.formats.register import describe_latents
from tiler.formats.tiff import Tiff
from tiler.formats.zarr import Zarr
from tiler.jobs.job import Job, run_job
from tiler.plan import Plan
from tiler.sources.array_source import ArraySource
from tiler.sources.source import fingerprint_source

TILE_PX = 64
KINDS = ["npy", "deflate", "none", "jpeg"]


class CountingModel(RepeatModel):
    """Counts what it decodes, and does what it is told to before each."""

    def __init__(self, before=lambda number: None):
        self.n_calls, self.before = 0, before
        self.lock = Lock()

    def __call__(self, window, *place):
        with self.lock:
            number, self.n_calls = self.n_calls, self.n_calls + 1
        self.before(number)
        return super().__call__(window, *place)


class ShrinkModel:
    """A stand-in encoder: what a decoder makes of every eighth value, and of that every eighth."""

    def __init__(self, decoder):
        self.decoder = decoder

    def __call__(self, window, borders, crop=..., origin=None):
        pixels = self.decoder(window[::8, ::8], borders)[::8, ::8, [0, 1, 2, 0]][crop]
        return pixels.astype(np.float32) / 42 - 3


def make_job(folder, kind, model=None, *, height=30, width=22, overwrite=False, seed=0, workers=1, **changes):
    """A job of 4 × 3 tiles, four levels where there is a pyramid; of kind "latents", one that encodes to a PNG."""
    model = model or RepeatModel()
    if kind in ("latents", "safetensors"):
        values = np.random.default_rng(seed).normal(size=(height * 8, width * 8, 3)).astype(np.float32)
        source = ArraySource(values, 3)
        plan = Plan(Network.encoder(4), height, width, TILE_PX // 8, workers)
        file = describe_latents(Path(folder) / f"image.{kind.replace('latents', 'png')}")
        output = file.plan(plan, overwrite=overwrite)
        encoder = ShrinkModel(model)
        return replace(Job(output, plan, source, {"image": fingerprint_source(source)}, lambda: encoder), **changes)
    latents = np.random.default_rng(seed).normal(size=(height, width, 4)).astype(np.float32)
    source = ArraySource(latents, 4)
    plan = Plan(Network.decoder(4), height, width, TILE_PX // 8, workers)
    if kind == "npy":
        file = Npy(Path(folder) / "image.npy")
    elif kind == "png":
        file = Png(Path(folder) / "image.png")
    elif kind in ("jpg", "picture.webp"):
        file = (Jpeg if kind == "jpg" else WebP)(Path(folder) / f"image.{kind.removeprefix('picture.')}")
    elif kind == "zarr":
        file = Zarr(Path(folder) / "image.zarr", file_tile_px=32)
    else:
        file = Tiff(Path(folder) / "image.tif", compression=kind, file_tile_px=32)
    output = file.plan(plan, overwrite=overwrite)
    inputs = {"latents": fingerprint_source(source)}
    return replace(Job(output, plan, source, inputs, lambda: model), **changes)


def read_result(path):
    """What must be the same however often a job was stopped: all bytes, or all tags and tiles of all levels."""
    path = Path(path)
    if path.is_dir():
        return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}
    content = path.read_bytes()
    if path.suffix != ".tif" and not path.name.endswith(".tif.part"):
        return content
    with tifffile.TiffFile(path) as file:
        return [
            (
                {tag.name: tag.value for tag in page.tags if tag.name not in ("TileOffsets", "TileByteCounts")},
                [content[offset : offset + n] for offset, n in zip(page.dataoffsets, page.databytecounts, strict=True)],
            )
            for page in file.pages
        ]


def run_whole(folder, kind, **options):
    """The result of a run that nothing happened to."""
    job = make_job(folder, kind, **options)
    run_job(job)
    assert [path.name for path in Path(folder).iterdir()] == [job.output.path.name]
    return read_result(job.output.path)
