"""Plans from what people say: files, options, memory. None of it needs TensorFlow."""

import os
from pathlib import Path
from typing import TypedDict

from taesd_core.engines import Engine
from tiler import options
from tiler.errors import OptionError
from tiler.fields import TILE_SIZE
from tiler.formats.output_file import OutputFile
from tiler.formats.register import describe_latents, describe_output
from tiler.jobs.journal_file import find_begun, find_journal
from tiler.latents import Latents
from tiler.memory import default_budget_bytes, format_bytes
from tiler.model import Network
from tiler.models import PathLike, find_convention, find_network, settle_engine
from tiler.plan import Plan
from tiler.region import Region, find_window
from tiler.sources.colour import Colour
from tiler.sources.opening import Openable, open_image
from tiler.sources.positions import EdgePadded
from tiler.sources.source import Source
from tiler.tile_size import LARGEST_PX, STEP_PX, fit_plan
from tiler.window import Window


@options.checked(output=options.or_none(options.path_or_file))
def plan_decode(
    latents: Openable | Latents,
    output: PathLike | OutputFile | None = None,
    *,
    weights: PathLike | None = None,
    channels: int = 4,
    region: Region | None = None,
    tile_size_px: int | None = None,
    memory_bytes: int | None = None,
    workers: int | None = None,
    engine: Engine | None = None,
    resume: bool = False,
) -> Plan:
    """Return the plan of decoding latents, without loading what decodes.

    The arguments are those of ``decode``; without ``weights`` the latents must have ``channels`` channels.

    Raises:
        InputError: the latents cannot be used.
        OptionError: an option is out of its range.
    """
    file = None if output is None else describe_output(output)
    engine = settle_engine(engine, "float32")
    network = find_network(weights, "decoder", channels)
    latents = Latents.of(latents)
    source = latents.open(network, convention=find_convention(weights))
    area = find_area(latents, network, source, region)
    plan = make_plan(source, network, file, tile_size_px, memory_bytes, workers, resume=resume, engine=engine, **area)
    if file is not None:
        file.plan(plan, overwrite=True)
    return plan


@options.checked(latents=options.or_none(options.path))
def plan_encode(
    image: Openable,
    latents: PathLike | None = None,
    *,
    axes: str | None = None,
    weights: PathLike | None = None,
    channels: int = 4,
    page: int | None = None,
    colour: Colour | None = None,
    background: str = "white",
    tile_size_px: int | None = None,
    memory_bytes: int | None = None,
    workers: int | None = None,
    engine: Engine | None = None,
    resume: bool = False,
) -> Plan:
    """Return the plan of encoding an image, without loading what encodes.

    The arguments are those of ``encode``; without ``weights`` it is for latents with ``channels`` channels.

    Raises:
        InputError: the image cannot be used.
        OptionError: an option is out of its range.
    """
    engine = settle_engine(engine, "float32")
    network = find_network(weights, "encoder", channels)
    file = None if latents is None else describe_latents(latents)
    opened = open_image(image, axes=axes, page=page, colour=colour, background=background)
    source = EdgePadded(opened, network.scale_in)
    plan = make_plan(source, network, file, tile_size_px, memory_bytes, workers, resume=resume, engine=engine)
    if file is not None:
        file.plan(plan, overwrite=True)
    return plan


class Area(TypedDict):
    """What of the opened latents becomes pixels, as a plan wants to know it."""

    region: Window | None
    margins: tuple[int, int]


def find_area(latents: Latents, network: Network, source: Source, region: Region | None) -> Area:
    """Return which part of the opened latents ``make_plan`` is to plan for, given a region of the image."""
    kept = latents.find_size(network, source.shape)
    return {"region": find_window(region, kept), "margins": latents.margins(network)}


def make_plan(
    source: Source,
    network: Network,
    file: OutputFile | None,
    tile_size_px: int | None,
    memory_bytes: int | None = None,
    workers: int | None = None,
    *,
    resume: bool = False,
    engine: Engine,
    region: Window | None = None,
    margins: tuple[int, int] = (0, 0),
) -> Plan:
    """Return the plan of an opened source; the tile size is the one given, or what suits memory and file.

    Where that is gone on with which is half done, it is the tile size of that.

    Raises:
        OptionError: an option is out of its range.
    """
    height, width = (
        size // network.scale_in - 2 * margin for size, margin in zip(source.shape[:2], margins, strict=True)
    )
    scale = max(network.scale_in, network.scale_out)
    n_workers = _count_workers(workers)
    if tile_size_px is None and resume and file is not None:
        tile_size_px = _find_begun_tile(file, network)
    by_itself = tile_size_px is None
    tile_size_px = LARGEST_PX if tile_size_px is None else tile_size_px
    if tile_size_px < scale or tile_size_px % scale:
        raise OptionError(f"Tiles must be whole latent pixels: tile={tile_size_px} px. Use a multiple of {scale} px.")
    tile = tile_size_px // scale
    held = source.held_bytes, source.spool_bytes, source.notes
    plan = Plan(network, height, width, tile, n_workers, region, margins, *held, engine)
    if not by_itself:
        return plan
    step_px = STEP_PX if file is None else file.choose_step(max(height, width) * scale)
    return fit_plan(plan, default_budget_bytes() if memory_bytes is None else memory_bytes, step_px)


def _count_workers(workers: int | None) -> int:
    if workers is None:
        # One tile is decoded at a time, on all cores; a few others are read or compressed meanwhile.
        return max(2, min(os.cpu_count() or 2, 8))
    if workers < 1:
        raise OptionError(f"No worker: workers={workers}. Use 1 or more.")
    return workers


def _find_begun_tile(file: OutputFile, network: Network) -> int | None:
    """Return the tile of a half-done output, px: by itself it might be another one with less memory free."""
    tile = find_begun(Path(file.path)).get(TILE_SIZE)
    if not isinstance(tile, int):
        return None
    tile_px = tile * max(network.scale_in, network.scale_out)
    own_px = getattr(file, "file_tile_px", None)
    # Where the file's own tiles are to be others now, let the journal say so.
    return None if own_px and tile_px % own_px else tile_px


def check_place(file: OutputFile, *, overwrite: bool, resume: bool) -> None:
    """Refuse an output that could not be written, early, before anything is read.

    Raises:
        OutputExistsError: it exists and may not be replaced.
        InputError: it cannot be there.
    """
    # A journal without a part may be that of the complete output: see there.
    if not (resume and find_journal(Path(file.path)).exists()):
        file.check_place(overwrite=overwrite)


def tell_memory(plan: Plan, memory_bytes: int | None) -> tuple[str, ...]:
    """Return what is to be said of a plan's memory.

    That tiles are smaller for lack of it, so that the file differs by roundings from that of a larger machine; or that
    it is more than was asked for: with the smallest tile, or with one that was given.
    """
    smaller: tuple[str, ...] = ()
    if plan.usual_px is not None:
        smaller = (
            f"tiles are of {plan.core * max(plan.network.scale_in, plan.network.scale_out):,} px for lack of memory, "
            f"with more they would be of {plan.usual_px:,} px; a few values may be rounded otherwise",
        )
    if memory_bytes is None or plan.peak_bytes <= memory_bytes:
        return smaller
    tile_px = plan.core * max(plan.network.scale_in, plan.network.scale_out)
    return (
        *smaller,
        f"about {format_bytes(plan.peak_bytes)} of memory were planned for, more than the {format_bytes(memory_bytes)} "
        f"asked for; tiles of less than {tile_px} px take less",
    )
