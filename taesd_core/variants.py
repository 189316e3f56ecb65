"""The published autoencoders that are known by name."""

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from taesd_core.checkpoint import CheckpointError, Part


@dataclass(frozen=True, slots=True)
class Variant:
    """An autoencoder that has a name."""

    name: str
    """What ``--weights`` calls it."""
    channels: int
    """Of its latents."""
    fits: str
    """Whose latents it decodes."""
    packaged: dict[Part, str]
    """The files that come with this package, by part."""


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(
            "photo",
            channels=4,
            fits="only latents made by its own encoder; not Stable Diffusion compatible",
            packaged={"decoder": "photo_decoder.safetensors", "encoder": "photo_encoder.safetensors"},
        ),
    )
}


def find_weights(weights: str | os.PathLike[str], part: Part) -> Path:
    """Return the file of a variant's ``part``, or ``weights`` itself where it is a file.

    A name goes before a file of the same name; ``./photo`` is always the file.

    Raises:
        CheckpointError: there is no such variant and no such file.
    """
    variant = VARIANTS.get(os.fspath(weights))
    if variant is not None:
        return Path(str(files("taesd_core.weights") / variant.packaged[part]))
    path = Path(weights)
    if path.is_file():
        return path
    if path.is_dir():
        raise CheckpointError(f"A folder, not a file of weights: weights={path}. Name a file in it.")
    if path.is_symlink():
        raise CheckpointError(
            f"The weights are a link to nowhere: weights={path}, target={os.readlink(path)}. Mend it."
        )
    raise CheckpointError(
        f"No such weights: weights={path}. Give a .safetensors file (TAESD's {part}, from upstream or diffusers), "
        f"or one of these names: {', '.join(VARIANTS)}."
    )
