"""The plain whole-image model, as everyone builds it: "same" convolutions, upsampling by repetition.

The reference that the exact model is tested against, and a graph to count operations in. It shares the layer table
with the exact model and nothing else.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from taesd_core.layers import EPSILON, Block, Clamp, Convolution, Layers, Pool, Relu, Upsample
from taesd_core.tensors import NormTensors, Tensors

Statistics = tuple[Any, Any]
"""Mean and variance of each group of channels that a group norm sees."""


def build_whole_image_model(
    layers: Layers,
    tensors: Tensors | None = None,
    statistics: Sequence[Statistics] | None = None,
    relu: Callable[[], keras.layers.Layer] = keras.layers.ReLU,
) -> keras.Model:
    """Return a Keras functional model (batch, height, width, channels) -> (batch, height', width', channels').

    Args:
        layers: the network.
        tensors: its weights, in order of execution; without them the weights are Keras' random ones.
        statistics: for each group norm those of the whole image, so that the model may run on a part of it; without
            them a norm takes its own from what the model is given.
        relu: makes the layers that stand for ReLUs.
    """
    given = iter(statistics) if statistics is not None else None
    n_in = next(layer.n_in for layer in layers if isinstance(layer, Convolution))
    x = inputs = keras.Input((None, None, n_in))
    for layer in layers:
        if isinstance(layer, Clamp):
            x = keras.layers.Activation("tanh")(x / 3) * 3
        elif isinstance(layer, Relu):
            x = relu()(x)
        elif isinstance(layer, Upsample):
            x = keras.layers.UpSampling2D(2, interpolation="nearest")(x)
        elif isinstance(layer, Block):
            if layer.pool is not None:
                x = keras.layers.Add()([x, _pool(layer.pool, x, None if given is None else next(given), relu)])
            skip = x
            for number, convolution in enumerate(layer.convolutions):
                x = _convolve(convolution, x)
                if number < len(layer.convolutions) - 1:
                    x = relu()(x)
            x = relu()(keras.layers.Add()([x, skip]))
        elif isinstance(layer, Convolution):
            x = _convolve(layer, x)
    model = keras.Model(inputs, x)
    if tensors is not None:
        found = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
        for layer, each in zip(found, tensors, strict=True):
            layer.set_weights([each.kernel] if each.bias is None else [each.kernel, each.bias])
        norms = [layer for layer in model.layers if isinstance(layer, GroupNorm)]
        for layer, norm in zip(norms, [each.norm for each in tensors if each.norm is not None], strict=True):
            layer.set_weights(list(norm))
    return model


class KeepingRelu(keras.layers.Layer):
    """A ReLU that makes NaN or Inf of -Inf and NaN: what has overflowed shows in the model's output."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make a zero that no compiler knows to be one."""
        self.zero = self.add_weight(shape=(), initializer="zeros", trainable=False, name="zero")

    def call(self, x: Any) -> Any:
        """Return ``max(x, 0 x)``: of what is not finite neither is, whatever the maximum makes of NaN."""
        return ops.maximum(x, x * self.zero)


class GroupNorm(keras.layers.Layer):
    """A group norm, with given statistics or those of what it sees.

    Keras' own adds up hundreds of thousands of float32 in one row, and is farther off than this model's users bear.
    """

    def __init__(self, groups: int, statistics: Statistics | None) -> None:
        super().__init__()
        self.groups, self.statistics = groups, statistics

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make the weights: the factor and the offset of each channel."""
        self.gamma, self.beta = (self.add_weight(shape=shape[-1:], name=name) for name in NormTensors._fields)

    def call(self, x: Any) -> Any:
        """Return the normalised values."""
        height, width, channels = ops.shape(x)[1:]
        grouped = ops.reshape(x, (-1, height, width, self.groups, channels // self.groups))
        if self.statistics is None:
            mean = _mean_of_groups(grouped)
            variance = _mean_of_groups(ops.square(grouped - mean))
        else:
            mean, variance = (ops.reshape(ops.cast(each, x.dtype), (1, 1, 1, -1, 1)) for each in self.statistics)
        normalised = (grouped - mean) / ops.sqrt(variance + EPSILON)
        return ops.reshape(normalised, ops.shape(x)) * self.gamma + self.beta


def _mean_of_groups(x: Any) -> Any:
    # One axis after another: short sums.
    for axis in (4, 2, 1):
        x = ops.mean(x, axis, keepdims=True)
    return x


def _pool(pool: Pool, x: Any, statistics: Statistics | None, relu: Callable[[], keras.layers.Layer]) -> Any:
    before, behind = pool.convolutions
    x = GroupNorm(pool.groups, statistics)(_convolve(before, x))
    return _convolve(behind, relu()(x))


def _convolve(convolution: Convolution, x: Any) -> Any:
    if convolution.stride == 2:
        # Keras' own "same" puts the zeros behind, this network's convolutions have them in front as well.
        x = keras.layers.ZeroPadding2D(1)(x)
    return keras.layers.Conv2D(
        convolution.n_out,
        convolution.kernel,
        strides=convolution.stride,
        padding="valid" if convolution.stride == 2 else "same",
        use_bias=convolution.bias,
    )(x)
