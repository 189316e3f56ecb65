"""The tile size by itself: as little work as tiles of a bearable size allow, whatever the machine."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from tiler.errors import InputError
from tiler.plan import Plan

STEP_PX = 512
"""Tiles are multiples of this, so that they consist of whole file tiles."""
LARGEST_PX = 2048
"""Beyond this a halo is a percent of a tile, and a tile takes seconds and much memory."""
NEAR_LEAST = 1.01
"""A smaller tile is taken for one percent more work: it is finished, shown and safe on disk sooner."""


def _list_plans(plan: Plan, step_px: int = STEP_PX) -> list[Plan]:
    """Return a plan with every size of tile that may be chosen by itself, the smallest first.

    Args:
        plan: of any tile size.
        step_px: sizes are multiples of this.
    """
    network = plan.network
    scale = max(network.scale_in, network.scale_out)
    step_px = math.lcm(step_px, scale)
    # One tile that holds the whole image is the largest that makes sense.
    longest_px = max(plan.made.shape) * network.scale_in
    largest_px = max(min(LARGEST_PX, -(-longest_px // step_px) * step_px) // step_px * step_px, step_px)
    plans = [plan.with_tile(largest_px)]
    # Of an image of terapixels there would be too many of the small ones.
    with suppress(InputError):
        for tile_px in range(largest_px - step_px, 0, -step_px):
            plans.append(plan.with_tile(tile_px))
    return plans[::-1]


def _choose_plan(plans: Sequence[Plan]) -> Plan:
    """Return the plan of the smallest tile that is nearly the least work.

    The work of every size is counted, edge tiles included, so that an image just over one tile is not cut off a sliver.
    """
    least = min(plan.macs for plan in plans)
    return next(plan for plan in plans if plan.macs <= NEAR_LEAST * least)


def fit_plan(plan: Plan, budget_bytes: int, step_px: int = STEP_PX) -> Plan:
    """Return a plan with the tile that suits it by itself, or a smaller one where memory is too small for that."""
    plans = _list_plans(plan, step_px)
    usual = _choose_plan(plans)
    if usual.peak_bytes <= budget_bytes:
        return usual
    fitting = _choose_plan([each for each in plans if each.peak_bytes <= budget_bytes] or plans[:1])
    return fitting if fitting.core == usual.core else replace(fitting, usual_px=usual.tile_px * plan.network.scale_in)
