"""TAESD and its kin, typed in from their descriptions, as models of PyTorch, Keras 3 and Keras 2, and their files.

Nothing here uses our layer table, our names or our readers.
"""

import numpy as np

BLOCKS = ["block"] * 3
UP = ["up", ("conv", 64, 64, "no bias")]
DOWN = [("conv", 64, 64, "no bias", "stride 2")]
ENDS = [*UP, *BLOCKS, *UP, *BLOCKS, *UP, "block", ("conv", 64, 3)]


def taesd_decoder(channels):
    return ["clamp", ("conv", channels, 64), "relu", *BLOCKS, *ENDS]


def taesd_encoder(channels):
    return [("conv", 3, 64), "block", *DOWN, *BLOCKS, *DOWN, *BLOCKS, *DOWN, *BLOCKS, ("conv", 64, channels)]


NETWORKS = {
    ("taesd", "decoder"): taesd_decoder(4),
    ("taesd", "encoder"): taesd_encoder(4),
    ("taesd3", "decoder"): taesd_decoder(16),
    ("taesd3", "encoder"): taesd_encoder(16),
    ("taef2", "decoder"): ["clamp", ("conv", 32, 64), "relu", *["pool block"] * 3, *ENDS],
    ("taef2", "encoder"): [*taesd_encoder(32)[:-4], *["pool block"] * 3, ("conv", 64, 32)],
    ("taesana", "decoder"): [
        *("clamp", ("conv", 32, 256), "relu", *BLOCKS, "up", ("conv", 256, 128, "no bias")),
        *(*BLOCKS, "up", ("conv", 128, 64, "no bias"), *BLOCKS, *ENDS),
    ],
    ("taesana", "encoder"): [
        *(("conv", 3, 32, "stride 2"), "relu", ("conv", 32, 64, "stride 2"), "relu", "block"),
        *(*DOWN, *BLOCKS, *DOWN, *BLOCKS, *DOWN, *BLOCKS, ("conv", 64, 32)),
    ],
}
"""By variant and part; taesdxl and photo are like taesd, taef1 like taesd3."""


def is_conv(layer):
    return isinstance(layer, tuple)


def block_width(layers, position):
    """Return the width of the block at a position: what the convolution before it gives."""
    return next(layer[2] for layer in reversed(layers[:position]) if is_conv(layer))


# --------------------------------------------------------------------------------------------------- PyTorch


def build_torch(layers, seed=0):
    """Return the network as a torch Sequential, whose state_dict has the published names."""
    import torch
    from torch import nn

    class Clamp(nn.Module):
        def forward(self, x):
            return torch.tanh(x / 3) * 3

    class Block(nn.Module):
        def __init__(self, width, pool):
            super().__init__()
            conv = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
            self.conv = nn.Sequential(conv[0], nn.ReLU(), conv[1], nn.ReLU(), conv[2])
            self.pool = None
            if pool:
                down = nn.Conv2d(width, 4 * width, 1, bias=False)
                up = nn.Conv2d(4 * width, width, 1, bias=False)
                self.pool = nn.Sequential(down, nn.GroupNorm(4, 4 * width), nn.ReLU(), up)

        def forward(self, x):
            if self.pool is not None:
                x = x + self.pool(x)
            return torch.relu(self.conv(x) + x)

    def make(position, layer):
        if is_conv(layer):
            stride = 2 if "stride 2" in layer else 1
            return nn.Conv2d(*layer[1:3], 3, padding=1, bias="no bias" not in layer, stride=stride)
        if layer in ("block", "pool block"):
            return Block(block_width(layers, position), layer == "pool block")
        return {"clamp": Clamp, "relu": nn.ReLU, "up": lambda: nn.Upsample(scale_factor=2)}[layer]()

    model = nn.Sequential(*(make(position, layer) for position, layer in enumerate(layers)))
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, values in model.state_dict().items():
            if values.ndim == 4:
                # Values keep their size from layer to layer, so that all layers matter in the output.
                new = random.normal(0, np.sqrt(1 / np.prod(values.shape[1:])), tuple(values.shape))
            else:
                new = random.normal(float(".pool.1.weight" in name), 0.2, tuple(values.shape))
            values.copy_(torch.from_numpy(new.astype(np.float32)))
    return model.eval()


def run_torch(model, x):
    """Return the output for (height, width, channels)."""
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(x.transpose(2, 0, 1)[None].copy()))[0].numpy().transpose(1, 2, 0)


# ----------------------------------------------------------------------------------------------------- Keras


