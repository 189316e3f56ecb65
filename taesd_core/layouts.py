"""Layouts: what tensors are called in files, and only here.

``k`` is a position in the layer table; what stands inside a layer is called ``conv.{i}`` or ``pool.{i}`` there.

========= ================================= ================================= =======================
layout    decoder                           encoder                           kernels
========= ================================= ================================= =======================
upstream  ``{k}.weight``                    ``{k}.weight``                    n_out, n_in, rows, cols
          ``{k}.conv.{i}.weight`` (block)   ``{k}.conv.{i}.weight``
          ``{k}.pool.{i}.weight`` (FLUX.2)  ``{k}.pool.{i}.weight``
diffusers ``decoder.layers.{k-1}.…``        ``encoder.layers.{k}.…``          likewise
comfyui   ``taesd_decoder.{k}.…``           ``taesd_encoder.{k}.…``           likewise
keras-3   ``layers/conv2d_7/vars/0``, by the number of each layer             rows, cols, n_in, n_out
keras-2   whatever the layers are called, by their order                      likewise
========= ================================= ================================= =======================

diffusers has no Clamp layer in its decoder, hence ``k-1``. Whatever stands in front of the position is a prefix, of a
layout or of who has saved the file (``_orig_mod.module.vae.decoder.layers.``); tensors with one prefix belong
together. One file can hold both parts, ComfyUI's the scale and shift of its latents besides.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

from taesd_core.h5_file import natural_key
from taesd_core.layers import Layers, convolutions
from taesd_core.tensor_file import Kind, Shape, show

Part = Literal["decoder", "encoder"]
PARTS: tuple[Part, ...] = ("decoder", "encoder")
Shapes = Mapping[str, Shape]


class Slot(NamedTuple):
    """One tensor that a network takes."""

    position: int
    """Of its layer in the layer table."""
    inner: str
    """Where it stands inside of the layer, such as ``conv.0``; empty where the layer is all there is."""
    kind: Literal["kernel", "bias", "scale", "offset"]
    """What it is."""
    shape: Shape
    """In Keras' order of axes."""

    @property
    def is_weight(self) -> bool:
        """Whether it is the weight of its layer, not the bias."""
        return self.kind in ("kernel", "scale")

    @property
    def name(self) -> str:
        """What it is called behind a layout's prefix and position."""
        return f"{self.inner}{'.' * bool(self.inner)}{'weight' if self.is_weight else 'bias'}"

    def shape_in(self, layout: "Layout") -> Shape:
        """Return its shape in a file."""
        if self.kind == "kernel" and not layout.keras_axes:
            rows, columns, n_in, n_out = self.shape
            return (n_out, n_in, rows, columns)
        return self.shape


def list_slots(layers: Layers) -> Iterator[Slot]:
    """Yield every tensor that a network takes, in order of execution."""
    for position, inner, convolution in convolutions(layers):
        name = "" if inner is None else f"{inner[0]}.{inner[1]}"
        size = convolution.kernel
        yield Slot(position, name, "kernel", (size, size, convolution.n_in, convolution.n_out))
        if convolution.bias:
            yield Slot(position, name, "bias", (convolution.n_out,))
        if convolution.norm_groups:
            assert inner is not None
            norm = f"{inner[0]}.{inner[1] + 1}"
            yield Slot(position, norm, "scale", (convolution.n_out,))
            yield Slot(position, norm, "offset", (convolution.n_out,))


@dataclass(frozen=True)
class Layout:
    """A way to name tensors: a prefix and the position."""

    name: str
    """What it is called."""
    prefix: str = ""
    """In front of the position."""
    decoder_shift: int = 0
    """What is subtracted from a decoder's position."""
    keras_axes = False

    @property
    def said(self) -> Part | None:
        """The part that the prefix names, if it names one."""
        said = {word for word in re.split(r"[._]", self.prefix) if word in PARTS}
        return next((part for part in PARTS if said == {part}), None)

    def names(self, slots: Sequence[Slot], part: Part, found: Shapes) -> list[str]:
        """Return what each tensor of a part is called, given those in a file."""
        shift = self.decoder_shift if part == "decoder" else 0
        return [f"{self.prefix}{slot.position - shift}.{slot.name}" for slot in slots]

    def own(self, found: Iterable[str]) -> list[str]:
        """Return the names in a file that have the prefix."""
        return [name for name in found if _split(name) == self.prefix]

    def list_doubts(self, found: Iterable[str]) -> list[str]:
        """Return what speaks against the names in a file, though each is what it should be."""
        return []


