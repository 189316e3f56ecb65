"""The plain whole-image model that windows are decoded again by."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taesd_core.checkpoint import load_checkpoint
from taesd_core.layers import Layers, convolutions
from taesd_core.quiet_start import quiet_start
from tiler.checks.window_check import Reference, Statistics, gather_plainly
from tiler.errors import ModelOverflowError
from tiler.sources.source import Source


def load_reference(path: Path, source: Source, margins: tuple[int, int] = (0, 0)) -> Reference:
    """Load the plain whole-image decoder, which shares nothing with the exact model but the layer table.

    What its group norms must know of all latents is gathered from the source, without its margins, by plain models too.
    """
    with quiet_start():
        from taesd_core.compile import compile_whole, keep_float32
        from taesd_core.whole_image import KeepingRelu, build_whole_image_model

    checkpoint = load_checkpoint(path, "decoder")
    network, tensors = checkpoint.network, checkpoint.tensors
    keep_float32()

    def build(layers: Layers) -> Reference:
        # What ends in front of a norm has no use for the norm's own tensors.
        *fitting, last = tensors[: len(list(convolutions(layers)))]
        model = build_whole_image_model(layers, (*fitting, last._replace(norm=None)), statistics, KeepingRelu)
        # Not model(window): run op by op, Keras keeps every map of the network until the last.
        compiled = compile_whole(model)

        def run(window: NDArray[np.float32]) -> NDArray[np.float32]:
            values = np.asarray(compiled(window[None])[0])
            if not np.isfinite(values).all():
                raise ModelOverflowError(
                    f"The plain model gives NaN or Inf, so nothing is known of the image: precision=float32, largest "
                    f"latent={np.abs(window).max():.3g}. Use other weights, or bring the latents into their range."
                )
            return values

        return run

    statistics: list[Statistics] = []
    for each in network.passes:
        groups = list(convolutions(each.layers))[-1].convolution.norm_groups
        statistics.append(gather_plainly(source, each, build(each.layers), groups, margins))
    return build(network.layers)
