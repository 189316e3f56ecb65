"""Ways to decode a latent, each as a setup for a worker: load, and return the call that is timed.

Every call starts with the float32 latents in an array and ends with the (height, width, 3) uint8 pixels in another,
on the host. None compresses or writes.
"""

import os
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from measure import Worker, available_cores
from taesd_core.checkpoint import Checkpoint, load_checkpoint
from taesd_core.variants import find_weights
from tiler.formats.sink import Sink
from tiler.model import Ends, Network
from tiler.window import Window

Decode = Callable[..., NDArray[Any]]


class ArraySink(Sink):
    """Keeps the pixels in an array."""

    def __init__(self, shape: tuple[int, int, int], dtype: str) -> None:
        self.levels = [shape[:2]]
        self.array = np.empty(shape, dtype)

    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> None:
        """Put ``pixels`` at ``window``."""
        self.array[window.slices] = pixels

    def close(self) -> None:
        """Do nothing."""


class NullSink(Sink):
    """Drops the pixels."""

    def __init__(self, levels: list[tuple[int, int]]) -> None:
        self.levels = levels

    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class RepeatDecoder:
    """A stand-in with the contract of the real decoder: each latent becomes its pixels, repeated; it costs nothing."""

    def __init__(self, network: Network) -> None:
        self.halo, self.scale = network.halo, network.scale_out

    def __call__(
        self, window: NDArray[np.float32], borders: tuple[Ends, Ends], crop: Any = ..., origin: Any = None
    ) -> NDArray[np.uint8]:
        """Return what the window determines."""
        rows, columns = (slice(None if low else self.halo, None if high else -self.halo) for low, high in borders)
        pixels = np.clip(window[rows, columns, :3] * 42 + 127, 0, 255).astype(np.uint8)
        return pixels.repeat(self.scale, 0).repeat(self.scale, 1)[crop]


def load_decoder(weights: str) -> Checkpoint:
    """Return the decoder of weights given by name or file."""
    return load_checkpoint(find_weights(weights, "decoder"), "decoder")


