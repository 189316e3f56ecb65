"""Checkpoints: the weights of a network, found in a file of any layout by names and shapes, never by the file's name.

Tensors are matched strictly: none missing, none left over, every shape right. See ``layouts.py`` for the names.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taesd_core.families import FAMILIES
from taesd_core.file_kinds import BoundedFile, find_kind
from taesd_core.h5_file import H5File
from taesd_core.layers import Layers, convolutions
from taesd_core.layouts import PARTS, Layout, Slot, is_extra, list_layouts, list_slots, make_layout
from taesd_core.layouts import Part as Part
from taesd_core.network import Network
from taesd_core.other_models import find_other_model
from taesd_core.safetensors_file import SafetensorsFile
from taesd_core.tensor_file import TensorFile, TensorFileError, open_regular, show
from taesd_core.tensors import ConvolutionTensors, Float32, NormTensors, Tensors
from taesd_core.torch_file import TorchFile

READERS: dict[str, Callable[[Path], TensorFile]] = {
    "safetensors": SafetensorsFile,
    "torch": TorchFile,
    "hdf5": H5File,
    "keras": H5File,
}
"""What reads a kind of file."""


class CheckpointError(ValueError):
    """A file does not hold the weights that were asked for, or there is no such file."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one part of an autoencoder."""

    network: Network
    """The network that they belong to."""
    tensors: Tensors
    """One entry per convolution, in order of execution."""
    layout: str
    """Its name, see ``layouts``."""
    sha256: str
    """Of the file."""
    family: str
    """One of ``families.FAMILIES``."""
    part: Part
    """Which part it is."""

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.network.channels_in if self.part == "decoder" else self.network.channels_out

    @property
    def arrays(self) -> list[Float32]:
        """All tensors, in order of execution."""
        return [values for each in self.tensors for values in each.arrays]


@dataclass(frozen=True)
class _Match:
    """What a file would be, and what speaks against it."""

    layout: Layout
    family: str
    network: Network
    names: dict[Slot, str]
    n_fitting: int
    """Tensors that are there in the right shape."""
    problem: str | None
    """The first thing that is wrong, in words."""


def load_checkpoint(path: str | os.PathLike[str], part: Part) -> Checkpoint:
    """Load the weights of ``part`` from a file of any layout.

    Args:
        path: a ``.safetensors``, ``.pth``, ``.weights.h5``, ``.h5`` or ``.keras`` file; its name does not matter.
        part: "decoder" or "encoder".

    Raises:
        CheckpointError: the file is none of these, or a tensor is missing, left over or misshapen.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        file = _open(path)
        match = _recognise(path, file, part)
        values = {slot: _to_keras(file.read(name), slot, match.layout) for slot, name in match.names.items()}
        sha256 = file.sha256()
    except TensorFileError as error:
        raise CheckpointError(f"Not a readable file of weights: weights={path} ({error}). {error.advice}") from error
    for slot, name in match.names.items():
        if not np.isfinite(values[slot]).all():
            layer = name.rpartition(".")[0] or name
            raise CheckpointError(f"Weights hold NaN or Inf: weights={path}, layer={layer}. Download the file again.")
        if slot.kind == "kernel" and not values[slot].any():
            raise CheckpointError(
                f"Weights hold a kernel of zeros alone: weights={path}, tensor={show(name)}. Only half of the file is "
                "there, or it was never trained. Download it again."
            )
    return Checkpoint(
        match.network,
        _assemble(match.network.layers, iter(values.values())),
        match.layout.name,
        sha256,
        match.family,
        part,
    )


def load_parts(path: str | os.PathLike[str]) -> tuple[Checkpoint, ...]:
    """Load every part that a file holds: one, or two.

    Raises:
        CheckpointError: it holds neither; the message is about the part that it comes closer to.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        file = _open(path)
    except TensorFileError:
        return (load_checkpoint(path, "decoder"),)
    matches = {part: _list_matches(file, part) for part in PARTS}
    found = [part for part in PARTS if any(_is_whole(each) or each.layout.said == part for each in matches[part])]
    closest = max(PARTS, key=lambda part: max(match.n_fitting for match in matches[part]))
    return tuple(load_checkpoint(path, part) for part in found or [closest])


