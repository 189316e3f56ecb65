"""A plan in words: what will be done, what it costs and how much memory it takes, before any work."""

from typing import TYPE_CHECKING

from taesd_core.engines import NAMES
from tiler.memory import format_bytes

if TYPE_CHECKING:
    from tiler.plan import Plan


def summarise_plan(plan: "Plan") -> str:
    """Return the plan as lines of text."""
    height, width, channels = plan.output_shape
    scale_in = plan.network.scale_in
    tile_px = plan.core * max(scale_in, plan.network.scale_out)
    halo_px = plan.network.halo * max(scale_in, plan.network.scale_out)
    n_rows, n_columns = len(plan.rows), len(plan.columns)
    input_shape = f"{plan.height * scale_in:,} × {plan.width * scale_in:,} × {plan.network.channels_in}"
    lines = {
        "input": input_shape + _describe_ends(plan),
        "output": f"{height:,} × {width:,} × {channels}{_describe_region(plan)}",
        "image": f"{plan.n_image_px / 1e6:,.1f} megapixels",
        "tiles": f"{n_rows:,} × {n_columns:,} = {plan.n_tiles:,} of {tile_px:,} px, halo {halo_px} px"
        + _describe_lack(plan),
        **_describe_passes(plan),
        "compute": f"{2 * plan.macs / 1e12:,.3g} TFLOP, {plan.compute_overhead:.3f} × the whole image at once",
        "engine": NAMES[plan.engine],
        "memory": f"about {format_bytes(plan.peak_bytes)} at the peak",
        **_describe_spool(plan),
    }
    notes = [("note", text) for text in plan.notes]
    return "\n".join(f"{name:<8} {text}" for name, text in [*lines.items(), *notes])


def _describe_lack(plan: "Plan") -> str:
    return "" if plan.usual_px is None else f", for lack of memory; with more of {plan.usual_px:,} px"


def _describe_spool(plan: "Plan") -> dict[str, str]:
    if not plan.spool_bytes:
        return {}
    return {"disk": f"{format_bytes(plan.spool_bytes)} beside the output while it is made: the picture, uncompressed"}


def _describe_ends(plan: "Plan") -> str:
    joined = [ends for ends, margin in zip(("top and bottom", "left and right"), plan.margins, strict=True) if margin]
    return f", {' and '.join(joined)} joined" if joined else ""


def _describe_region(plan: "Plan") -> str:
    scale = plan.network.scale_out
    return f", {plan.region} of {plan.height * scale:,} × {plan.width * scale:,}" if plan.region else ""


def _describe_passes(plan: "Plan") -> dict[str, str]:
    if not plan.passes:
        return {}
    return {
        "passes": f"{len(plan.passes)} over the whole input first, for its statistics: "
        f"{plan.pass_overhead:.3f} × the whole image, included below"
    }