def save_demo_latents(path: Path, height: int, width: int) -> None:
    """Write the latents of the demo's picture, encoded with this project's own weights; run it apart."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from landscape import Landscape
    from tiler import encode

    encode(Landscape(height, width), path, weights="photo")


def find_flop_per_px(weights: str) -> float:
    """Return the operations of the plain whole-image decoder, a pixel."""
    network = load_decoder(weights).network
    return 2 * network.macs_of_whole(1, 1) / network.scale_out**2


def decode_apart(set_up: Callable[..., Decode], *arguments: Any, cores: Iterable[int] | None = None) -> NDArray[Any]:
    """Return the pixels of one decode in a process that ends with it."""
    with Worker(set_up, *arguments, cores=cores) as worker:
        worker.run()
        return worker.result()


def read_latents(path: Path, channels: int) -> NDArray[np.float32]:
    """Return the latents of a file as (height, width, channels) float32."""
    from tiler.sources.opening import open_latents

    source = open_latents(path, channels)
    return source.read(Window.whole(*source.shape[:2]))


def set_up_tiler(
    path: Path, weights: str, tile_px: int | None = None, dtype: str = "float32", output: str = "uint8"
) -> Decode:
    """Decode with the engine: plan, schedule, model, and an array as the sink."""
    from taesd_core.window_model import WindowModel
    from tiler.jobs.engine import run_tile
    from tiler.jobs.schedule import run_plan
    from tiler.jobs.statistics import prepare_model
    from tiler.planning import plan_decode
    from tiler.sources.array_source import ArraySource

    checkpoint = load_decoder(weights)
    channels = checkpoint.network.channels_in
    loaded = WindowModel(checkpoint.network, checkpoint.tensors, output=output, dtype=dtype)  # type: ignore[arg-type]
    source = ArraySource(read_latents(path, channels), channels)
    size = {} if tile_px is None else {"tile_size_px": tile_px}
    plan = plan_decode(source, channels=channels, **size)
    model = prepare_model(loaded, plan, source)

    def decode() -> NDArray[Any]:
        sink = ArraySink(plan.output_shape, output)
        run_plan(plan, lambda tile: run_tile(tile, source, model), sink, workers=max(2, len(available_cores())))
        return sink.array

    return decode


def set_up_tiles(weights: str, precision: str = "float32") -> Callable[[int], NDArray[np.uint8]]:
    """Decode one window that touches no border, given the side of its tile in px, with the model alone."""
    from taesd_core.window_model import WindowModel

    checkpoint = load_decoder(weights)
    network = checkpoint.network
    model = WindowModel(network, checkpoint.tensors, output="uint8", dtype=precision)

    @cache
    def make_window(size_px: int) -> NDArray[np.float32]:
        side = size_px // network.scale_out + 2 * network.halo
        return np.random.default_rng(0).normal(0, 1, (side, side, network.channels_in)).astype(np.float32)

    def decode(size_px: int) -> NDArray[np.uint8]:
        inside = (False, False)
        pixels = model(make_window(size_px), (inside, inside))
        assert pixels.shape[:2] == (size_px, size_px), pixels.shape
        return pixels

    return decode


def set_up_keras(path: Path, weights: str, output: str = "uint8") -> Decode:
    """Decode the whole image at once with the plain Keras model, as one compiled function."""
    import tensorflow as tf

    from taesd_core.whole_image import build_whole_image_model

    checkpoint = load_decoder(weights)
    model = build_whole_image_model(checkpoint.network.layers, checkpoint.tensors)
    latents = read_latents(path, checkpoint.network.channels_in)[None]

    @tf.function
    def run(x: Any) -> Any:
        pixels = model(x, training=False)[0]
        if output == "float32":
            return pixels
        return tf.cast(tf.round(tf.clip_by_value(pixels, 0.0, 1.0) * 255.0), tf.uint8)

    return lambda: run(tf.constant(latents)).numpy()


def set_up_eager_keras(path: Path, weights: str) -> Decode:
    """Decode the whole image at once as ports of TAESD to TensorFlow do.

    Their layers are those of the PyTorch original: zeros are a layer of their own, an upsampling stacks what it
    repeats; and people call such a model as it is.
    """
    import keras
    from keras import layers, ops

    from taesd_core.layers import Block, Clamp, Convolution, Upsample

    checkpoint = load_decoder(weights)
    latents = read_latents(path, checkpoint.network.channels_in)[None]
    tensors = iter(checkpoint.tensors)

    def convolve(x: Any, convolution: Convolution) -> Any:
        layer = layers.Conv2D(convolution.n_out, convolution.kernel, use_bias=convolution.bias)
        x = layer(layers.ZeroPadding2D(convolution.margin)(x))
        kernel, bias, *_ = next(tensors)
        layer.set_weights([kernel] if bias is None else [kernel, bias])
        return x

    def repeat(x: Any) -> Any:
        _, height, width, channels = x.shape
        x = ops.stack([x] * 2, axis=3)
        return ops.reshape(ops.stack([x] * 2, axis=2), (-1, 2 * height, 2 * width, channels))

    x = inputs = keras.Input(latents.shape[1:])
    for each in checkpoint.network.layers:
        if isinstance(each, Clamp):
            x = layers.Lambda(lambda x: ops.tanh(x / 3) * 3)(x)
        elif isinstance(each, Upsample):
            x = layers.Lambda(repeat)(x)
        elif isinstance(each, Convolution):
            x = convolve(x, each)
        elif isinstance(each, Block):
            # A model of its own, or Keras keeps the maps inside until the end.
            inner = skip = keras.Input(x.shape[1:])
            for number, convolution in enumerate(each.convolutions):
                inner = convolve(inner if number == 0 else layers.ReLU()(inner), convolution)
            x = keras.Model(skip, layers.ReLU()(layers.Add()([inner, skip])))(x)
        else:
            x = layers.ReLU()(x)
    model = keras.Model(inputs, x)
    return lambda: np.rint(np.clip(model(latents)[0].numpy(), 0, 1) * 255).astype(np.uint8)


def set_up_diffusers(path: Path, weights: str, **options: Any) -> Decode:
    """Decode with diffusers' AutoencoderTiny; for the options see ``set_up_autoencoder``."""
    decode = set_up_autoencoder(weights, **options)
    latents = read_latents(path, load_decoder(weights).network.channels_in)
    return lambda: decode(latents)


