"""What the numbers of an array are: of which type, packed ones, those that stand for none.

What is said of them besides their type is said by the attributes of netCDF, in arrays of xarray, Zarr and h5py, and
by the tags of GDAL in a TIFF.
Source: CF conventions, 2.5.1 and 8.1; GDAL's GTiff driver, "Metadata" and "Nodata value".
"""

import base64
import re
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tiler.errors import InputError

LATENT_TYPES = ("bfloat16", "float16", "float32", "float64")
"""Number types of latents."""

IMAGE_TYPES = ("uint8", "uint16", "float16", "float32", "float64")
"""Number types of images: 0 to 255, 0 to 65535, or floats in [0, 1]."""

VALUES = {
    np.dtype(np.uint8): (np.arange(256) / 255).astype(np.float32),
    np.dtype(np.uint16): (np.arange(65536) / 65535).astype(np.float32),
}
"""What each integer of an image stands for."""

GDAL_METADATA, GDAL_NODATA = 42112, 42113
"""Tags of a TIFF."""
PACKING = re.compile(r"""role\s*=\s*["'](scale|offset)["'][^>]*>([^<]*)<""")
"""In the XML that GDAL writes; of each channel."""


def refuse_packed(array: Any, name: str) -> None:
    """Refuse an array whose attributes say that its numbers are to be scaled first.

    Raises:
        InputError: they do. Source: CF conventions, 8.1; xarray applies them as it opens a file, and takes them away.
    """
    said: dict[str, float] = {}
    # Anything may be called so in an array of another kind.
    with suppress(Exception):
        attributes = array.attrs
        said = {each: float(attributes[each]) for each in ("scale_factor", "add_offset") if each in attributes}
    if said.get("scale_factor", 1) != 1 or said.get("add_offset", 0) != 0:
        _refuse(said, name, "open the file with xarray and pass its array")


def refuse_packed_tiff(tags: Any, name: str) -> None:
    """Refuse a TIFF of which GDAL says that its numbers are to be scaled first.

    Raises:
        InputError: it does.
    """
    for role, text in PACKING.findall(str(tags.valueof(GDAL_METADATA, ""))):
        value = next(iter(_to_numbers(text)), 0.0)
        if value != (role == "scale"):
            _refuse({role: value}, name, "pass the scaled array")


def find_missing(array: Any, dtype: np.dtype[Any]) -> tuple[float, ...]:
    """Return which values stand for none by an array's attributes, as its type has them."""
    # Anything may be called so in an array of another kind.
    with suppress(Exception):
        attributes = array.attrs
        said = [attributes[each] for each in ("_FillValue", "missing_value") if each in attributes]
        return _narrow([value for each in said for value in _to_numbers(each)], dtype)
    return ()


def find_missing_in_tiff(tags: Any, dtype: np.dtype[Any]) -> tuple[float, ...]:
    """Return which value stands for none by a TIFF's tags, as the type of its samples has it."""
    return _narrow(_to_numbers(str(tags.valueof(GDAL_NODATA, ""))), dtype)


def clear_missing(values: NDArray[np.float32], missing: Iterable[float]) -> NDArray[np.float32]:
    """Return values with NaN for those that stand for none."""
    for each in missing:
        there = values == np.float32(each)
        if there.any():
            values = np.where(there, np.float32(np.nan), values)
    return values


def _refuse(said: dict[str, float], name: str, advice: str) -> NoReturn:
    words = ", ".join(f"{each}={value:g}" for each, value in said.items())
    scale, offset = ("scale", "offset") if set(said) & {"scale", "offset"} else ("scale_factor", "add_offset")
    raise InputError(
        f"Packed numbers: {name}, {words}. What is stored are not the latents, which are numbers * {scale} + {offset}. "
        f"Save those, or {advice}."
    )


def _to_numbers(value: Any) -> list[float]:
    """Return one number or several, of an attribute; none of a text that says none."""
    if not isinstance(value, str):
        return [float(each) for each in np.asarray(value).reshape(-1)]
    text = value.strip("\0 \n")
    with suppress(ValueError):
        return [float(text)]
    # So xarray writes _FillValue into a Zarr of version 3.
    with suppress(ValueError, struct.error):
        return list(struct.unpack("<d", base64.b64decode(text, validate=True)))
    return []


def _narrow(values: Iterable[float], dtype: np.dtype[Any]) -> tuple[float, ...]:
    """Return those values that are finite, rounded as an array of this type has them when it is read."""
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = np.array(list(values), np.float64).astype(dtype).astype(np.float32)
    return tuple(numbers[np.isfinite(numbers)].tolist())


def check_type(dtype: np.dtype[Any], types: Sequence[str], *, name: str) -> None:
    """Refuse numbers that are not of one of ``types``; their byte order does not matter.

    Raises:
        InputError: they are not.
    """
    if dtype.hasobject:
        raise InputError(
            f"Python objects, not numbers: {name}, dtype={describe_type(dtype)}. They could run code "
            "and are never loaded. Save an array of float32."
        )
    if dtype.names is not None:
        raise InputError(
            f"A structured array, not numbers: {name}, dtype={describe_type(dtype)}, fields={describe_fields(dtype)}. "
            "Save one of them."
        )
    if dtype.name in ("void8", "void16"):
        raise InputError(
            f"Raw bytes, not numbers: {name}, dtype=V{dtype.itemsize}. As such NumPy saves bfloat16 (V2) and float8 "
            "(V1), and does not say which. Convert them before: array.astype(numpy.float32)."
        )
    if dtype.name not in types:
        raise InputError(
            f"Wrong number type: {name}, dtype={describe_type(dtype)}. It must be one of "
            f"{', '.join(types)}. Convert it first."
        )


def describe_fields(dtype: np.dtype[Any]) -> str:
    """Return the names of a structured dtype's fields, kept short: there may be thousands."""
    return ascii(", ".join(dtype.names or ()))[1:-1][:60]


def describe_type(dtype: np.dtype[Any]) -> str:
    """Return the name of a dtype, kept short: a structured one may have thousands of fields."""
    return dtype.name[:40]
