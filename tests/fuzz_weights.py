"""Mutated files of weights, and what the libraries of their formats read of them.

Safetensors files have names with prefixes and edited headers; those of PyTorch, nested, and of Keras other bytes.
"""

import io
import json
import struct
import zipfile
from functools import cache
from random import Random
from typing import Any

import numpy as np
from fuzz_bytes import Mutated, flip, mutate_bytes
from safetensors import deserialize
from safetensors.numpy import load_file, save
from test_checkpoint import to_diffusers, upstream_names

from taesd_core.variants import find_weights

DTYPES = [
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I16",
    "U16",
    "U8",
    "BOOL",
    "F8_E4M3",
    "F8_E5M2",
    "F4",
    "f16",
    "",
    "X" * 999,
]
NUMBERS = [0, -1, 1, 2, 3, 64, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, 1.0, 1e999, True, None, "4", [4], {}, 576, 1152]


@cache
def load_bases() -> dict[str, bytes]:
    states = {part: load_file(find_weights("photo", part)) for part in ("decoder", "encoder")}
    both = to_diffusers("decoder", states["decoder"]) | to_diffusers("encoder", states["encoder"])
    return {part: save(state) for part, state in states.items()} | {"both": save(both)}


def make_weights(random: Random) -> Mutated:
    bases = load_bases()
    content = bases[random.choice(("decoder", "decoder", "decoder", "encoder", "both"))]
    length = int.from_bytes(content[:8], "little")
    kind = random.random()
    if kind < 0.03:
        return content, "none"
    if kind < 0.15:
        return flip(random, content, 8 + length), "values"
    if kind < 0.35:
        return mutate_bytes(random, content, bases["encoder"], 8 + length)
    return edit_header(random, content[8 : 8 + length], content[8 + length :])


PREFIXES = ["", "", "module.", "_orig_mod.vae.", "decoder.", "x.0.model."]


def edit_header(random: Random, text: bytes, tensors: bytes) -> Mutated:
    prefix = random.choice(PREFIXES) if b".layers." not in text else ""
    header = {prefix + name: fields for name, fields in json.loads(text).items()}
    if random.random() < 0.1:
        padded = json.dumps(header).encode() + b" " * random.randrange(256)
        return struct.pack("<Q", len(padded)) + padded + tensors, "none" if prefix != "decoder." else "names"
    labels = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        edit = random.choice(EDITS)
        edit(random, header)
        labels.append(edit.__name__)
    encoded = json.dumps(header, ensure_ascii=random.random() < 0.5)
    if random.random() < 0.15:
        encoded = edit_text(random, encoded)
        labels.append("edit_text")
    content = encoded.encode("utf-8", "surrogatepass")
    length = len(content)
    if random.random() < 0.1:
        length = random.choice((0, 1, length - 1, length + 1, 2**63, 2**64 - 1, 10**8, len(tensors)))
        labels.append("length")
    return struct.pack("<Q", length) + content + tensors, " ".join(labels)


def pick(random: Random, header: dict[str, Any]) -> dict[str, Any]:
    entries = [entry for entry in header.values() if isinstance(entry, dict) and "shape" in entry]
    return random.choice(entries) if entries else {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}


def edit_type(random: Random, header: dict[str, Any]) -> None:
    pick(random, header)["dtype"] = random.choice([*DTYPES, "BF16", "I16", "F16", None, 16])


def edit_all_types(random: Random, header: dict[str, Any]) -> None:
    dtype = random.choice(("BF16", "I16", "U16", "F32"))
    for entry in header.values():
        if isinstance(entry, dict) and "dtype" in entry:
            entry["dtype"] = dtype


def edit_shape(random: Random, header: dict[str, Any]) -> None:
    entry = pick(random, header)
    shape = entry.get("shape")
    if not isinstance(shape, list) or not shape or random.random() < 0.1:
        entry["shape"] = random.choice([None, [], "64", 64, {}, [1] * 70, [0] * 5])
    elif random.random() < 0.3:
        random.shuffle(shape)
    else:
        shape[random.randrange(len(shape))] = random.choice(NUMBERS)


def edit_offsets(random: Random, header: dict[str, Any]) -> None:
    entry, other = pick(random, header), pick(random, header)
    match random.randrange(4):
        case 0:
            entry["data_offsets"] = random.choice([None, [], [0], [0, 2, 4], "02", {}])
        case 1:
            entry["data_offsets"] = [random.choice(NUMBERS), random.choice(NUMBERS)]
        case 2:
            entry["data_offsets"], other["data_offsets"] = other.get("data_offsets"), entry.get("data_offsets")
        case 3:
            entry["data_offsets"] = other.get("data_offsets")


def edit_names(random: Random, header: dict[str, Any]) -> None:
    name = random.choice(list(header))
    others = ["x" * 5000, "", "a\nb", "\x1b[31m", "é", "\ud800", "__metadata__", "1.weight", "21.weight", name + " "]
    header[random.choice(others)] = header.pop(name)


def swap_names(random: Random, header: dict[str, Any]) -> None:
    one, two = random.choice(list(header)), random.choice(list(header))
    header[one], header[two] = header[two], header[one]


def edit_fields(random: Random, header: dict[str, Any]) -> None:
    entry = pick(random, header)
    if random.random() < 0.5:
        entry.pop(random.choice(list(entry)))
    else:
        entry["more"] = 1


