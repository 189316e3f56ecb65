import base64
import builtins
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

import tiler
from tiler.errors import AxesQuestion, InputError, NonFiniteError
from tiler.sources.opening import open_latents
from tiler.sources.ranges import Checked
from tiler.window import Span, Window

zarr = pytest.importorskip("zarr", minversion="3")

numcodecs = pytest.importorskip("numcodecs")

BATCH = np.random.default_rng(0).normal(size=(2, 4, 30, 50)).astype(np.float32)
WHOLE = np.moveaxis(BATCH[1], 0, 2)
KINDS = {
    "version 3": {"chunks": (1, 4, 16, 16)},
    "version 2": {"chunks": (1, 4, 16, 16), "zarr_format": 2},
    "sharded": {"chunks": (1, 4, 8, 8), "shards": (1, 4, 16, 16)},
    "not compressed": {"chunks": (2, 1, 30, 7), "compressors": None},
    "gzip": {"chunks": (1, 4, 16, 16), "compressors": zarr.codecs.GzipCodec()},
    "blosc": {"chunks": (1, 4, 16, 16), "compressors": zarr.codecs.BloscCodec()},
}


def save(path, array, **options):
    stored = zarr.create_array(path, shape=array.shape, dtype=array.dtype, **options)
    stored[...] = array
    return path


def read(source):
    return source.read(Window.whole(*source.shape[:2]))


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_windows_are_what_was_stored(tmp_path, options, dtype):
    source = open_latents(save(tmp_path / "x", BATCH.astype(dtype), **options), 4, index=1)
    expected = WHOLE.astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(read(source), expected)
    window = Window(Span(7, 21), Span(15, 50))
    values = source.read(window)
    np.testing.assert_array_equal(values, expected[window.slices])
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    assert values.flags.writeable


def test_only_the_chunks_of_a_window_are_read(tmp_path):
    path = save(tmp_path / "x", BATCH[1], chunks=(4, 10, 10), compressors=None)
    source = open_latents(path, 4)
    for chunk in path.glob("c/*/*/*"):
        if chunk.relative_to(path / "c").parts[1:] != ("1", "2"):
            chunk.write_bytes(b"broken")
    window = Window(Span(10, 20), Span(20, 30))
    np.testing.assert_array_equal(source.read(window), WHOLE[window.slices])
    with pytest.raises(InputError, match=r"A chunk is damaged: path=.*window=\(rows 9:20") as caught:
        source.read(Window(Span(9, 20), Span(20, 30)))
    assert str(caught.value).isprintable()


def test_an_array_of_a_group_is_chosen_by_its_key(tmp_path):
    group = zarr.create_group(tmp_path / "x")
    for name, array in {"one": BATCH[0], "deep/two": BATCH[1], "seed": np.arange(3)}.items():
        group.create_array(name, data=array)
    np.testing.assert_array_equal(read(open_latents(tmp_path / "x", 4, key="deep/two")), WHOLE)
    np.testing.assert_array_equal(read(open_latents(tmp_path / "x/deep/two", 4)), WHOLE)
    np.testing.assert_array_equal(read(open_latents(tmp_path / "x/deep", 4)), WHOLE)
    with pytest.raises(InputError, match=r"Several arrays: path=.*one \(4, 30, 50\).*key="):
        open_latents(tmp_path / "x", 4)
    with pytest.raises(InputError, match=r"An array, not a group.*key=two"):
        open_latents(tmp_path / "x/deep/two", 4, key="two")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_says_what_its_axes_are(tmp_path, version):
    group = zarr.create_group(tmp_path / "x", zarr_format=2 if version == "0.4" else 3)
    values = np.random.default_rng(0).normal(size=(4, 9, 4)).astype(np.float32)
    group.create_array("0", data=values)
    with pytest.raises(AxesQuestion):
        open_latents(tmp_path / "x", 4)
    for names, right in (("yxc", values), ("cyx", values.transpose(1, 2, 0))):
        multiscales = [{"axes": [{"name": name} for name in names], "datasets": [{"path": "0"}], "version": version}]
        group.attrs.update({"multiscales": multiscales} if version == "0.4" else {"ome": {"multiscales": multiscales}})
        np.testing.assert_array_equal(read(open_latents(tmp_path / "x", 4)), right)
    multiscales[0]["axes"].append({"name": "t"})
    group.attrs.update({"multiscales": multiscales, "ome": {"multiscales": multiscales}})
    with pytest.raises(AxesQuestion):
        open_latents(tmp_path / "x", 4)
    group.attrs.update({"multiscales": [{"axes": 7}], "ome": {"multiscales": {"a": 1}}})
    with pytest.raises(InputError):
        open_latents(tmp_path / "x", 4)


