"""What an OME-Zarr says of itself. Source: https://ngff.openmicroscopy.org/0.5/."""

import json
from typing import Any

import numpy as np

from tiler.formats.zarr_shard import CHANNELS, ShardCodec

COLOURS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
"""Names and colours, so that viewers show a colour picture."""


def write_group(n_levels: int, dtype: np.dtype[Any], description: str, *, pixel_size_um: float | None = None) -> bytes:
    """Return the ``zarr.json`` of the image: its levels, and how it was made.

    Args:
        n_levels: of the pyramid.
        dtype: of the pixels.
        description: a JSON object.
        pixel_size_um: side of a pixel in micrometres; without it, places are in pixels.
    """
    largest = int(np.iinfo(dtype).max) if dtype.kind == "u" else 1
    window = {"min": 0, "max": largest, "start": 0, "end": largest}
    unit = {} if pixel_size_um is None else {"unit": "micrometer"}
    places = [{"name": name, "type": "space", **unit} for name in "yx"]
    multiscale = {
        "name": "image",
        "axes": [{"name": "c", "type": "channel"}, *places],
        "datasets": [
            {"path": str(level), "coordinateTransformations": _place_level(level, pixel_size_um or 1.0)}
            for level in range(n_levels)
        ],
        "type": "means of 2 × 2",
    }
    channels = [{"label": label, "color": colour, "window": window, "active": True} for label, colour in COLOURS]
    ome = {"version": "0.5", "multiscales": [multiscale], "omero": {"channels": channels, "rdefs": {"model": "color"}}}
    attributes = {"ome": ome, "taesd-tiler": json.loads(description or "{}")}
    return _to_json({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def write_array(shape: tuple[int, int], codec: ShardCodec) -> bytes:
    """Return the ``zarr.json`` of a level of (height, width) ``shape``."""
    return _to_json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [CHANNELS, *shape],
            "data_type": codec.dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [CHANNELS, codec.shard_px, codec.shard_px]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0 if codec.dtype.kind == "u" else 0.0,
            "codecs": [codec.describe()],
            "attributes": {},
            "dimension_names": ["c", "y", "x"],
        }
    )


def _place_level(level: int, pixel_size: float) -> list[dict[str, Any]]:
    """Return scale and shift of a level: the middle of its first pixel is that of the four below it."""
    side = 2**level * pixel_size
    first = (side - pixel_size) / 2
    shift = [{"type": "translation", "translation": [0.0, first, first]}] if level else []
    return [{"type": "scale", "scale": [1.0, side, side]}, *shift]


def _to_json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode()