def edit_entries(random: Random, header: dict[str, Any]) -> None:
    match random.randrange(3):
        case 0:
            header.pop(random.choice(list(header)))
        case 1:
            header["more"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        case 2:
            header[random.choice(list(header))] = random.choice([None, [], 1, "x", {}])


def edit_metadata(random: Random, header: dict[str, Any]) -> None:
    values = [{}, {"a": "b"}, {"a": 1}, {"a": None}, [], "text", None, 1, {"a": {"b": "c"}}, {"a": "x" * 10**5}]
    header["__metadata__"] = random.choice(values)


EDITS = [edit_type, edit_all_types, edit_shape, edit_shape, edit_offsets, edit_names, swap_names, edit_fields]
EDITS += [edit_entries, edit_metadata]


def edit_text(random: Random, text: str) -> str:
    match random.randrange(6):
        case 0:  # the first name a second time
            return text[:-1] + ", " + text[1 : text.index("}") + 1] + "}"
        case 1:
            return "[" * random.choice((10, 100_000)) + text
        case 2:
            return text.replace("[", random.choice(("[[", "{", "[NaN, ", "[-0, ", "[1e9, ")), 1)
        case 3:
            return text + random.choice((" " * 100, " " * 2**20, "x", "\0", "{}"))
        case 4:
            return random.choice((" ", "\ufeff", "\n", "\0")) + text
        case 5:
            return random.choice(("[]", "null", "1", '""', "{}", "", text[: len(text) // 2]))
    return text


def read_weights(content: bytes, part: str) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Return what the library reads: kernels (n_out, n_in, 3, 3) and biases, as float32, in order of execution."""
    tensors = {name: to_float32(**entry) for name, entry in deserialize(content)}
    return pick_tensors(tensors, part)


def pick_tensors(tensors: dict[str, np.ndarray], part: str) -> list[tuple[np.ndarray, np.ndarray | None]]:
    prefixes = [prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in tensors)]
    prefix = "" if any(".layers." in name for name in tensors) else max(prefixes, key=len)
    tensors = {name.removeprefix(prefix): values for name, values in tensors.items()}
    names = upstream_names(part)
    if any(name.startswith(("decoder.layers.", "encoder.layers.")) for name in tensors):
        names = [
            name.removesuffix(".weight") for name in to_diffusers(part, dict.fromkeys(f"{n}.weight" for n in names))
        ]
    if missing := {name for name in names if name + ".weight" not in tensors}:
        raise ValueError(f"not the weights of a {part}: {missing}")
    return [(tensors[name + ".weight"], tensors.get(name + ".bias")) for name in names]


def to_float32(dtype: str, shape: list[int], data: bytearray) -> np.ndarray:
    if dtype == "BF16":
        halves = np.zeros((len(data) // 2, 2), "<u2")
        halves[:, 1] = np.frombuffer(data, "<u2")
        return halves.view("<f4").reshape(shape)
    with np.errstate(all="ignore"):
        kinds = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
        return np.frombuffer(data, kinds.get(dtype, "u1")).astype(np.float32).reshape(shape if dtype in kinds else -1)


@cache
def load_archives() -> dict[str, bytes]:
    """Return a decoder as PyTorch and Keras save it, made without our code."""
    import h5py
    import torch

    state = load_file(find_weights("photo", "decoder"))
    nested = {"state_dict": {"module." + name: torch.from_numpy(values) for name, values in state.items()}, "epoch": 3}
    bases = {}
    for kind in ("torch", "old torch"):
        with io.BytesIO() as file:
            torch.save(nested, file, _use_new_zipfile_serialization=kind == "torch")
            bases[kind] = file.getvalue()
    with io.BytesIO() as file:
        with h5py.File(file, "w") as tree:
            for number, name in enumerate(upstream_names("decoder")):
                layer = f"layers/conv2d{f'_{number}' * bool(number)}/vars"
                tree[f"{layer}/0"] = state[f"{name}.weight"].transpose(2, 3, 1, 0)
                if f"{name}.bias" in state:
                    tree[f"{layer}/1"] = state[f"{name}.bias"]
        bases["h5"] = file.getvalue()
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("config.json", "{}")
            archive.writestr("model.weights.h5", bases["h5"])
        bases["keras"] = file.getvalue()
    return bases


def make_archive(random: Random) -> tuple[bytes, str, str]:
    """Return a file, what was done to it, and its kind."""
    kind = random.choice(list(load_archives()))
    content = load_archives()[kind]
    if random.random() < 0.1:
        return content, "none", kind
    if random.random() < 0.2:
        return flip(random, content, len(content) // 4, len(content) // 2), "flip", kind
    # What says what is where: at the start, and of an archive at the end.
    content, done = mutate_bytes(random, content, load_archives()["keras"], 2000 if kind != "h5" else 60_000)
    if content and kind in ("torch", "keras") and random.random() < 0.3:
        content = flip(random, content, max(len(content) - 8000, 0))
    return content, done, kind


def read_archive(content: bytes, kind: str) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Return what the libraries read."""
    if "torch" in kind:
        import torch

        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        while not all(isinstance(each, torch.Tensor) for each in found.values()):
            (found,) = (each for each in found.values() if isinstance(each, dict))
        tensors = {name: values.to(torch.float32).numpy() for name, values in found.items()}
        return pick_tensors(tensors, "decoder")
    import h5py

    if kind == "keras":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = archive.read("model.weights.h5")
    pairs: list[tuple[np.ndarray, np.ndarray | None]] = []
    with h5py.File(io.BytesIO(content), "r") as tree:
        for number in range(len(upstream_names("decoder"))):
            layer = tree[f"layers/conv2d{f'_{number}' * bool(number)}/vars"]
            bias = layer["1"][()].astype(np.float32) if "1" in layer else None
            pairs.append((layer["0"][()].astype(np.float32).transpose(3, 2, 0, 1), bias))
    return pairs