@dataclass(frozen=True)
class KerasLayout(Layout):
    """A way to find tensors: by the order of their layers, which have numbers instead of positions."""

    keras_axes = True

    def names(self, slots: Sequence[Slot], part: Part, found: Shapes) -> list[str]:
        """Return what each tensor is called; an invented name where there is none for it."""
        layers = _FileLayers(found)
        names: list[str] = []
        for position, of_position in groupby(slots, key=lambda slot: slot.position):
            places = [list(place) for _, place in groupby(of_position, key=lambda slot: slot.inner)]
            inside = layers.plain if not places[0][0].inner else layers.next_nested(len(places))
            for place in places:
                layer = _take(inside, found, place[0].shape)
                names += [
                    layer[number] if number < len(layer) else f"{position}.{slot.name} (by its order)"
                    for number, slot in enumerate(place)
                ]
        return names

    def own(self, found: Iterable[str]) -> list[str]:
        """Return all names."""
        return list(found)

    def list_doubts(self, found: Iterable[str]) -> list[str]:
        """Return the layers that Keras 3 has not numbered so: where a number is missing, the order is not known."""
        numbers: dict[tuple[str, str], set[int]] = {}
        for name in found if self.name == "keras-3" else ():
            parent = ""
            for part, (base, number) in zip(name.split("/"), natural_key(name), strict=True):
                numbers.setdefault((parent, base), set()).add(number)
                parent += f"{part}/"
        return [
            f"the numbers of the layers {show(parent + base)} have a gap"
            for (parent, base), found_numbers in numbers.items()
            if max(found_numbers) - min(found_numbers) >= len(found_numbers)
        ]


MOST_PREFIXES = 8
"""How many prefixes of a file are looked at, those of most tensors first."""

_TAIL = re.compile(r"(?:^|(?<=\.))\d+\.(?:(?:conv|pool)\.\d+\.)?(?:weight|bias)$")


def make_layout(name: str, part: Part) -> Layout:
    """Return the layout of a file that is to be written, "upstream" or "diffusers"."""
    return Layout(name, f"{part}.layers.", decoder_shift=1) if name == "diffusers" else Layout(name)


def list_layouts(kind: Kind, found: Shapes, part: Part) -> list[Layout]:
    """Return what the layout of a part in a file may be, judged by the names in it."""
    if kind in ("keras-2", "keras-3"):
        return [KerasLayout(kind)]
    prefixes = Counter(prefix for name in found if (prefix := _split(name)) is not None)
    layouts = []
    for prefix, _ in prefixes.most_common(MOST_PREFIXES) or [("", 0)]:
        name = "diffusers" if prefix.endswith("layers.") else "comfyui" if "taesd_" in prefix else "upstream"
        layouts.append(Layout(name, prefix))
        if part == "decoder":
            layouts.append(Layout("diffusers", prefix, decoder_shift=1))
    return layouts


def is_extra(name: str) -> bool:
    """Say whether a tensor is none of a network: ComfyUI's scale and shift of latents, what an optimizer remembers."""
    return name.rpartition(".")[2] in ("vae_scale", "vae_shift") or name.startswith("optim")


def _split(name: str) -> str | None:
    """Return what stands in front of the position in a name; None if there is no position."""
    match = _TAIL.search(name)
    return match and name[: match.start()]


class _FileLayers:
    """The tensors of a file by Keras, grouped by layer.

    Keras 3 numbers the layers of each class for themselves: the convolutions among the layers of the model, the
    blocks, and the convolutions inside of a block. Where no layer has layers inside, all are in one row, as they
    always are for Keras 2.
    """

    def __init__(self, found: Shapes) -> None:
        self.plain: list[list[str]] = []
        self._nested: dict[str, list[list[str]]] = {}
        is_keras_3 = all("/vars/" in name for name in found)
        for layer, of_layer in groupby(found, key=_layer_of):
            path = layer.split("/")
            # layers/conv2d, but layers/block/conv/layers/conv2d
            nested = is_keras_3 and len(path) > 2
            (self._nested.setdefault(path[1], []) if nested else self.plain).append(list(of_layer))
        self._is_flat = not self._nested

    def next_nested(self, n_layers: int) -> list[list[str]]:
        """Return the layers inside of the next layer that has so many."""
        if self._is_flat:
            return self.plain
        name = next((name for name, inside in self._nested.items() if len(inside) == n_layers), None)
        return [] if name is None else self._nested.pop(name)


def _take(layers: list[list[str]], found: Shapes, shape: Shape) -> list[str]:
    """Remove and return the next layer whose first tensor has this shape, or else so many axes."""
    for fits in (lambda each: each == shape, lambda each: len(each) == len(shape)):
        for number, layer in enumerate(layers):
            if fits(found[layer[0]]):
                return layers.pop(number)
    return []


def _layer_of(name: str) -> str:
    return name.partition("/vars/")[0] if "/vars/" in name else name.rpartition("/")[0]
