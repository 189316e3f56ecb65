"""Mutated .npz, .safetensors and TIFF files of latents, and what NumPy, safetensors and tifffile read of them."""

import io
import struct
import zipfile
from random import Random

import numpy as np
import tifffile
from fuzz_bytes import Mutated, flip, mutate_bytes
from safetensors.numpy import load, save

CHANNELS = 4


def make_array(random: Random) -> np.ndarray:
    shape = (random.randint(1, 2), CHANNELS, random.randint(1, 9), random.randint(1, 9))
    dtype = random.choice(("<f4", "<f2", "<f8"))
    return np.random.default_rng(random.randrange(2**32)).normal(size=shape).astype(dtype)


def to_npz(random: Random, array: np.ndarray) -> bytes:
    file = io.BytesIO()
    random.choice((np.savez, np.savez_compressed))(file, z=array, other=np.arange(3))
    return file.getvalue()


def to_tensors(random: Random, array: np.ndarray) -> bytes:
    return save({"z": array, "other": np.arange(3)})


def to_tiff(random: Random, array: np.ndarray) -> bytes:
    file = io.BytesIO()
    options = random.choice(
        ({}, {"tile": (16, 16)}, {"compression": "zlib"}, {"compression": "zlib", "tile": (16, 16)})
    )
    tifffile.imwrite(file, array[0], photometric="minisblack", planarconfig="separate", metadata=None, **options)
    return file.getvalue()


WRITERS = {"npz": to_npz, "tensors": to_tensors, "tiff": to_tiff}
HEADER_BYTES = {"npz": 60, "tensors": 160, "tiff": 200}


def make_latents(random: Random, kind: str) -> Mutated:
    content = WRITERS[kind](random, make_array(random))
    if random.random() < 0.25:
        return content, "none"
    if kind == "npz" and random.random() < 0.5:
        # The list of members at its end is what a reader believes.
        start = content.index(b"PK\x01\x02")
        return flip(random, content, start), "list"
    if kind == "tensors" and random.random() < 0.6:
        return edit_numbers(random, content), "numbers"
    return mutate_bytes(random, content, WRITERS[kind](random, make_array(random)), HEADER_BYTES[kind])


def edit_numbers(random: Random, content: bytes) -> bytes:
    """Change a digit in the header, which stays as long."""
    length = struct.unpack("<Q", content[:8])[0]
    digits = [place for place in range(8, 8 + length) if content[place : place + 1].isdigit()]
    place = random.choice(digits)
    return content[:place] + random.choice(b"0123456789").to_bytes(1) + content[place + 1 :]


def read_latents(content: bytes, kind: str, key: str) -> np.ndarray:
    """Return the array ``key`` by another library, whole, as (batch, channels, height, width)."""
    if kind == "tensors":
        return load(content)[key]
    if kind == "tiff":
        return tifffile.imread(io.BytesIO(content))[None]
    with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open(f"{key}.npy") as member:
        # What is not compressed is read by window, which no checksum can be compared with.
        member._expected_crc = None
        return np.lib.format.read_array(member, allow_pickle=False)
