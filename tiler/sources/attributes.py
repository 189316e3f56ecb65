"""What an array of xarray, Zarr, netCDF4 or h5py says of its numbers: whether they are packed, which are not there."""

from contextlib import suppress
from typing import Any

from tiler.errors import InputError


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
        words = ", ".join(f"{each}={value:g}" for each, value in said.items())
        raise InputError(
            f"Packed numbers: {name}, {words}. What is stored are not the latents, which are numbers * scale_factor + "
            "add_offset. Save those, or open the file with xarray and pass its array."
        )


def tell_absent_chunks(array: Any) -> tuple[str, ...]:
    """Return what is to be said of an array of Zarr that lacks chunks: all of the fill value, or never written."""
    # Anything may be called so in an array of another kind.
    with suppress(Exception):
        n_chunks, n_there = int(array.nchunks), int(array.nchunks_initialized)
        value = 0.0 if array.fill_value is None else float(array.fill_value)
        if n_there < n_chunks:
            return (
                f"{n_chunks - n_there} of {n_chunks} chunks of the input are not there and were read as its fill "
                f"value, {value}",
            )
    return ()
