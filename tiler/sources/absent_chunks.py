"""Chunks of a Zarr array that are not there: all of the fill value, or never written.

A shard that is there may lack some of its chunks; which, only its index knows.
Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/.
"""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

ABSENT = 2**64 - 1
"""Offset of a chunk that a shard lacks."""


def tell_absent_chunks(array: Any) -> tuple[str, ...]:
    """Return what is to be said of an array of Zarr that lacks chunks."""
    # Anything may be called so in an array of another kind.
    with suppress(Exception):
        if getattr(array, "shards", None):
            n_chunks = math.prod(-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True))
            n_there = count_in_shards(array)
        else:
            n_chunks, n_there = int(array.nchunks), int(array.nchunks_initialized)
        value = 0.0 if array.fill_value is None else float(array.fill_value)
        if n_there < n_chunks:
            return (
                f"{n_chunks - n_there} of {n_chunks} chunks of the input are not there and were read as its fill "
                f"value, {value}",
            )
    return ()


def count_in_shards(array: Any) -> int:
    """Return how many chunks of an array on a disk are there, by the indexes of its shards."""
    sharding = array.metadata.to_dict()["codecs"][0]["configuration"]
    index_codecs = {codec["name"]: codec.get("configuration", {}) for codec in sharding["index_codecs"]}
    at_end = sharding.get("index_location", "end") == "end"
    order = "<" if index_codecs["bytes"].get("endian", "little") == "little" else ">"
    grid = [shard // chunk for shard, chunk in zip(array.shards, array.chunks, strict=True)]
    n_bytes = 16 * math.prod(grid)
    folder, n_there = Path(array.store.root) / array.path, 0
    for place in np.ndindex(*(-(-size // shard) for size, shard in zip(array.shape, array.shards, strict=True))):
        path = folder / array.metadata.encode_chunk_key(place)
        if not path.is_file():
            continue
        with path.open("rb") as file:
            if at_end:
                file.seek(-n_bytes - 4 * ("crc32c" in index_codecs), 2)
            index = np.frombuffer(file.read(n_bytes), f"{order}u8").reshape(*grid, 2)
        # Those beyond the edge are no chunks of the array.
        ends = zip(array.shape, place, array.shards, array.chunks, strict=True)
        inside = tuple(slice(-(-(size - number * shard) // chunk)) for size, number, shard, chunk in ends)
        n_there += int(np.count_nonzero(index[inside][..., 0] != ABSENT))
    return n_there
