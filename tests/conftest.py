import os
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest

from taesd_core.layers import convolutions
from taesd_core.network import Network
from taesd_core.tensors import ConvolutionTensors, NormTensors, Tensors
from tiler.plan import Plan


def random_tensors(network: Network, seed: int = 0) -> Tensors:
    """Weights that keep the size of values from layer to layer, so that all layers matter in the output."""
    random = np.random.default_rng(seed)
    tensors = []
    for _, _, convolution in convolutions(network.layers):
        spread = np.sqrt(1 / (convolution.kernel**2 * convolution.n_in))
        kernel = random.normal(0, spread, (convolution.kernel,) * 2 + (convolution.n_in, convolution.n_out))

        def vector(mean, n_out=convolution.n_out):
            return random.normal(mean, 0.2, n_out).astype(np.float32)

        bias = vector(0) if convolution.bias else None
        norm = NormTensors(vector(1), vector(0)) if convolution.norm_groups else None
        tensors.append(ConvolutionTensors(kernel.astype(np.float32), bias, norm))
    return tuple(tensors)


def run_serially(plan: Plan, model: Callable, source: np.ndarray) -> np.ndarray:
    """What the engine and its schedule amount to, in three lines and without either."""
    output = None
    for tile in plan.tiles():
        pixels = model(source[tile.read.slices], tile.borders, tile.crop.slices, tile.origin)
        output = np.empty(plan.output_shape, pixels.dtype) if output is None else output
        output[tile.write.slices] = pixels
    return output


class RepeatModel:
    """A stand-in decoder: each latent becomes 8 × 8 pixels, with the contract and the halo of the real one."""

    halo, scale = 19, 8

    def __call__(self, window, borders, crop=..., origin=None):
        rows, columns = (slice(None if low else self.halo, None if high else -self.halo) for low, high in borders)
        bytes_ = np.clip(window[rows, columns, :3] * 42 + 127, 0, 255).astype(np.uint8)
        return bytes_.repeat(self.scale, 0).repeat(self.scale, 1)[crop]


@pytest.fixture
def latents():
    """Make latents of a size, smooth as a picture's are, and the same every time."""

    def make(height: int, width: int, channels: int = 4, seed: int = 0) -> np.ndarray:
        random = np.random.default_rng(seed)
        coarse = random.normal(size=(height // 4 + 2, width // 4 + 2, channels))
        smooth = coarse.repeat(4, 0).repeat(4, 1)[:height, :width]
        return (0.4 * smooth + 0.15 * random.normal(size=(height, width, channels))).astype(np.float32)

    return make
