"""Files of every format, and arrays of every kind: the axes are told by what they say, or by the table."""

import itertools
import zlib

import h5py
import numpy as np
import pytest
import tifffile
from readings_table import CHANNELS, SIZES, look_up

from tiler.errors import AxesError, AxesQuestion
from tiler.sources.opening import open_latents
from tiler.window import Window


def write_numpy(save, path, array):
    with path.open("wb") as file:
        save(file, array) if save is np.save else save(file, latents=array)


def write_tiff(path, array, **options):
    tifffile.imwrite(path, array, photometric="minisblack", **options)


def write_zarr(path, array, **options):
    zarr = pytest.importorskip("zarr", minversion="3")
    # A folder of another name where the version is 2: it says what its axes are in its attributes.
    attributes = {"_ARRAY_DIMENSIONS": options.pop("attributes")} if "attributes" in options else {}
    stored = zarr.create_array(path, shape=array.shape, dtype=array.dtype, attributes=attributes, **options)
    stored[...] = array


def write_torch(path, array):
    torch = pytest.importorskip("torch")
    torch.save(torch.from_numpy(array), path)


def write_safetensors(path, array, key="latents", **others):
    from safetensors.numpy import save_file

    save_file({key: array, **others}, path)


def open_dask(path, array):
    return pytest.importorskip("dask.array").from_array(array, chunks=-1)


def open_xarray(array, dims):
    return pytest.importorskip("xarray").DataArray(array, dims=dims)


def open_zarr(path, array, **options):
    write_zarr(path, array, **options)
    return pytest.importorskip("zarr").open(path, mode="r")


def open_h5py(path, array, axes):
    dataset = h5py.File(path, "w", driver="core", backing_store=False).create_dataset("x", data=array)
    for dimension, name in zip(dataset.dims, DIMENSIONS[array.ndim][axes], strict=True):
        dimension.label = name
    return dataset


COMFY = {"key": "latent_tensor", "latent_format_version_0": np.zeros(0, np.float32)}
DIMENSIONS = {3: {"HWC": ("y", "x", "c"), "CHW": ("channel", "y", "x")}, 4: {"BHWC": "nyxc", "BCHW": "bcyx"}}
FORMATS = {
    "npy": (lambda path, array: write_numpy(np.save, path, array), None),
    "npy, Fortran": (lambda path, array: write_numpy(np.save, path, np.asfortranarray(array)), None),
    "npz": (lambda path, array: write_numpy(np.savez, path, array), None),
    "npz, compressed": (lambda path, array: write_numpy(np.savez_compressed, path, array), None),
    "safetensors": (write_safetensors, "always"),
    "latent": (lambda path, array: write_safetensors(path, array, **COMFY), "always"),
    "pt": (write_torch, "usually"),
    "zarr": (write_zarr, None),
    "zarr 2": (lambda path, array: write_zarr(path, array, zarr_format=2), None),
    "tiff of pages": (write_tiff, None),
    "array": (lambda path, array: array, None),
    "dask": (open_dask, None),
    "torch": (lambda path, array: pytest.importorskip("torch").from_numpy(array), "usually"),
}
"""How each is written or made, and which order of axes it has."""
NAMED = {
    "zarr": lambda path, array, axes: write_zarr(path, array, dimension_names=tuple(DIMENSIONS[array.ndim][axes])),
    "zarr 2": lambda path, array, axes: write_zarr(
        path, array, zarr_format=2, attributes=list(DIMENSIONS[array.ndim][axes])
    ),
    "xarray": lambda path, array, axes: open_xarray(array, tuple(DIMENSIONS[array.ndim][axes])),
    "zarr, object": lambda path, array, axes: open_zarr(
        path, array, dimension_names=tuple(DIMENSIONS[array.ndim][axes])
    ),
    "h5py, object": open_h5py,
    "tiff": lambda path, array, axes: write_tiff(
        path, array, planarconfig="contig" if axes == "HWC" else "separate", metadata=None
    ),
    "tiff, zlib": lambda path, array, axes: write_tiff(
        path, array, planarconfig="contig" if axes == "HWC" else "separate", compression="zlib"
    ),
    "tiff, pages": lambda path, array, axes: write_tiff(path, array, metadata=None),
    "tiff, ImageJ": lambda path, array, axes: write_tiff(path, array, imagej=True),
    "tiff, OME": lambda path, array, axes: write_tiff(path, array, ome=True, metadata={"axes": "CYX"}),
}
"""How each is written so that it says what its axes are."""


