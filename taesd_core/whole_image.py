"""The plain whole-image model, as everyone builds it: "same" convolutions, upsampling by repetition.

The reference that the exact model is tested against, and a graph to count operations in. It shares the layer table
with the exact model and nothing else.
"""

from typing import Any

import keras

from taesd_core.layers import Block, Clamp, Convolution, Layers, Relu, Upsample
from taesd_core.tensors import Tensors


def build_whole_image_model(layers: Layers, tensors: Tensors | None = None) -> keras.Model:
    """Return a Keras functional model (batch, height, width, channels) -> (batch, height', width', channels').

    Args:
        layers: the network.
        tensors: its weights, in order of execution; without them the weights are Keras' random ones.
    """
    n_in = next(layer.n_in for layer in layers if isinstance(layer, Convolution))
    x = inputs = keras.Input((None, None, n_in))
    for layer in layers:
        if isinstance(layer, Clamp):
            x = keras.layers.Activation("tanh")(x / 3) * 3
        elif isinstance(layer, Relu):
            x = keras.layers.ReLU()(x)
        elif isinstance(layer, Upsample):
            x = keras.layers.UpSampling2D(2, interpolation="nearest")(x)
        elif isinstance(layer, Block):
            skip = x
            for number, convolution in enumerate(layer.convolutions):
                x = _convolve(convolution, x)
                if number < len(layer.convolutions) - 1:
                    x = keras.layers.ReLU()(x)
            x = keras.layers.ReLU()(keras.layers.Add()([x, skip]))
        else:
            x = _convolve(layer, x)
    model = keras.Model(inputs, x)
    if tensors is not None:
        found = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
        for layer, each in zip(found, tensors, strict=True):
            layer.set_weights([each.kernel] if each.bias is None else [each.kernel, each.bias])
    return model


def _convolve(convolution: Convolution, x: Any) -> Any:
    if convolution.stride == 2:
        # Keras' own "same" puts the zeros behind, this network's convolutions have them in front as well.
        x = keras.layers.ZeroPadding2D(1)(x)
    return keras.layers.Conv2D(
        convolution.n_out,
        3,
        strides=convolution.stride,
        padding="valid" if convolution.stride == 2 else "same",
        use_bias=convolution.bias,
    )(x)