def build_keras(keras, layers, state):
    """Return the network as a Sequential of keras or tf_keras with the weights of a state_dict."""

    class Block(keras.layers.Layer):
        def __init__(self, width, pool, **options):
            super().__init__(**options)
            make = keras.layers.Conv2D
            self.conv = [make(width, 3, padding="same", activation=each) for each in ("relu", "relu", None)]
            self.pool = []
            if pool:
                self.pool = [
                    make(4 * width, 1, use_bias=False),
                    keras.layers.GroupNormalization(4, epsilon=1e-5),
                    keras.layers.ReLU(),
                    make(width, 1, use_bias=False),
                ]

        def call(self, x):
            y = x
            for each in self.pool:
                y = each(y)
            x = x + y if self.pool else x
            y = x
            for each in self.conv:
                y = each(y)
            return keras.activations.relu(y + x)

    class Clamp(keras.layers.Layer):
        def call(self, x):
            return keras.activations.tanh(x / 3) * 3

    model = keras.Sequential([keras.Input((None, None, next(layer for layer in layers if is_conv(layer))[1]))])
    for position, layer in enumerate(layers):
        if is_conv(layer):
            strides = 2 if "stride 2" in layer else 1
            if strides == 2:
                model.add(keras.layers.ZeroPadding2D(1))
            padding = "valid" if strides == 2 else "same"
            use_bias = "no bias" not in layer
            model.add(keras.layers.Conv2D(layer[2], 3, padding=padding, use_bias=use_bias, strides=strides))
            set_weights(model.layers[-1], state, f"{position}.")
        elif "block" in layer:
            model.add(Block(block_width(layers, position), layer == "pool block"))
            for number, each in enumerate(model.layers[-1].conv):
                set_weights(each, state, f"{position}.conv.{2 * number}.")
            for number, each in enumerate(model.layers[-1].pool):
                set_weights(each, state, f"{position}.pool.{number}.")
        else:
            make = {"clamp": Clamp, "relu": keras.layers.ReLU, "up": keras.layers.UpSampling2D}[layer]
            model.add(make())
    return model


def set_weights(layer, state, prefix):
    values = [state[prefix + name] for name in ("weight", "bias") if prefix + name in state]
    layer.set_weights([each.transpose(2, 3, 1, 0) if each.ndim == 4 else each for each in values])


# ----------------------------------------------------------------------------------------------------- files


def write_upstream(path, part, layers, state):
    from safetensors.numpy import save_file

    save_file(state, path)


def write_torch(path, part, layers, state):
    import torch

    torch.save({name: torch.from_numpy(values) for name, values in state.items()}, path)


def write_old_torch(path, part, layers, state):
    import torch

    tensors = {name: torch.from_numpy(values) for name, values in state.items()}
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def write_diffusers(path, part, layers, state):
    from safetensors.numpy import save_file

    def rename(name):
        position, _, rest = name.partition(".")
        return f"{part}.layers.{int(position) - (part == 'decoder')}.{rest}"

    save_file({rename(name): values for name, values in state.items()}, path)


def write_comfyui(path, part, layers, state):
    from safetensors.numpy import save_file

    tensors = {f"taesd_{part}.{name}": values for name, values in state.items()}
    save_file(tensors | {"vae_scale": np.array(0.18215, np.float32), "vae_shift": np.array(0, np.float32)}, path)


def write_keras_3(path, part, layers, state):
    import keras

    build_keras(keras, layers, state).save_weights(path)


def write_keras_2(path, part, layers, state):
    import tf_keras

    build_keras(tf_keras, layers, state).save_weights(path, save_format="h5")


WRITERS = {
    "upstream": (write_upstream, "weights.safetensors"),
    "upstream .pth": (write_torch, "weights.pth"),
    "upstream old .pth": (write_old_torch, "weights.pt"),
    "diffusers": (write_diffusers, "weights.safetensors"),
    "comfyui": (write_comfyui, "weights.safetensors"),
    "keras-3": (write_keras_3, "model.weights.h5"),
    "keras-2": (write_keras_2, "model.h5"),
}
"""How a file is written, and what it must be called to be written so; the files are read by another name."""


# ---------------------------------------------------------------------------------------------------- NumPy


def convolve_plainly(x, kernel, bias, stride=1):
    """Return the convolution of (height, width, channels) with zeros around, in float64."""
    size = kernel.shape[0]
    x = np.pad(x, ((size // 2,) * 2,) * 2 + ((0, 0),))
    height, width = (-(-(length - size + 1) // stride) for length in x.shape[:2])
    taps = (
        x[a : a + height * stride : stride, b : b + width * stride : stride] @ kernel[a, b].astype(np.float64)
        for a in range(size)
        for b in range(size)
    )
    return sum(taps) + (0 if bias is None else bias)


def run_plainly(layers, tensors, x):
    """Return the output for (height, width, channels) and our tensors in order of execution, in float64 throughout."""
    rest = iter(tensors)

    def convolve(x, stride=1):
        each = next(rest)
        return convolve_plainly(x, each.kernel, each.bias, stride), each.norm

    x = x.astype(np.float64)
    for layer in layers:
        if is_conv(layer):
            x, _ = convolve(x, 2 if "stride 2" in layer else 1)
        elif layer == "clamp":
            x = np.tanh(x / 3) * 3
        elif layer == "relu":
            x = np.maximum(x, 0)
        elif layer == "up":
            x = x.repeat(2, 0).repeat(2, 1)
        else:
            if layer == "pool block":
                wide, norm = convolve(x)
                groups = wide.reshape(*wide.shape[:2], 4, -1)
                mean, variance = (each(groups, axis=(0, 1, 3), keepdims=True) for each in (np.mean, np.var))
                wide = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(wide.shape) * norm.scale + norm.offset
                x = x + convolve(np.maximum(wide, 0))[0]
            y = x
            for number in range(3):
                y = convolve(np.maximum(y, 0) if number else y)[0]
            x = np.maximum(y + x, 0)
    return x