def choose_shapes(n_axes, number, seed):
    random = np.random.default_rng(seed)
    shapes = [shape for shape in itertools.product(SIZES, repeat=n_axes) if np.prod(shape) <= 2**17]
    # Nothing is learnt of most: half of them are to have a 4C or a C somewhere.
    likely = [shape for shape in shapes if look_up(shape, 16, None) != "no" or look_up(shape, 32, None) != "no"]
    return [each[i] for each in (shapes, likely) for i in random.choice(len(each), number // 2, replace=False)]


def check_files(tmp_path, write, shapes, right, **how):
    for number, shape in enumerate(shapes):
        array = np.random.default_rng(number).normal(size=shape).astype(np.float32)
        path = tmp_path / f"{number}"
        opened = write(path, array)
        for channels in CHANNELS:
            expected = right(shape, channels)
            if not expected.isupper():
                with pytest.raises(AxesQuestion if expected == "ask" else AxesError):
                    open_latents(path if opened is None else opened, channels, index=0, **how)
                continue
            source = open_latents(path if opened is None else opened, channels, index=0, **how)
            assert source.axes == expected, (shape, channels)
            batch = array if "B" in expected else array[None]
            batch = batch.transpose(0, 2, 3, 1) if expected.endswith("CHW") else batch
            np.testing.assert_array_equal(source.read(Window.whole(*source.shape[:2])), batch[0])


@pytest.mark.parametrize("name", FORMATS)
def test_files_of_every_format_are_read_as_the_table_says(tmp_path, name):
    write, first = FORMATS[name]
    shapes = choose_shapes(3, 6, zlib.crc32(name.encode())) + choose_shapes(4, 6, 1)
    # A TIFF of 4,096 pages or more is refused, whatever they are.
    shapes = [shape for shape in shapes if "pages" not in name or np.prod(shape[:-2]) < 1000]
    check_files(tmp_path, write, shapes, lambda shape, channels: look_up(shape, channels, first))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_hundreds_of_files_of_every_format_are_read_as_the_table_says(tmp_path, name):
    write, first = FORMATS[name]
    shapes = choose_shapes(3, 150, zlib.crc32(name.encode())) + choose_shapes(4, 150, zlib.crc32(name.encode()))
    # A TIFF of 4,096 pages or more is refused, whatever they are.
    shapes = [shape for shape in shapes if "pages" not in name or np.prod(shape[:-2]) < 1000]
    check_files(tmp_path, write, shapes, lambda shape, channels: look_up(shape, channels, first))


def check_named(tmp_path, name, number):
    orders = (
        ["CHW"]
        if name in ("tiff, OME", "tiff, pages", "tiff, ImageJ")
        else ["CHW", "HWC"] + (["BCHW", "BHWC"] if "tiff" not in name else [])
    )
    for axes in orders:
        shapes = choose_shapes(len(axes), number, zlib.crc32((name + axes).encode()))
        # tifffile leaves axes of 1 out, and has no single sample apart.
        shapes = [shape for shape in shapes if 1 not in shape] if "tiff" in name else shapes
        (tmp_path / axes).mkdir()

        def right(shape, channels, axes=axes):
            packed = channels == 32 and axes.endswith("CHW") and shape[axes.index("C")] == 128
            return axes if shape[axes.index("C")] == channels else "packed" if packed else "no"

        check_files(tmp_path / axes, lambda path, array, axes=axes: NAMED[name](path, array, axes), shapes, right)


@pytest.mark.parametrize("name", NAMED)
def test_files_that_name_their_axes_are_read_as_they_say(tmp_path, name):
    check_named(tmp_path, name, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_hundreds_of_files_that_name_their_axes_are_read_as_they_say(tmp_path, name):
    check_named(tmp_path, name, 150)
