"""Ways to run a decoder or an encoder, each as a setup for a worker: load, and return the call that is timed.

Every call of a decoder starts with the float32 latents in an array and ends with the (height, width, 3) uint8 pixels in
another, on the host; of an encoder, with float32 pixels and float32 latents. None compresses or writes.
"""

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from measure import available_cores
from taesd_core.checkpoint import Checkpoint, load_checkpoint
from taesd_core.variants import find_weights
from tiler.model import Ends, Network
from tiler.window import Window

Part = Literal["decoder", "encoder"]
Run = Callable[..., NDArray[Any]]
OUTPUTS = {"decoder": "uint8", "encoder": "float32"}
"""What a call gives."""


class ArraySink:
    """Keeps the pixels in an array."""

    reads_back = False

    def __init__(self, shape: tuple[int, int, int], dtype: str) -> None:
        self.levels = [shape[:2]]
        self.array = np.empty(shape, dtype)

    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> None:
        """Put ``pixels`` at ``window``."""
        self.array[window.slices] = pixels


class NullSink:
    """Drops the pixels."""

    reads_back = False

    def __init__(self, levels: list[tuple[int, int]]) -> None:
        self.levels = levels

    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> None:
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


def load_part(weights: str, part: Part = "decoder") -> Checkpoint:
    """Return the decoder or the encoder of weights given by name or file."""
    return load_checkpoint(find_weights(weights, part), part)


def save_picture(path: Path, height: int, width: int) -> None:
    """Write a drawn landscape as pixels."""
    landscape = _draw(height, width)
    np.save(path, np.rint(landscape.read(Window.whole(height, width)) * 255).astype(np.uint8))


def save_demo_latents(path: Path, height: int, width: int) -> None:
    """Write the latents of a drawn landscape, encoded with this project's own weights; run it apart."""
    from tiler import encode

    encode(_draw(height, width), path, weights="photo", engine="kernels")


def _draw(height: int, width: int) -> Any:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from landscape import Landscape

    return Landscape(height, width)


def find_flop_per_px(weights: str, part: Part = "decoder") -> float:
    """Return the operations of the plain whole-image model, a pixel."""
    network = load_part(weights, part).network
    scale = max(network.scale_in, network.scale_out)
    return 2 * network.macs_of_whole(1, 1) / scale**2


def read_input(path: Path, checkpoint: Checkpoint) -> NDArray[np.float32]:
    """Return the latents or the picture of a file as (height, width, channels) float32."""
    from tiler.sources.opening import open_latents

    if checkpoint.part == "encoder":
        return np.load(path).astype(np.float32) / 255
    source = open_latents(path, checkpoint.network.channels_in)
    return source.read(Window.whole(*source.shape[:2]))


