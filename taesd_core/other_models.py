"""Files of other models that people take for TAESD's weights, told by the names and shapes of their tensors.

Asked only about files that do not hold what was wanted, so that a name here never costs a good file.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from taesd_core.tensor_file import Shape, show

_TAKE = "TAESD is a network of its own and no part of it: name TAESD's file for the same latents (tiler weights list)"
_IMAGES = "This version takes autoencoders of images (tiler weights list)"


class OtherModel(NamedTuple):
    """A kind of model."""

    words: str
    """What it is."""
    advice: str
    """What to do instead."""
    pattern: str
    """What one of its tensors is called, at the start of the name or behind a dot."""
    twice: bool = False
    """Whether this tensor is a kernel that takes twice as many channels as it gives."""


_MODELS = (
    OtherModel(
        "a LoRA, which changes another model and is none by itself",
        "Name TAESD's file for the model that it changes (tiler weights list)",
        r"\w*lora|lycoris_|hada_w|lokr_w|oft_",
    ),
    OtherModel(
        "a whole checkpoint, of a diffusion model and its large autoencoder",
        _TAKE,
        r"model\.diffusion_model\.|first_stage_model\.|cond_stage_model\.|conditioner\.|text_encoders\.",
    ),
    OtherModel("a ControlNet", _TAKE, r"control_model\.|controlnet_"),
    OtherModel("a text encoder", _TAKE, r"text_model\.|encoder\.block\.0\.layer\.|token_embedding\."),
    OtherModel(
        "a large autoencoder (AutoencoderKL or the like)",
        _TAKE,
        r"(en|de)coder\.(conv_in|conv_out|conv1|mid|middle|up|down|(mid|up|down)_block|norm_out|project_|stages\.)|"
        r"(post_)?quant_conv\.",
    ),
    OtherModel(
        "a diffusion model",
        _TAKE,
        r"time_embed|(single_)?transformer_blocks\.|(double|joint|input|down)_blocks\.\d+\.",
    ),
    OtherModel(
        "a video autoencoder (TAEHV)",
        _IMAGES,
        r"(en|de)coder\.\d+\.conv\.weight$",
    ),
    OtherModel(
        "a video autoencoder (TAEHV)",
        _IMAGES,
        r"\d+\.conv\.0\.weight$",
        twice=True,
    ),
    OtherModel("the coarse previews of vae_approx, not TAESD", "Name taesd_decoder.pth or the like", r"conv8\.weight$"),
)


def find_other_model(shapes: Mapping[str, Shape]) -> tuple[OtherModel, str] | None:
    """Return what a file with these tensors holds, and the name that tells it; None if it is not known here."""
    for model in _MODELS:
        pattern = re.compile(rf"(?:^|.*?\.)(?:{model.pattern})")
        for name, shape in shapes.items():
            if pattern.match(name[:500]) and (not model.twice or (len(shape) == 4 and shape[1] == 2 * shape[0])):
                return model, show(name)
    return None