def save_checkpoint(
    path: str | os.PathLike[str], part: Part, tensors: Tensors, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the weights of ``part`` to a ``.safetensors`` file: upstream's names, float16.

    Args:
        path: the file; one that exists is replaced.
        part: "decoder" or "encoder".
        tensors: one entry for each convolution, in order of execution.
        metadata: what the file says of itself, its model card.

    Raises:
        CheckpointError: a value is beyond the range of float16 (65,504), or no number.
        OSError: the file cannot be written.
    """
    from safetensors.numpy import save_file

    if part == "decoder":
        network = Network.decoder(tensors[0].kernel.shape[2])
    else:
        network = Network.encoder(tensors[-1].kernel.shape[3])
    state = {}
    for place, each in zip(convolutions(network.layers), tensors, strict=True):
        name = ".".join(map(str, (place.position, *(place.inner or ()))))
        state[name + ".weight"] = each.kernel.transpose(3, 2, 0, 1)
        if each.bias is not None:
            state[name + ".bias"] = each.bias
    with np.errstate(over="ignore"):
        halves = {name: np.ascontiguousarray(values, np.float16) for name, values in state.items()}
    for name, values in halves.items():
        if not np.isfinite(values).all():
            raise CheckpointError(f"Weights that float16 cannot hold: tensor={name}, file={path}. Train them again.")
    save_file(halves, path, metadata=dict(metadata or {}))


def _open(path: Path) -> TensorFile:
    with BoundedFile(open_regular(path), "rb") as file:
        kind = find_kind(file)
    if kind.name not in READERS:
        raise TensorFileError(
            f"it is {kind.words}",
            kind.advice or "Weights are .safetensors, .pth, .weights.h5, .h5 or .keras files; name or make one.",
        )
    return READERS[kind.name](path)


def _recognise(path: Path, file: TensorFile, part: Part) -> _Match:
    """Return how a file holds a part, or say what does not fit."""
    other: Part = "encoder" if part == "decoder" else "decoder"
    matches = [match for match in _list_matches(file, part) if match.layout.said != other]
    whole = [match for match in matches if _is_whole(match)]
    advice = f"Name a file of the {part}."
    if len(whole) == 1:
        rest = _list_left_over(file, whole[0], other)
        if not rest:
            return whole[0]
        problem = f"tensor {show(rest[0])} is left over"
        advice = f"Save the tensors of the {part} alone."
    elif whole:
        prefixes = " and ".join(repr(show(match.layout.prefix)) for match in whole[:2])
        problem = f"it holds the {part} more than once, behind the names {prefixes}"
        advice = "Save the one that is meant alone."
    else:
        found = next((match for match in _list_matches(file, other) if _is_whole(match)), None)
        known = None if found else find_other_model(file.shapes)
        if found and found.layout.said == part:
            problem = f"it holds the {other} under the {part}'s names: the two were swapped"
        elif known:
            problem, advice = f"it is {known[0].words}, as tensor {known[1]} tells", f"{known[0].advice}."
        elif not matches or (found and all(match.layout.prefix == found.layout.prefix for match in matches)):
            problem = f"it holds the {other} alone"
        else:
            problem = max(matches, key=lambda match: match.n_fitting).problem or ""
    raise CheckpointError(f"Not the weights of a TAESD {part}: weights={path}, {problem}. {advice}")


def _is_whole(match: _Match) -> bool:
    return match.problem is None


def _list_left_over(file: TensorFile, match: _Match, other: Part) -> list[str]:
    """Return the tensors of a file that are neither of a part, nor beside it those of the other part."""
    known = {*match.layout.own(file.shapes), *(name for name in file.shapes if is_extra(name))}
    if len(known) < len(file.shapes):
        for each in _list_matches(file, other):
            if _is_whole(each) or (each.layout.said == other and each.n_fitting):
                known.update(each.layout.own(file.shapes))
    return [name for name in file.shapes if name not in known]


def _list_matches(file: TensorFile, part: Part) -> list[_Match]:
    """Return the network that the tensors suggest in each layout that they may have."""
    matches = []
    for layout in list_layouts(file.kind, file.shapes, part):
        families = [_match_family(file, layout, part, family) for family in FAMILIES]
        matches.append(max(families, key=lambda match: (match.problem is None, match.n_fitting)))
    return matches


def _match_family(file: TensorFile, layout: Layout, part: Part, family: str) -> _Match:
    """Compare the tensors of a file with those that a family's network takes."""
    make_layers = getattr(FAMILIES[family], part)
    # The latent's side of the network tells the channels: first kernel of a decoder, last of an encoder.
    slots = list(list_slots(make_layers(4)))
    kernels = [number for number, slot in enumerate(slots) if slot.kind == "kernel"]
    number = kernels[0 if part == "decoder" else -1]
    latent_shape = file.shapes.get(layout.names(slots, part, file.shapes)[number], ())
    axis = slots[number].shape_in(layout).index(4)
    channels = max(latent_shape[axis], 1) if len(latent_shape) == 4 else 4
    network = Network(make_layers(channels))

    slots = list(list_slots(network.layers))
    names = layout.names(slots, part, file.shapes)
    problems, n_fitting = [], 0
    for slot, name in zip(slots, names, strict=True):
        expected, shape = slot.shape_in(layout), file.shapes.get(name)
        if shape is None:
            problems.append(f"tensor {show(name)} is missing")
        elif shape != expected:
            is_mlx = len(shape) == 4 and shape[:3] == (expected[0], *expected[2:])
            order = ": its channels come last, as MLX keeps them; the published files have them second" * is_mlx
            problems.append(f"tensor {show(name)} has shape {show(str(shape))} instead of {expected}{order}")
        else:
            n_fitting += 1
    expected_names = set(names)
    problems += [f"tensor {show(name)} is left over" for name in layout.own(file.shapes) if name not in expected_names]
    problems += layout.list_doubts(file.shapes)
    return _Match(layout, family, network, dict(zip(slots, names, strict=True)), n_fitting, next(iter(problems), None))


def name_tensors(checkpoint: Checkpoint, layout: str) -> dict[str, Float32]:
    """Return the tensors of a checkpoint by their names in a layout, axes and all."""
    as_named = make_layout(layout, checkpoint.part)
    slots = list(list_slots(checkpoint.network.layers))
    names = as_named.names(slots, checkpoint.part, {})
    return {
        name: values if slot.kind != "kernel" else np.ascontiguousarray(values.transpose(3, 2, 0, 1))
        for name, slot, values in zip(names, slots, checkpoint.arrays, strict=True)
    }


def _to_keras(values: Float32, slot: Slot, layout: Layout) -> Float32:
    """Return a tensor in Keras' order of axes."""
    return values.transpose(2, 3, 1, 0) if slot.kind == "kernel" and not layout.keras_axes else values


def _assemble(layers: Layers, values: Iterator[Float32]) -> Tensors:
    """Return the tensors of each convolution, given in order of execution."""
    return tuple(
        ConvolutionTensors(
            next(values),
            next(values) if place.convolution.bias else None,
            NormTensors(next(values), next(values)) if place.convolution.norm_groups else None,
        )
        for place in convolutions(layers)
    )