def set_up_autoencoder(
    weights: str,
    *,
    tiled: bool = False,
    compiled: bool = False,
    channels_last: bool = False,
    dtype: str = "float32",
    device: str = "cpu",
) -> Callable[[NDArray[np.float32]], NDArray[np.uint8]]:
    """Return diffusers' decode of (height, width, channels) latents; ``tiled`` is its ``enable_tiling()``."""
    import torch

    torch.set_num_threads(len(available_cores()))
    # As ours: a float32 product is one of float32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    autoencoder = load_autoencoder(weights).to(device, getattr(torch, dtype))
    if channels_last:
        autoencoder.to(memory_format=torch.channels_last)
    if tiled:
        autoencoder.enable_tiling()
    if compiled:
        autoencoder.decoder = torch.compile(autoencoder.decoder)

    @torch.inference_mode()
    def decode(latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        x = torch.from_numpy(latents).to(device, autoencoder.dtype).permute(2, 0, 1)[None]
        x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        pixels = autoencoder.decode(x).sample[0].float()
        pixels = pixels.mul(127.5).add(127.5).clamp(0, 255).round().to(torch.uint8)
        # The copy to the host comes last and waits for the device.
        return pixels.permute(1, 2, 0).contiguous().cpu().numpy()

    return decode


def load_autoencoder(weights: str) -> Any:
    """Return diffusers' autoencoder with these weights in its decoder."""
    import torch
    from diffusers import AutoencoderTiny

    checkpoint = load_decoder(weights)
    autoencoder = AutoencoderTiny(latent_channels=checkpoint.network.channels_in).eval()
    found = [module for module in autoencoder.decoder.modules() if isinstance(module, torch.nn.Conv2d)]
    with torch.no_grad():
        for module, tensors in zip(found, checkpoint.tensors, strict=True):
            module.weight.copy_(torch.from_numpy(tensors.kernel.transpose(3, 2, 0, 1).copy()))
            if tensors.bias is not None:
                module.bias.copy_(torch.from_numpy(tensors.bias))
    return autoencoder


def set_up_onnxruntime(path: Path, weights: str) -> Decode:
    """Decode the whole image at once with ONNX Runtime."""
    import onnxruntime

    latents = _read_planes(path, weights)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(available_cores())
    session = onnxruntime.InferenceSession(
        build_onnx(weights, latents.shape), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"latents": latents})[0][0]


def set_up_openvino(path: Path, weights: str) -> Decode:
    """Decode the whole image at once with OpenVINO."""
    os.environ.setdefault("OPENVINO_TELEMETRY_DISABLE", "1")
    import openvino

    latents = _read_planes(path, weights)
    core = openvino.Core()
    model = core.read_model(build_onnx(weights, latents.shape))
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": len(available_cores()),
        # Its own default is bfloat16 where the processor has it.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda: request.infer([latents])[0][0].copy()


def build_onnx(weights: str, shape: tuple[int, ...]) -> bytes:
    """Return the plain whole-image decoder as an ONNX model from (1, channels, h, w) to (1, 8h, 8w, 3) uint8."""
    from taesd_core.onnx_model import build_onnx_model

    return build_onnx_model(load_decoder(weights), output="uint8", size=(shape[2], shape[3])).SerializeToString()


def _read_planes(path: Path, weights: str) -> NDArray[np.float32]:
    latents = read_latents(path, load_decoder(weights).network.channels_in)
    return np.ascontiguousarray(latents.transpose(2, 0, 1)[None])
