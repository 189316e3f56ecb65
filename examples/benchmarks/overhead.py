"""What does a tile size cost in operations, and how fast is it?

Operations are counted from the layer table, for a tile far from the borders, relative to the plain decode of the whole
image. Speed is measured on the same tile; each size in a process of its own, warm, taking turns.
"""

from functools import partial
from pathlib import Path

import click

from decoders import find_flop_per_px, load_part, set_up_tiles
from measure import Worker, available_cores, median_seconds, take_turns
from report import describe_machine, draw_lines, megabytes, print_table
from taesd_core.layers import Block, Convolution, Layers, Upsample, convolutions
from taesd_core.network import Network
from tiler.plan import Plan

OURS = "taesd-tiler"
"""Valid, and an upsampling folded with the convolution behind it."""
HALO_AND_CROP = "halo on the input, same convolutions, crop"
VALID = "valid convolutions"


@click.command()
@click.option(
    "--tile-size",
    "tile_sizes_px",
    multiple=True,
    default=(256, 512, 768, 1024, 1536, 2048),
    show_default=True,
    help="Side of a tile, px; may be repeated.",
)
@click.option("--weights", default="photo", show_default=True, help="Name or file of the decoder's weights.")
@click.option("--rounds", default=5, show_default=True, help="Timed runs of each size; 0 only counts.")
@click.option("--threads", type=int, help="Pin every process to so many cores.  [default: all]")
@click.option("--chart", type=click.Path(path_type=Path), default="overhead.png", show_default=True)
def main(tile_sizes_px: tuple[int, ...], weights: str, rounds: int, threads: int | None, chart: Path) -> None:
    """Count the operations of exact tiles, and measure their speed, over tile size."""
    network = load_part(weights).network
    cores = available_cores()[:threads]
    click.echo(describe_machine(len(cores)))
    ways = (HALO_AND_CROP, VALID, OURS)
    counts = {size: count_ways(network, size // network.scale_out) for size in tile_sizes_px}
    seconds, peaks = measure_sizes(weights, tile_sizes_px, rounds, cores) if rounds else ({}, {})
    flop_per_px = find_flop_per_px(weights)
    rows = []
    for size in tile_sizes_px:
        row = [f"{size:,}", *(f"{counts[size][way]:.3f}" for way in ways)]
        if rounds:
            rate = size**2 / 1e6 / seconds[size]
            credited = rate * flop_per_px / 1e3
            executed = credited * counts[size][OURS]
            plan = predict_plan(network, size)
            row += [f"{rate:.3f}", f"{credited:.1f}", f"{executed:.1f}", megabytes(peaks[size])]
            row.append(megabytes(plan.peak_bytes))
        rows.append(row)
    headers = ["tile px", *ways]
    if rounds:
        headers += ["Mpx/s", "GFLOP/s credited", "executed", "peak MB", "predicted MB"]
    click.echo("Operations relative to the plain decode of the whole image")
    print_table(headers, rows)
    sizes = list(tile_sizes_px)
    panels = {"operations / whole image": {way: (sizes, [counts[size][way] for size in sizes]) for way in ways}}
    if rounds:
        panels["Mpx/s"] = {OURS: (sizes, [size**2 / 1e6 / seconds[size] for size in sizes])}
    draw_lines(chart, "What a tile size costs", "tile size, px", panels, accent=OURS)
    click.echo(f"Chart: {chart}")


def count_ways(network: Network, core: int) -> dict[str, float]:
    """Return the operations of a tile of ``core`` latent px relative to the whole image's, by way."""
    whole = network.macs_of_whole(core, core)
    window = core + 2 * network.halo
    axis = [(window, False, False)]
    return {
        HALO_AND_CROP: network.macs_of_whole(window, window) / whole,
        VALID: count_valid(network.layers, core * network.scale_out) / whole,
        OURS: network.macs(axis, axis) / whole,
    }


def count_valid(layers: Layers, size_px: int) -> int:
    """Return the multiply-accumulates of a tile when each layer computes just what the next ones need."""
    start, stop, total = 0, size_px, 0
    for layer in reversed(layers):
        if isinstance(layer, Upsample):
            start, stop = start // 2, -(-stop // 2)
        elif isinstance(layer, Block | Convolution):
            for place in reversed(list(convolutions((layer,)))):
                total += 9 * place.convolution.n_in * place.convolution.n_out * (stop - start) ** 2
                start, stop = start - 1, stop + 1
    return total


def predict_plan(network: Network, tile_px: int) -> Plan:
    """Return the plan of an image of three tiles a side: the one in the middle has no border."""
    core = tile_px // network.scale_out
    return Plan(network, 3 * core, 3 * core, core)


def measure_sizes(
    weights: str, tile_sizes_px: tuple[int, ...], rounds: int, cores: list[int]
) -> tuple[dict[int, float], dict[int, int]]:
    """Return the median seconds and the peak memory of decoding one inner tile of each size."""
    workers: dict[str, Worker] = {}
    try:
        for size in tile_sizes_px:
            worker = workers[str(size)] = Worker(set_up_tiles, weights, cores=cores)
            worker.run(size)  # warm
        runs = take_turns({size: partial(worker.run, int(size)) for size, worker in workers.items()}, rounds)
    finally:
        for worker in workers.values():
            worker.stop()
    seconds = {int(size): median_seconds(each) for size, each in runs.items()}
    return seconds, {int(size): max(run.peak_bytes for run in each) for size, each in runs.items()}


if __name__ == "__main__":
    main()