def run_in_float64(path: Path, weights: str, part: Part = "decoder") -> NDArray[np.float64]:
    """Return the values of the whole image as NumPy's float64 has them: what all errors are against."""
    from taesd_core.layers import Block, Clamp, Convolution, Upsample

    checkpoint = load_part(weights, part)
    tensors = iter(checkpoint.tensors)
    x = read_input(path, checkpoint).astype(np.float64)

    def convolve(x: NDArray[np.float64], stride: int = 1) -> NDArray[np.float64]:
        kernel, bias, *_ = next(tensors)
        side = kernel.shape[0]
        padded = np.pad(x, [(side // 2, side // 2)] * 2 + [(0, 0)])
        height, width = (-(-length // stride) for length in x.shape[:2])
        total = np.zeros((height, width, kernel.shape[3]))
        # Row by row: a product of whole maps would copy them.
        for row, out in enumerate(total):
            for down, along in np.ndindex(side, side):
                out += (
                    padded[row * stride + down, along : along + stride * (width - 1) + 1 : stride] @ kernel[down, along]
                )
        return total if bias is None else np.add(total, bias, out=total)

    for layer in checkpoint.network.layers:
        if isinstance(layer, Clamp):
            x = np.tanh(x / 3) * 3
        elif isinstance(layer, Upsample):
            x = x.repeat(2, 0).repeat(2, 1)
        elif isinstance(layer, Convolution):
            x = convolve(x, layer.stride)
        elif isinstance(layer, Block):
            assert layer.pool is None, "No group norms here."
            inner = x
            for number in range(len(layer.convolutions)):
                inner = convolve(inner if number == 0 else np.maximum(inner, 0, out=inner))
            x = np.maximum(inner + x, 0)
        else:
            x = np.maximum(x, 0)
    return x


def set_up_tiler(
    path: Path,
    weights: str,
    part: Part = "decoder",
    engine: str | None = "kernels",
    tile_px: int | None = None,
    dtype: str = "float32",
    output: str | None = None,
) -> Run:
    """Run the engine: plan, schedule, model, and an array as the sink.

    Without ``engine`` it is Keras in a version that has no other, and knows no such option.
    """
    from tiler.jobs.engine import run_tile
    from tiler.jobs.schedule import run_plan
    from tiler.jobs.statistics import prepare_model
    from tiler.planning import plan_decode, plan_encode
    from tiler.sources.array_source import ArraySource
    from tiler.sources.opening import open_image

    checkpoint = load_part(weights, part)
    network = checkpoint.network
    output = output or OUTPUTS[part]
    options: dict[str, Any] = {} if tile_px is None else {"tile_size_px": tile_px}
    options |= {} if engine is None else {"engine": engine}
    if engine == "kernels":
        from taesd_core.kernels.model import KernelModel

        loaded: Any = KernelModel(network, checkpoint.tensors, output=output)
    else:
        from taesd_core.window_model import WindowModel

        loaded = WindowModel(network, checkpoint.tensors, output=output, dtype=dtype)  # type: ignore[arg-type]
    x = read_input(path, checkpoint)
    if part == "decoder":
        source: Any = ArraySource(x, network.channels_in)
        plan = plan_decode(source, channels=network.channels_in, **options)
    else:
        source = open_image(x)
        plan = plan_encode(source, channels=network.channels_out, **options)
    model = prepare_model(loaded, plan, source)

    def run() -> NDArray[Any]:
        sink = ArraySink(plan.output_shape, output)
        run_plan(plan, lambda tile: run_tile(tile, source, model), sink, workers=max(2, len(available_cores())))
        return sink.array

    return run


def set_up_tiles(weights: str, precision: str = "float32", engine: str = "kernels") -> Callable[[int], NDArray[Any]]:
    """Decode one window that touches no border, given the side of its tile in px, with the model alone."""
    from taesd_core.engines import load_engine

    checkpoint = load_part(weights)
    network = checkpoint.network
    model = load_engine(engine, checkpoint, output="uint8", precision=precision)  # type: ignore[arg-type]

    @cache
    def make_window(size_px: int) -> NDArray[np.float32]:
        side = size_px // network.scale_out + 2 * network.halo
        return np.random.default_rng(0).normal(0, 1, (side, side, network.channels_in)).astype(np.float32)

    def decode(size_px: int) -> NDArray[Any]:
        inside = (False, False)
        pixels = model(make_window(size_px), (inside, inside))
        assert pixels.shape[:2] == (size_px, size_px), pixels.shape
        return pixels

    return decode


def set_up_keras(path: Path, weights: str, part: Part = "decoder", output: str | None = None) -> Run:
    """Run the whole image at once with the plain Keras model, as one compiled function."""
    import tensorflow as tf

    from taesd_core.whole_image import build_whole_image_model

    checkpoint = load_part(weights, part)
    output = output or OUTPUTS[part]
    model = build_whole_image_model(checkpoint.network.layers, checkpoint.tensors)
    inputs = read_input(path, checkpoint)[None]

    @tf.function
    def run(x: Any) -> Any:
        pixels = model(x, training=False)[0]
        if output == "float32":
            return pixels
        return tf.cast(tf.round(tf.clip_by_value(pixels, 0.0, 1.0) * 255.0), tf.uint8)

    return lambda: run(tf.constant(inputs)).numpy()


def set_up_eager_keras(path: Path, weights: str, part: Part = "decoder") -> Run:
    """Decode the whole image at once as ports of TAESD to TensorFlow do.

    Their layers are those of the PyTorch original: zeros are a layer of their own, an upsampling stacks what it
    repeats; and people call such a model as it is.
    """
    import keras
    from keras import layers, ops

    from taesd_core.layers import Block, Clamp, Convolution, Upsample

    assert part == "decoder", "The port's encoder is not among these ways."
    checkpoint = load_part(weights)
    latents = read_input(path, checkpoint)[None]
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


def set_up_diffusers(path: Path, weights: str, part: Part = "decoder", **options: Any) -> Run:
    """Run diffusers' AutoencoderTiny; for the options see ``set_up_autoencoder``."""
    run = set_up_autoencoder(weights, part, **options)
    inputs = read_input(path, load_part(weights, part))
    return lambda: run(inputs)


def set_up_autoencoder(
    weights: str,
    part: Part = "decoder",
    *,
    tiled: bool = False,
    compiled: bool = False,
    channels_last: bool = False,
    dtype: str = "float32",
    device: str = "cpu",
) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    """Return diffusers' way from (height, width, channels) to the same; ``tiled`` is its ``enable_tiling()``."""
    import torch

    torch.set_num_threads(len(available_cores()))
    # As ours: a float32 product is one of float32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    autoencoder = load_autoencoder(weights, part).to(device, getattr(torch, dtype))
    if channels_last:
        autoencoder.to(memory_format=torch.channels_last)
    if tiled:
        autoencoder.enable_tiling()
    if compiled:
        setattr(autoencoder, part, torch.compile(getattr(autoencoder, part)))

    @torch.inference_mode()
    def run(inputs: NDArray[np.float32]) -> NDArray[Any]:
        x = torch.from_numpy(inputs).to(device, autoencoder.dtype).permute(2, 0, 1)[None]
        x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        if part == "encoder":
            out = autoencoder.encode(x * 2 - 1).latents[0].float()
        else:
            out = autoencoder.decode(x).sample[0].float()
            out = out.mul(127.5).add(127.5).clamp(0, 255).round().to(torch.uint8)
        # The copy to the host comes last and waits for the device.
        return out.permute(1, 2, 0).contiguous().cpu().numpy()

    return run


def load_autoencoder(weights: str, part: Part = "decoder") -> Any:
    """Return diffusers' autoencoder with these weights in one of its parts."""
    import torch
    from diffusers import AutoencoderTiny

    checkpoint = load_part(weights, part)
    network = checkpoint.network
    channels = network.channels_in if part == "decoder" else network.channels_out
    autoencoder = AutoencoderTiny(latent_channels=channels).eval()
    found = [module for module in getattr(autoencoder, part).modules() if isinstance(module, torch.nn.Conv2d)]
    with torch.no_grad():
        for module, tensors in zip(found, checkpoint.tensors, strict=True):
            module.weight.copy_(torch.from_numpy(tensors.kernel.transpose(3, 2, 0, 1).copy()))
            if tensors.bias is not None:
                module.bias.copy_(torch.from_numpy(tensors.bias))
    return autoencoder


def set_up_onnxruntime(path: Path, weights: str, part: Part = "decoder") -> Run:
    """Run the whole image at once with ONNX Runtime."""
    import onnxruntime

    checkpoint, planes = _read_planes(path, weights, part)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(available_cores())
    session = onnxruntime.InferenceSession(
        build_onnx(checkpoint, planes.shape), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda: _to_rows(session.run(None, {name: planes})[0][0], part)


def set_up_openvino(path: Path, weights: str, part: Part = "decoder") -> Run:
    """Run the whole image at once with OpenVINO."""
    os.environ.setdefault("OPENVINO_TELEMETRY_DISABLE", "1")
    import openvino

    checkpoint, planes = _read_planes(path, weights, part)
    core = openvino.Core()
    model = core.read_model(build_onnx(checkpoint, planes.shape))
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": len(available_cores()),
        # Its own default is bfloat16 where the processor has it.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda: _to_rows(request.infer([planes])[0][0].copy(), part)


def build_onnx(checkpoint: Checkpoint, shape: tuple[int, ...]) -> bytes:
    """Return the plain whole-image model as an ONNX model from (1, channels, h, w); a decoder gives rows of bytes."""
    from taesd_core.onnx_model import build_onnx_model

    output: Any = OUTPUTS[checkpoint.part]
    return build_onnx_model(checkpoint, output=output, size=(shape[2], shape[3])).SerializeToString()


def _read_planes(path: Path, weights: str, part: Part) -> tuple[Checkpoint, NDArray[np.float32]]:
    checkpoint = load_part(weights, part)
    return checkpoint, np.ascontiguousarray(read_input(path, checkpoint).transpose(2, 0, 1)[None])


def _to_rows(out: NDArray[Any], part: Part) -> NDArray[Any]:
    return out if part == "decoder" else np.ascontiguousarray(out.transpose(1, 2, 0))
