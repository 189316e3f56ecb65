"""Mutated .npy files, and what NumPy reads of them."""

import io
import struct
from random import Random

import numpy as np
from fuzz_bytes import Mutated, flip, mutate_bytes

DESCRIPTIONS = [
    *("'<f4'", "'>f4'", "'<f2'", "'>f8'", "'|u1'", "'=f4'", "'float32'", "'f'", "'e'", "'d'", "'B'"),
    *("'|O'", "'<U4'", "'|S4'", "'|V4'", "'<c8'", "'<i4'", "'<M8[s]'", "'<f16'", "'<q9'", "''", "'<f4 '", "'é'", "'?'"),
    *("[('a', '<f4')]", "'<f4,<f4'", "('<f4', (2,))", "[('a', '|O')]", "[('a', [('b', '<f4')])]", "{'a': ('<f4', 0)}"),
    *("{'names': ['a'], 'formats': ['<f4'], 'offsets': [-4], 'itemsize': 4}", "('<f4', (10**9, 10**9))"),
    *("4", "None", "[]", "()", "b'<f4'", "1e999", "'<f4' '<f8'", "'<f99999999999999999999'", "'(1000000,)<f4'"),
]
FLAGS = ["True", "False", "None", "0", "1", "'False'", "[]", "2**3", "-1"]
SIZES = ["0", "-1", "1", "4", "3", "2147483648", "4294967297", "9223372036854775807", "18446744073709551616", "1000000"]
SIZES += ["1" + "0" * 30, "0x" + "f" * 500, "1" * 5000, "True", "1.0", "'4'", "(4,)", "[4]", "None", "4L", "4_0", "1e3"]
SIZES += ["9" * 25, "nan", "4j", "b'4'", "__import__('os')", "lambda: 4", "...", "4 # 5", "é"]
WHOLES = [
    "()",
    "4",
    "(4)",
    "[4, 5, 6]",
    "(" * 200 + "4" + ")" * 200,
    "None",
    "'456'",
    "{4, 5, 6}",
    "(4,) * 3",
    "(4, 5, 6",
]
LAYOUTS = ["chw", "1chw", "hwc", "1hwc"]


def make_array(random: Random, channels: int) -> np.ndarray:
    values = np.random.default_rng(random.randrange(2**32))
    height, width = random.randint(1, 9), random.randint(1, 9)
    array = values.normal(size=(height, width, channels))
    types = ["<f4", ">f4", "<f2", ">f2", "<f8", ">f8"] + ["|u1"] * (channels == 3)
    dtype = random.choice(types)
    array = (array * 40 + 120).clip(0, 255).astype(dtype) if dtype == "|u1" else array.astype(dtype)
    layout = random.choice(LAYOUTS)
    array = array if layout.endswith("hwc") else array.transpose(2, 0, 1)
    array = array[None] if layout.startswith("1") else array
    return np.asarray(array, order=random.choice("CF"))


def to_bytes(array: np.ndarray, version: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


def make_npy(random: Random, channels: int) -> Mutated:
    array = make_array(random, channels)
    version = random.choice(((1, 0), (1, 0), (2, 0)))
    content = to_bytes(array, version)
    values_start = len(content) - array.nbytes
    kind = random.random()
    if kind < 0.03:
        return content, "none"
    if kind < 0.15:
        return flip(random, content, values_start), "values"
    if kind < 0.5:
        return mutate_bytes(random, content, to_bytes(make_array(random, channels), (1, 0)), values_start)
    return edit_header(random, array, version[0]), "header edit"


def edit_header(random: Random, array: np.ndarray, version: int) -> bytes:
    """A header of other values, in the old syntax more often than not, before values that may fit."""
    shape: list[str] = [str(size) for size in array.shape]
    description, flag = f"'{array.dtype.str}'", str(array.flags.f_contiguous and not array.flags.c_contiguous)
    values = array.tobytes(order="A")
    whole = None
    for _ in range(random.choice((1, 1, 2, 3))):
        match random.randrange(7):
            case 0:
                description = random.choice(DESCRIPTIONS)
            case 1:
                flag = random.choice(FLAGS)
            case 2:
                shape[random.randrange(len(shape))] = random.choice(SIZES)
            case 3:
                random.shuffle(shape)
            case 4:
                shape.insert(random.randrange(len(shape) + 1), random.choice(SIZES))
            case 5:
                whole = random.choice(WHOLES)
            case 6:
                values = random.choice((values * 2, values[: len(values) // 2], b"", values))
    whole = whole or f"({', '.join(shape)}, )"
    fields = [f"'descr': {description}", f"'fortran_order': {flag}", f"'shape': {whole}"]
    if random.random() < 0.2:
        match random.randrange(4):
            case 0:
                fields.pop(random.randrange(3))
            case 1:
                fields.append(random.choice(fields))
            case 2:
                fields.append(random.choice(("'more': 1", "1: 2", "**{}", "'shape': (4, 1, 1)")))
            case 3:
                random.shuffle(fields)
    text = random.choice(
        ("{%s, }", "{%s}", "{%s, }", "dict(%s)", "{%s, }\\", "({%s})", "{%s} #", "\ufeff{%s}", "-{%s}")
    )
    text = text % ", ".join(fields) if random.random() < 0.3 else "{" + ", ".join(fields) + ", }"
    text += random.choice(("\n", "\n", "", " " * 100 + "\n", " " * random.choice((9_000, 10_000, 60_000)), "\0"))
    encoded = text.encode("utf-8" if version == 3 else "latin-1", "replace")
    if random.random() < 0.1:
        version = random.choice((0, 1, 2, 3, 255))
    length = len(encoded) if random.random() < 0.9 else random.choice((0, 1, 60_000, len(encoded) + 4))
    size = struct.pack("<H", length % 2**16) if version == 1 else struct.pack("<I", length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + encoded + values


def read_npy(content: bytes, channels: int) -> np.ndarray:
    """Return the (height, width, channels) float32 values by NumPy's own reader, which has read all of ``content``."""
    # Without the spaces at the end, for which NumPy's search for numbers of Python 2 takes minutes.
    width = 2 if content[6] == 1 else 4
    length = int.from_bytes(content[8 : 8 + width], "little")
    text = content[8 + width : 8 + width + length].rstrip(b" \n")
    file = io.BytesIO(content[:8] + len(text).to_bytes(width, "little") + text + content[8 + width + length :])
    array = np.lib.format.read_array(file, allow_pickle=False, max_header_size=10_000)
    if file.read(1):
        raise ValueError("something follows")
    if array.dtype.name not in ("float16", "float32", "float64", "uint8"):
        raise ValueError(f"no numbers: {array.dtype}")
    if array.ndim not in (3, 4) or min(array.shape) < 1:
        raise ValueError(f"no map: {array.shape}")
    if array.ndim == 4:
        if array.shape[0] != 1:
            raise ValueError(f"a batch: {array.shape}")
        array = array[0]
    if array.shape[0] == array.shape[2] == channels:
        raise ValueError(f"two readings: {array.shape}")
    array = array.transpose(1, 2, 0) if array.shape[0] == channels else array
    if array.shape[2] != channels:
        raise ValueError(f"no map: {array.shape}")
    if array.dtype == np.uint8:
        return (array / 255).astype(np.float32)
    with np.errstate(all="ignore"):
        return array.astype(np.float32)