def change_metadata(path, **changes):
    name = ".zarray" if (path / ".zarray").exists() else "zarr.json"
    metadata = json.loads((path / name).read_text()) | changes
    (path / name).write_text(json.dumps(metadata))


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("field", ["filters", "compressor"])
def test_a_pickle_is_never_run(tmp_path, field):
    path, marker = tmp_path / "x", tmp_path / "it ran"
    save(path, BATCH[1], chunks=BATCH[1].shape, zarr_format=2, compressors=None)
    [chunk] = path.glob("0.0.0")
    chunk.write_bytes(pickle.dumps(Bomb(marker)))
    codec = {"id": "pickle", "protocol": 5}
    change_metadata(path, **{field: [codec] if field == "filters" else codec})
    with pytest.raises(InputError, match=r"Not a Zarr array|unknown codec|Python objects"):
        open_latents(path, 4)
    assert not marker.exists()


QUANTIZE = [numcodecs.Quantize(digits=2, dtype="<f4")]
BAD = {
    "no metadata": (lambda path: (path / "zarr.json").write_text("{"), "Not a Zarr array"),
    "list": (lambda path: (path / "zarr.json").write_text("[]"), "Not a Zarr array"),
    "no such codec": (lambda path: change_metadata(path, codecs=[{"name": "x\n"}]), "Not a Zarr array|unknown codec"),
    "unknown codec": (
        lambda path: save(path, BATCH[1], chunks=(4, 10, 10), zarr_format=2, overwrite=True, filters=QUANTIZE),
        r"unknown codec: .*codec=quantize",
    ),
    "huge chunks": (
        lambda path: change_metadata(
            path, chunk_grid={"name": "regular", "configuration": {"chunk_shape": [4, 2**20, 2**20]}}
        ),
        "Chunks too large",
    ),
    "integers": (lambda path: change_metadata(path, data_type="int32", fill_value=0), "Wrong number type"),
    "channels": (lambda path: change_metadata(path, shape=[3, 30, 50]), "expected channels=4"),
    "negative": (lambda path: change_metadata(path, shape=[4, -30, 50]), "Not a Zarr array|Nothing in it"),
}


@pytest.mark.parametrize(("change", "says"), BAD.values(), ids=BAD)
def test_bad_folders_are_refused_in_one_line(tmp_path, change, says):
    path = save(tmp_path / "x", BATCH[1], chunks=(4, 10, 10))
    change(path)
    with pytest.raises(InputError, match=says) as caught:
        open_latents(path, 4)
    assert str(caught.value).isprintable()


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(InputError, match="A folder, not a file"):
        open_latents(tmp_path, 4)


def test_the_fingerprint_tells_chunks_and_index(tmp_path):
    path = save(tmp_path / "x", BATCH, chunks=(1, 4, 10, 10), compressors=None)
    texts = [open_latents(path, 4, index=index).fingerprint for index in (0, 1, 1)]
    zarr.open(path, mode="r+")[1, 0, 0, 0] = 7
    texts.append(open_latents(path, 4, index=1).fingerprint)
    assert texts[1] == texts[2]
    assert len(set(texts)) == 3


def test_without_zarr_one_line_says_what_to_install(tmp_path, monkeypatch):
    path = save(tmp_path / "x", BATCH[1], chunks=(4, 10, 10))
    import_ = builtins.__import__

    def refuse(name, *arguments):
        if name == "zarr":
            raise ImportError(name)
        return import_(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"pip install 'taesd-tiler\[zarr\]'"):
        open_latents(path, 4)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("said", [{"scale_factor": 2.0}, {"add_offset": 0.5}, {"scale_factor": 1.0, "add_offset": 1}])
def test_numbers_that_are_to_be_scaled_first_are_refused(tmp_path, zarr_format, said):
    array = zarr.create_array(tmp_path / "a", shape=(4, 5, 7), dtype="float32", zarr_format=zarr_format)
    array.attrs.update({"scale_factor": 1.0, "add_offset": 0.0})
    open_latents(tmp_path / "a", 4)
    array.attrs.update(said)
    for opened in (tmp_path / "a", array):
        with pytest.raises(InputError, match="Packed numbers"):
            open_latents(opened, 4)


def test_longitude_and_latitude_are_columns_and_rows(tmp_path):
    values = np.moveaxis(WHOLE, 0, 1)
    array = zarr.create_array(
        tmp_path / "a", shape=values.shape, dtype="float32", dimension_names=("longitude", "latitude", "band")
    )
    array[...] = values
    source = open_latents(tmp_path / "a", 4)
    np.testing.assert_array_equal(source.read(Window.whole(30, 50)), WHOLE)


ABSENT = {
    "version 2": ({"chunks": (4, 10, 10), "zarr_format": 2}, ["0.1.2", "0.2.4"], (2, 15)),
    "version 3": ({"chunks": (4, 10, 10)}, ["c/0/1/2", "c/0/2/4"], (2, 15)),
    "sharded": ({"chunks": (4, 5, 10), "shards": (4, 10, 10)}, ["c/0/1/2", "c/0/2/4"], (4, 30)),
}


