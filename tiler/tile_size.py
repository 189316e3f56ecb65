"""The tile size by itself: as little work as the memory allows, in tiles no larger than that takes."""

import math

from tiler.model import Network
from tiler.plan import Plan
from tiler.window import Window

STEP_PX = 512
"""Tiles are multiples of this, so that they consist of whole file tiles."""
LARGEST_PX = 8192
"""Beyond this a halo is a percent of a tile."""
NEAR_LEAST = 1.01
"""A smaller tile is taken for one percent more work: it is finished, shown and safe on disk sooner."""


def choose_tile_px(
    network: Network,
    height: int,
    width: int,
    *,
    budget_bytes: int,
    workers: int = 2,
    step_px: int = STEP_PX,
    region: Window | None = None,
    margins: tuple[int, int] = (0, 0),
) -> int:
    """Return the side of a tile in px of the image.

    The work of every size is counted, edge tiles included, so that an image just over one tile is not cut off a sliver.

    Args:
        network: the geometry of the model.
        height: of the latent, latent px.
        width: of the latent, latent px.
        budget_bytes: predicted peak memory stays below this, if any size does.
        workers: tiles that are held at a time.
        step_px: sizes are multiples of this.
        region: the part of the image that is made, as for a plan.
        margins: of the source, as for a plan.
    """
    scale = max(network.scale_in, network.scale_out)
    step_px = math.lcm(step_px, scale)
    # One tile that holds the whole image is the largest that makes sense.
    sides_px = [side * network.scale_in for side in region.shape] if region else [height * scale, width * scale]
    largest_px = min(LARGEST_PX, -(-max(sides_px) // step_px) * step_px)
    plans = [
        Plan(network, height, width, tile_px // scale, workers, region, margins)
        for tile_px in range(step_px, max(largest_px, step_px) + 1, step_px)
    ]
    affordable = [plan for plan in plans if plan.peak_bytes <= budget_bytes] or plans[:1]
    least = min(plan.macs for plan in affordable)
    return next(plan.core * scale for plan in affordable if plan.macs <= NEAR_LEAST * least)
