"""The plain whole-image model of Keras' own layers alone, to be saved for those who do not have this package."""

from typing import Any

import keras

from taesd_core.checkpoint import Checkpoint
from taesd_core.layers import EPSILON
from taesd_core.whole_image import GroupNorm, build_whole_image_model


def build_portable_model(checkpoint: Checkpoint) -> keras.Model:
    """Return a part of an autoencoder as a Keras functional model (batch, height, width, channels).

    Keras' own group norm sums float32 in one row, so a large image of FLUX.2 comes out less exactly than ours.
    """

    def translate(layer: Any) -> Any:
        if isinstance(layer, GroupNorm):
            return keras.layers.GroupNormalization(layer.groups, epsilon=EPSILON, name=layer.name)
        return type(layer).from_config(layer.get_config())

    model = build_whole_image_model(checkpoint.network.layers, checkpoint.tensors)
    portable = keras.models.clone_model(model, clone_function=translate)
    portable.set_weights(model.get_weights())
    return portable