@pytest.mark.parametrize(("options", "files", "counts"), ABSENT.values(), ids=ABSENT)
def test_chunks_that_are_not_there_are_told(tmp_path, options, files, counts):
    path = save(tmp_path / "x", BATCH[1], **options, fill_value=0.5)
    assert open_latents(path, 4).notes == ()
    for name in files:
        (path / name).unlink()
    expected = WHOLE.copy()
    expected[10:20, 20:30] = expected[20:30, 40:50] = 0.5
    note = f"{counts[0]} of {counts[1]} chunks of the input are not there and were read as its fill value, 0.5"
    for opened in (path, zarr.open(path, mode="r")):
        source = open_latents(opened, 4)
        assert source.notes == (note,)
        np.testing.assert_array_equal(read(source), expected)


@pytest.mark.parametrize("location", ["start", "end"])
def test_chunks_that_are_not_there_inside_of_a_shard_are_told(tmp_path, location):
    shards = {"shape": (4, 20, 20), "index_location": location}
    path = save(tmp_path / "x", BATCH[1], chunks=(4, 5, 10), shards=shards)
    # Shards go on beyond the edge of the array, but there are no chunks of it.
    assert open_latents(path, 4).notes == ()
    # Chunks of nothing but the fill value are not stored.
    array = zarr.open(path, mode="r+")
    array[:, 5:10, 10:20] = array[:, 25:30, 40:50] = 0
    assert len(list(path.glob("c/*/*/*"))) == 6
    note = "2 of 30 chunks of the input are not there and were read as its fill value, 0.0"
    assert open_latents(path, 4).notes == (note,)
    (path / "c/0/1/2").unlink()
    assert open_latents(path, 4).notes == (note.replace("2 of", "3 of"),)


def test_a_dry_run_and_verify_tell_of_chunks_that_are_not_there(tmp_path):
    path = save(tmp_path / "x", BATCH[1], chunks=(4, 30, 10))
    (path / "c/0/0/3").unlink()
    note = "1 of 5 chunks of the input are not there and were read as its fill value, 0.0"
    assert tiler.plan_decode(path).summary().splitlines()[-1] == f"note     {note}"
    tiler.decode(path, tmp_path / "x.npy", weights="photo")
    found = tiler.verify(tmp_path / "x.npy", path, weights="photo", samples=1)
    assert found.ok
    assert f"note {note}" in found.lines
    assert found.verdict.endswith(note)


@pytest.mark.parametrize("upscale", [1, 2])
def test_a_report_tells_of_chunks_that_are_not_there(tmp_path, upscale):
    path = save(tmp_path / "x", BATCH[1], chunks=(4, 30, 10))
    (path / "c/0/0/3").unlink()
    report = tiler.decode(tiler.Latents(path, upscale=upscale), tmp_path / "x.npy", weights="photo")
    assert report.notes == ("1 of 5 chunks of the input are not there and were read as its fill value, 0.0",)


def encode_fill(value):
    """As xarray writes it into a Zarr of version 3."""
    return base64.b64encode(struct.pack("<d", value)).decode()


MISSING = {
    "_FillValue": {"_FillValue": -9999.1},
    "of xarray": {"_FillValue": encode_fill(-9999.1)},
    "missing_value": {"missing_value": [7.5, -9999.1]},
    "text": {"_FillValue": "nan", "missing_value": "-9999.1"},
    "both": {"_FillValue": float("inf"), "missing_value": -9999.1},
}


@pytest.mark.parametrize("said", MISSING.values(), ids=MISSING)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("opens", ["path", "zarr"])
def test_values_that_are_missing_by_an_attribute_are_nan(tmp_path, said, dtype, opens):
    values = BATCH[1].astype(dtype)
    values[2, 9, 11], values[2, 9, 12] = -9999.1, -9990
    array = zarr.create_array(tmp_path / "x", shape=values.shape, dtype=dtype)
    array[...] = values
    np.testing.assert_array_equal(read(open_latents(tmp_path / "x", 4)), np.moveaxis(values, 0, 2).astype(np.float32))
    array.attrs.update(said)
    source = open_latents(tmp_path / "x" if opens == "path" else array, 4)
    expected = np.moveaxis(values, 0, 2).astype(np.float32)
    expected[9, 11, 2] = np.nan
    np.testing.assert_array_equal(read(source), expected)
    with pytest.raises(NonFiniteError, match=r"value=nan at row 9, column 11, channel 2.*_FillValue"):
        Checked(source).read(Window.whole(30, 50))


def test_missing_values_of_xarray(tmp_path):
    """What xarray has decoded keeps its attributes, but as .encoding."""
    xarray = pytest.importorskip("xarray")
    values = BATCH[1].copy()
    values[2, 9, 11] = -9999
    decoded = xarray.DataArray(values, dims=("band", "y", "x"))
    decoded.encoding["_FillValue"] = -9999
    np.testing.assert_array_equal(read(open_latents(decoded, 4)), np.moveaxis(values, 0, 2))
    expected = np.moveaxis(values, 0, 2).copy()
    expected[9, 11, 2] = np.nan
    raw = xarray.DataArray(values, dims=("band", "y", "x"), attrs={"_FillValue": np.float32(-9999)})
    np.testing.assert_array_equal(read(open_latents(raw, 4)), expected)
