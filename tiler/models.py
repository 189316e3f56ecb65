"""Models by weights: the one place where the engine meets the network, found, read and loaded."""

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

from taesd_core.checkpoint import Checkpoint, CheckpointError, Part, load_checkpoint
from taesd_core.engines import Engine, choose_engine, load_engine
from taesd_core.network import Network
from taesd_core.variants import ENVIRONMENT, PUBLISHED_CHANNELS, VARIANTS, NoWeightsError, find_weights
from tiler.dtypes import DType
from tiler.errors import InputError, Option, OptionError
from tiler.latents import Latents
from tiler.model import Model

PathLike = str | os.PathLike[str]
Precision = Literal["float32", "float16", "bfloat16"]
WAYS = (
    f"Use {Option('weights', 'NAME')} or {Option('weights', 'FILE')} (.safetensors, .pth, .h5), or set {ENVIRONMENT} "
    f"to a file or folder; for a trial, {Option('weights', 'photo')} (weights of this project's own; not Stable "
    "Diffusion compatible)."
)
"""How weights are named, for who has named none."""


def find_checkpoint(weights: PathLike | None, part: Part, latents: Latents | None = None) -> Path:
    """Return the file of weights that a name or a path means, or the environment where nothing was named.

    Args:
        weights: the name or the path.
        part: "decoder" or "encoder".
        latents: what they are for; if nothing was named, the channels tell which weights fit.

    Raises:
        InputError: there is no such file, or it cannot be fetched.
        OptionError: nothing was named, and the environment does not tell which to take.
    """
    channels = latents.find_channels(PUBLISHED_CHANNELS) if weights is None and latents is not None else ()
    try:
        return find_weights(weights, part, channels)
    except NoWeightsError as error:
        several = f" {Option('axes')} says how many channels they have, as {Option('weights')} does."
        raise OptionError(f"{error} {WAYS}{several * (len(channels) > 1)}") from error
    except CheckpointError as error:
        raise InputError(str(error)) from error


def find_named(weights: PathLike | None) -> PathLike | None:
    """Return the weights that were named, or else the variant that the environment names, if it names one."""
    name = os.environ.get(ENVIRONMENT, "")
    return name if weights is None and name in VARIANTS else weights


def find_convention(weights: PathLike | None) -> tuple[float, float] | None:
    """Return scale and shift of a variant's latents against those of the large autoencoder; None where unknown."""
    variant = VARIANTS.get(os.fspath(find_named(weights) or ""))
    return None if variant is None or variant.scale is None else (variant.scale, variant.shift)


def read_checkpoint(path: Path, part: Part) -> Checkpoint:
    """Read the weights of one part of an autoencoder.

    Raises:
        InputError: the file cannot be read, or does not hold them.
    """
    try:
        return load_checkpoint(path, part)
    except CheckpointError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"Cannot read the weights: weights={path} ({error.strerror}).") from error


def find_network(weights: PathLike | None, part: Part, channels: int) -> Network:
    """Return the network of some weights; without weights, TAESD's for latents with ``channels`` channels.

    Raises:
        InputError: the weights cannot be used.
    """
    if weights is not None:
        return read_checkpoint(find_checkpoint(weights, part), part).network
    return Network.decoder(channels) if part == "decoder" else Network.encoder(channels)


def load_model(
    path: Path, part: Part, precision: Precision = "float32", dtype: DType | None = None, engine: Engine | None = None
) -> Model:
    """Load a model, once: the same file gives the same model again, compiled steps included.

    A decoder gives pixels of type ``dtype``, by default bytes; an encoder gives float32. Without ``engine`` it is the
    one that suits this machine.
    """
    status = path.stat()
    output = dtype or ("uint8" if part == "decoder" else "float32")
    engine = engine or choose_engine(precision)
    return _load_model(path, part, precision, output, engine, status.st_mtime_ns, status.st_size)


def load_same_model(
    weights: PathLike,
    part: Part,
    precision: Precision,
    sha256: str,
    dtype: DType | None = None,
    engine: Engine | None = None,
) -> Model:
    """Load a model in another process, perhaps on another machine, where a name may mean another file.

    Raises:
        InputError: the weights cannot be used, or are others.
    """
    path = find_checkpoint(weights, part)
    found = read_checkpoint(path, part).sha256
    if found != sha256:
        raise InputError(f"The weights are others: weights={path}, sha256={found}, expected={sha256}. Copy them.")
    return load_model(path, part, precision, dtype, engine)


@lru_cache(maxsize=2)
def _load_model(
    path: Path, part: Part, precision: Precision, output: DType, engine: Engine, mtime_ns: int, size_bytes: int
) -> Model:
    try:
        return load_engine(engine, read_checkpoint(path, part), output=output, precision=precision)
    except ImportError as error:
        raise OptionError(
            f"The engine cannot be started here: engine={engine} ({error}). Use the other one, or install what it "
            "needs; KERAS_BACKEND=tensorflow or jax names Keras' backend."
        ) from error


def settle_engine(engine: Engine | None, precision: str, choose: Callable[[str], Engine] = choose_engine) -> Engine:
    """Return the engine that was asked for, or the one that suits this machine.

    Args:
        engine: the one that was asked for, if one was.
        precision: of weights and maps.
        choose: tells which suits the machine, or those that are to compute.

    Raises:
        OptionError: there is no such engine or precision, or the engine does not have the precision.
    """
    check_precision(precision)
    if engine is None:
        return choose(precision)
    if engine not in get_args(Engine):
        raise OptionError(f"No such engine: engine={engine}. Use {' or '.join(get_args(Engine))}.")
    if engine == "kernels" and precision != "float32":
        raise OptionError(f"The kernels compute in float32 alone: precision={precision}. Use the engine keras.")
    return engine


def check_precision(precision: str) -> None:
    """Refuse an unknown precision.

    Raises:
        OptionError: it is one.
    """
    if precision not in get_args(Precision):
        raise OptionError(f"No such precision: precision={precision}. Use {', '.join(get_args(Precision))}.")
