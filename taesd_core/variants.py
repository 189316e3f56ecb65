"""The published autoencoders that are known by name, and where their files are looked for.

In this order: what was named, if it is a file; the folder that the environment names; the cache of huggingface_hub;
the hub. What comes from the hub or its cache must have the hash that is written down here.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from taesd_core.checkpoint import CheckpointError, Part
from taesd_core.hub import HubError, HubFile, fetch_file, find_cached

ENVIRONMENT = "TAESD_TILER_WEIGHTS"
"""The variable that names a file of weights, a variant, or a folder of published files."""


class NoWeightsError(CheckpointError):
    """No weights were named, and the environment leaves no choice or more than one."""


@dataclass(frozen=True, slots=True)
class Variant:
    """An autoencoder that has a name."""

    name: str
    """What ``--weights`` calls it."""
    channels: int
    """Of its latents."""
    fits: str
    """Whose latents it decodes."""
    family: str = "taesd"
    """Its network."""
    upscaling: int = 8
    """Image px per latent px."""
    scale: float | None = None
    """Of its latents against those of the large autoencoder: ``(z - shift) * scale``; None where they are the same."""
    shift: float = 0.0
    """See ``scale``."""
    files: dict[Part, HubFile] = field(default_factory=dict)
    """On the hub, by part; both parts can be in one file."""
    others: tuple[HubFile, ...] = ()
    """Other files of it on the hub."""
    packaged: dict[Part, str] = field(default_factory=dict)
    """The files that come with this package, by part."""
    source: str = ""
    """Where its files are, if not on the hub."""


def _both(repository: str, revision: str, name: str, sha256: str) -> dict[Part, HubFile]:
    file = HubFile(repository, revision, name, sha256)
    return {"decoder": file, "encoder": file}


_TAESD = ("madebyollin/taesd", "614f76814bbe30edbe2e627ace1c2234c81a2c0e")
_TAESDXL = ("madebyollin/taesdxl", "b20258aaef75ef61e659c1e0f14f251cf0ad153e")
_DIFFUSERS = "diffusion_pytorch_model.safetensors"

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(
            "taesd",
            channels=4,
            fits="SD1, SD2",
            scale=0.18215,
            files={
                "decoder": HubFile(
                    *_TAESD,
                    "taesd_decoder.safetensors",
                    "f0fb51dd10d41c26612c070fa0b52ea0215a5ff90792134b4971109dd713c019",
                ),
                "encoder": HubFile(
                    *_TAESD,
                    "taesd_encoder.safetensors",
                    "160d90c61c3a5ce50fe2cbe6404b3429f5763772d61b38523cc37e1525b4e19f",
                ),
            },
            others=(HubFile(*_TAESD, _DIFFUSERS, "db169d69145ec4ff064e49d99c95fa05d3eb04ee453de35824a6d0f325513549"),),
        ),
        Variant(
            "taesdxl",
            channels=4,
            fits="SDXL",
            scale=0.13025,
            files={
                "decoder": HubFile(
                    *_TAESDXL,
                    "taesdxl_decoder.safetensors",
                    "f6013131e7eb412ef20113f1acc2ea7d3e47e53196ca0530fa65d9b61d814b61",
                ),
                "encoder": HubFile(
                    *_TAESDXL,
                    "taesdxl_encoder.safetensors",
                    "9f37c0b28f72ec4ca835dc7dbf05255bdf323cde8cf12a304674f106466c98ef",
                ),
            },
            others=(
                HubFile(*_TAESDXL, _DIFFUSERS, "ff4824aca94dd6111e0340fa749347fb74101060d9712cb5ef1ca8f1cf17502f"),
            ),
        ),
        Variant(
            "taesd3",
            channels=16,
            fits="SD3, SD3.5",
            scale=1.5305,
            shift=0.0609,
            files=_both(
                "madebyollin/taesd3",
                "d58dcaccd2b36fcb7a6b9e93c1cc507acab5a778",
                _DIFFUSERS,
                "6f79c1397cb9ce1dac363722dbe70147aee0ccca75e28338f8482fe515891399",
            ),
        ),
        Variant(
            "taef1",
            channels=16,
            fits="FLUX.1, Z-Image, HiDream",
            scale=0.3611,
            shift=0.1159,
            files=_both(
                "madebyollin/taef1",
                "b1b2d00e9e440cfbf3dedb34266864da86016ceb",
                _DIFFUSERS,
                "47a6c2bff850da04b267cab70fe3553fef57255eb9a8e76852baa0a87850e54d",
            ),
        ),
        Variant(
            "taef2",
            channels=32,
            fits="FLUX.2, normalised and unpacked to 32 channels",
            family="taef2",
            files=_both(
                "madebyollin/taef2",
                "bd244ebfe4398c84fbf312a2f1c868c676b500e3",
                "taef2.safetensors",
                "701d31c0ecbef3b609fe236e2e3a65ffb17f3a94237acdd771e8ea3194df557a",
            ),
        ),
        Variant(
            "taesana",
            channels=32,
            fits="Sana (DC-AE f32c32)",
            family="taesana",
            upscaling=32,
            source="taesana_decoder.pth and taesana_encoder.pth of https://github.com/madebyollin/taesd",
        ),
        Variant(
            "photo",
            channels=4,
            fits="only latents made by its own encoder; not Stable Diffusion compatible",
            packaged={"decoder": "photo_decoder.safetensors", "encoder": "photo_encoder.safetensors"},
        ),
    )
}

PUBLISHED_CHANNELS = tuple(sorted({variant.channels for variant in VARIANTS.values()}))
"""What latents can have."""

KNOWN = {
    file.sha256: (variant, file) for variant in VARIANTS.values() for file in (*variant.files.values(), *variant.others)
}
"""The published files by their hash."""


def find_weights(weights: str | os.PathLike[str] | None, part: Part, channels: Collection[int] = ()) -> Path:
    """Return a file of weights, from the hub if it must be.

    A name goes before a file of the same name; ``./photo`` is always the file.

    Args:
        weights: a file, the name of a variant, or None for what the environment names.
        part: "decoder" or "encoder".
        channels: how many the latents may have, where that is known.

    Raises:
        NoWeightsError: nothing was named, and the environment does not tell which to take.
        CheckpointError: there is no such file, or it could not be fetched.
        OSError: the disk is full, or the cache cannot be read.
    """
    if weights is None:
        return _find_unnamed(part, channels)
    variant = VARIANTS.get(os.fspath(weights))
    if variant is None:
        return _check_path(Path(weights), part)
    found = find_local(variant, part)
    if found is not None:
        return found
    if part not in variant.files:
        raise CheckpointError(f"No such weights on the hub: weights={variant.name}. {_say_ways(variant, part)}")
    try:
        return fetch_file(variant.files[part])
    except HubError as error:
        raise CheckpointError(
            f"Weights are not here and were not fetched: weights={variant.name} ({error}). {_say_ways(variant, part)}"
        ) from error


def find_local(variant: Variant, part: Part) -> Path | None:
    """Return a variant's file if it is on this machine: packaged, in the environment's folder, or in the hub's cache.

    Raises:
        CheckpointError: it is in the cache, but with another hash.
    """
    if part in variant.packaged:
        return Path(str(files("taesd_core.weights") / variant.packaged[part]))
    in_folder = _find_in_folder(variant, part)
    if in_folder is not None or part not in variant.files:
        return in_folder
    try:
        return find_cached(variant.files[part])
    except HubError as error:
        raise CheckpointError(f"Weights in the cache cannot be used: weights={variant.name} ({error}).") from error


def list_fitting(channels: Collection[int], family: str | None = None) -> list[Variant]:
    """Return the published variants for latents with one of these numbers of channels; all where none is given."""
    return [
        variant
        for variant in VARIANTS.values()
        if not variant.packaged
        and (not channels or variant.channels in channels)
        and (family is None or variant.family == family)
    ]


def _find_unnamed(part: Part, channels: Collection[int]) -> Path:
    named = os.environ.get(ENVIRONMENT)
    fitting = list_fitting(channels)
    if named:
        if not Path(named).is_dir():
            return find_weights(named, part)
        found = [path for variant in fitting if (path := _find_in_folder(variant, part)) is not None]
        # Where the latents may have this or that number of channels, what lies there by chance does not tell which.
        if len(found) == 1 and len(channels) < 2:
            return found[0]
    several = " or ".join(f"{variant.name} ({variant.fits})" for variant in fitting)
    fits = f"to latents with {' or '.join(map(str, sorted(channels)))} channels fit" if channels else "there are"
    raise NoWeightsError(f"No weights were named, and {fits} {several}.")


def _find_in_folder(variant: Variant, part: Part) -> Path | None:
    """Return a variant's file in the environment's folder, by the names that such files are published under."""
    folder = Path(os.environ.get(ENVIRONMENT) or os.devnull)
    if not folder.is_dir():
        return None
    single = [f"{variant.name}_{part}.{ending}" for ending in ("safetensors", "pth", "h5")]
    for name in (*single, f"{variant.name}.safetensors", f"{variant.name}/{_DIFFUSERS}"):
        if (folder / name).is_file():
            return folder / name
    return None


def _check_path(path: Path, part: Part) -> Path:
    if path.is_file():
        return path
    if path.is_dir():
        raise CheckpointError(f"A folder, not a file of weights: weights={path}. Name a file in it.")
    if path.is_symlink():
        raise CheckpointError(
            f"The weights are a link to nowhere: weights={path}, target={os.readlink(path)}. Mend it."
        )
    raise CheckpointError(
        f"No such weights: weights={path}. Give a file of TAESD's {part} (.safetensors, .pth, .h5), or one of these "
        f"names: {', '.join(VARIANTS)}."
    )


def _say_ways(variant: Variant, part: Part) -> str:
    file = variant.files.get(part)
    where = f"{file.name} of https://huggingface.co/{file.repository}" if file else variant.source
    fetch = f"Run tiler weights fetch {variant.name} where there is a network, or give " if file else "Give "
    return (
        f"{fetch}its file ({where}), or set {ENVIRONMENT} to a file or a folder of such files; for a "
        "trial, take photo (not Stable Diffusion compatible)."
    )
