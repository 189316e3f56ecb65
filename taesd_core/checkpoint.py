"""Checkpoints: the names that tensors have in files, and only here.

Two layouts are known, told apart by their names. ``k`` is a position in the layer table:

========= ================================= ==============================
layout    decoder                           encoder
========= ================================= ==============================
upstream  ``{k}.weight``                    ``{k}.weight``
          ``{k}.conv.{i}.weight`` (block)   ``{k}.conv.{i}.weight``
diffusers ``decoder.layers.{k-1}.…``        ``encoder.layers.{k}.…``
========= ================================= ==============================

(diffusers has no Clamp layer in its decoder, hence ``k-1``; one file holds both parts.) Kernels are stored
(n_out, n_in, height, width). Tensors are matched strictly: none missing, none left over, every shape right.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from taesd_core.layers import KERNEL, Place, convolutions
from taesd_core.network import Network
from taesd_core.safetensors_file import SafetensorsError, SafetensorsFile, show
from taesd_core.tensors import ConvolutionTensors, Tensors

Part = Literal["decoder", "encoder"]
Shape = tuple[int, ...]
_DIFFUSERS_PREFIX: dict[Part, str] = {"decoder": "decoder.layers.", "encoder": "encoder.layers."}


class CheckpointError(ValueError):
    """A file does not hold the weights that were asked for."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one part of an autoencoder."""

    network: Network
    """The network that they belong to."""
    tensors: Tensors
    """One entry per convolution, in order of execution."""
    layout: str
    """"upstream" or "diffusers"."""
    sha256: str
    """Of the file."""


def load_checkpoint(path: str | os.PathLike[str], part: Part) -> Checkpoint:
    """Load the weights of ``part`` from a ``.safetensors`` file.

    Raises:
        CheckpointError: the file is no safetensors file, or a tensor is missing, left over or misshapen.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        file = SafetensorsFile(path)
        shapes = {name: entry.shape for name, entry in file.entries.items()}
        layout, network = _recognise(path, part, shapes)
        tensors = []
        for place in convolutions(network.layers):
            name = _name(place, part, layout)
            kernel = file.read(name + ".weight").transpose(2, 3, 1, 0)
            tensors.append(ConvolutionTensors(kernel, file.read(name + ".bias") if place.convolution.bias else None))
        sha256 = file.sha256()
    except SafetensorsError as error:
        raise CheckpointError(_explain(path, error)) from error
    for place, each in zip(convolutions(network.layers), tensors, strict=True):
        if not all(np.isfinite(values).all() for values in each if values is not None):
            name = _name(place, part, layout)
            raise CheckpointError(f"Weights hold NaN or Inf: weights={path}, layer={name}. Download the file again.")
    return Checkpoint(network, tuple(tensors), layout, sha256)


def _explain(path: Path, error: SafetensorsError) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    # What torch.save writes: a zip archive around a pickle, and formerly a pickle alone.
    if start == b"PK\x03\x04" or start[:1] == b"\x80":
        return (
            f"A pickle, not a safetensors file: weights={path}. It could run code and is never loaded. "
            "Convert it once: "
            'safetensors.torch.save_file(torch.load("weights.pth", weights_only=True), "weights.safetensors").'
        )
    return f"Not a readable safetensors file: weights={path} ({error}). Download it again, or convert it."


def _recognise(path: Path, part: Part, shapes: dict[str, Shape]) -> tuple[str, Network]:
    """Return the layout and the network, or say what does not fit."""
    layout = "diffusers" if any(name.startswith(tuple(_DIFFUSERS_PREFIX.values())) for name in shapes) else "upstream"
    network, problem = _match(shapes, part, layout)
    if problem is None:
        return layout, network
    other: Part = "encoder" if part == "decoder" else "decoder"
    if _match(shapes, other, layout)[1] is None:
        problem = f"it holds the {other}"
    raise CheckpointError(f"Not the weights of a TAESD {part}: weights={path}, {problem}. Name a file of the {part}.")


def _match(shapes: dict[str, Shape], part: Part, layout: str) -> tuple[Network, str | None]:
    """Return the network that the tensors suggest, and the first thing that speaks against it."""
    make_network = Network.decoder if part == "decoder" else Network.encoder
    # The latent's side of the network tells the channels: first convolution of a decoder, last of an encoder.
    places = list(convolutions(make_network(4).layers))
    place, axis = (places[0], 1) if part == "decoder" else (places[-1], 0)
    latent_kernel = shapes.get(_name(place, part, layout) + ".weight", ())
    network = make_network(max(latent_kernel[axis], 1) if len(latent_kernel) == 4 else 4)

    expected: dict[str, Shape] = {}
    for place in convolutions(network.layers):
        name, convolution = _name(place, part, layout), place.convolution
        expected[name + ".weight"] = (convolution.n_out, convolution.n_in, KERNEL, KERNEL)
        if convolution.bias:
            expected[name + ".bias"] = (convolution.n_out,)
    others = _DIFFUSERS_PREFIX["encoder" if part == "decoder" else "decoder"]
    for name, shape in expected.items():
        if name not in shapes:
            return network, f"tensor {name} is missing"
        if shapes[name] != shape:
            return network, f"tensor {name} has shape {show(str(shapes[name]))} instead of {shape}"
    for name in shapes:
        if name not in expected and not (layout == "diffusers" and name.startswith(others)):
            return network, f"tensor {show(name)} is left over"
    return network, None


def _name(place: Place, part: Part, layout: str) -> str:
    """Return what a convolution is called in a layout, without ``.weight`` or ``.bias``."""
    prefix, position = "", place.position
    if layout == "diffusers":
        prefix = _DIFFUSERS_PREFIX[part]
        position -= part == "decoder"
    return f"{prefix}{position}" if place.inner is None else f"{prefix}{position}.conv.{place.inner}"
