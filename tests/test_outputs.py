"""Every kind of output, from the call to what other libraries read: the pixels, the levels, and how it was made."""

import json
import re

import imagecodecs
import numpy as np
import pytest
import tifffile
from conftest import RepeatModel
from PIL import Image

import tiler
from tiler import models
from tiler.checks import reference as references
from tiler.errors import InputError, OptionError
from tiler.formats.register import describe_output
from tiler.pyramid import halve
from tiler.sources.array_source import ArraySource

HEIGHT, WIDTH, FILE_TILE_PX = 26, 35, 64
TILE_PX = 128


def read_tiff(path):
    with tifffile.TiffFile(path) as tiff:
        [series] = tiff.series
        return [level.asarray() for level in series.levels]


def read_zarr(path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="r")
    return [group[str(level)][:].transpose(1, 2, 0) for level in range(len(list(group.array_keys())))]


def read_pillow(path):
    with Image.open(path) as image:
        return [np.asarray(image)]


def read_16_bit_png(path):
    return [imagecodecs.png_decode(path.read_bytes())]


def read_npy(path):
    return [np.load(path)]


TILED = {"file_tile_px": FILE_TILE_PX}
OUTPUTS = {
    "ome": ("image.tif", TILED | {"layout": "ome"}, read_tiff),
    "uint16": ("image.tif", TILED | {"dtype": "uint16"}, read_tiff),
    "float32": ("image.tif", TILED | {"dtype": "float32", "layout": "ome"}, read_tiff),
    "lzw": ("image.tif", TILED | {"compression": "lzw"}, read_tiff),
    "zstd": ("image.tif", TILED | {"compression": "zstd", "dtype": "uint16"}, read_tiff),
    "webp-lossless": ("image.tif", TILED | {"compression": "webp", "quality": 100}, read_tiff),
    "jxl-lossless": ("image.tif", TILED | {"compression": "jxl", "quality": 100}, read_tiff),
    "zarr": ("image.zarr", TILED, read_zarr),
    "zarr-float32": ("image.ome.zarr", TILED | {"dtype": "float32", "compression": "none"}, read_zarr),
    "png": ("image.png", {}, read_pillow),
    "png-uint16": ("image.png", {"dtype": "uint16"}, read_16_bit_png),
    "jpeg": ("image.jpg", {"quality": 95}, read_pillow),
    "webp": ("image.webp", {"quality": 100}, read_pillow),
    "npy-uint16": ("image.npy", {"dtype": "uint16"}, read_npy),
    "npy-float32": ("image.npy", {"dtype": "float32"}, read_npy),
}
every_output = pytest.mark.parametrize("name", OUTPUTS)


def describe(folder, name):
    file, options, read = OUTPUTS[name]
    return describe_output(folder / file, options), read


@pytest.fixture(scope="module")
def pictured():
    """Latents, the plain whole-image model, and what it makes of them."""
    from taesd_core.variants import find_weights
    from tiler.checks.reference import load_reference

    random = np.random.default_rng(0)
    coarse = random.normal(size=(HEIGHT // 4 + 1, WIDTH // 4 + 1, 4)).repeat(4, 0).repeat(4, 1)[:HEIGHT, :WIDTH]
    latents = (0.5 * coarse + 0.2 * random.normal(size=coarse.shape)).astype(np.float32)
    reference = load_reference(find_weights("photo", "decoder"), ArraySource(latents, 4))
    return latents, reference, reference(latents)


@every_output
def test_it_holds_what_the_whole_image_model_gives_and_its_means_and_is_verified(tmp_path, monkeypatch, pictured, name):
    output, read = describe(tmp_path, name)
    latents, reference, whole = pictured
    monkeypatch.setattr(references, "load_reference", lambda *_: reference)  # loaded once
    report = tiler.decode(latents, output, weights="photo", tile_size_px=TILE_PX)
    assert [path.name for path in tmp_path.iterdir()] == [output.path.name]
    levels = read(output.path)
    assert len(levels) == report.n_levels == (4 if "file_tile_px" in OUTPUTS[name][1] else 1)
    assert report.size_bytes > 10_000
    largest = {"uint8": 255, "uint16": 65535}.get(output.dtype)
    expected = whole if largest is None else np.rint(whole.clip(0, 1).astype(np.float64) * largest)
    assert levels[0].dtype == output.dtype
    difference = np.abs(levels[0] - expected)
    if name == "jpeg":
        assert difference.mean() < 4
    else:
        # Sums of float32 differ by some 1e-5, and so may what they are rounded to.
        assert difference.max() <= (1 if output.dtype == "uint8" else 4e-5 * (largest or 1))
    if largest is None:
        assert levels[0].min() < 0  # not clipped
    for level, below in zip(levels[1:], levels, strict=False):
        np.testing.assert_array_equal(level, halve(below), strict=True)

    found = tiler.verify(output.path, latents, weights="photo", samples=2)
    assert found.ok, found.lines
    assert len(found.levels) == report.n_levels - 1
    other = latents + np.float32(0.02)
    assert not tiler.verify(output.path, other, weights="photo", samples=1).ok


@pytest.mark.parametrize("name", ["a.tif", "a.zarr"])
def test_file_tiles_that_do_not_suit_are_called_so_whatever_the_kind(tmp_path, name):
    output = describe_output(tmp_path / name, {"file_tile_px": 48})
    with pytest.raises(OptionError, match=r"whole file tiles: tile=128 px, file tile=48 px\. The file tile must be"):
        tiler.decode(np.zeros((4, 8, 8), np.float32), output, weights="photo", tile_size_px=TILE_PX)


@pytest.fixture
def stand_in(monkeypatch):
    """Models that take no time."""
    stand_ins = {
        "uint8": RepeatModel(),
        "uint16": lambda *a: RepeatModel()(*a).astype(np.uint16) * 257,
        "float32": lambda *a: RepeatModel()(*a) / np.float32(255),
    }
    monkeypatch.setattr(models, "load_model", lambda path, part, precision, dtype, engine: stand_ins[dtype])


DESCRIBED = [name for name in OUTPUTS if "npy" not in name]


def read_description(path):
    """Return what an image says of how it was made, found by other libraries."""
    if path.is_dir():
        return json.loads((path / "zarr.json").read_text())["attributes"]["taesd-tiler"]
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as tiff:
            if not tiff.is_ome:
                return json.loads(tiff.pages[0].description)
            annotations = tifffile.xml2dict(tiff.ome_metadata)["OME"]["StructuredAnnotations"]["MapAnnotation"]
            return {each["K"]: each["value"] for each in annotations["Value"]["M"]}
    with Image.open(path) as image:
        assert image.info["icc_profile"]
        if path.suffix == ".png":
            return json.loads(image.text["Description"])
        xmp = image.info["xmp"].decode()
        return json.loads(re.search(r'<rdf:li xml:lang="x-default">(.*)</rdf:li>', xmp)[1])


@pytest.mark.parametrize("name", DESCRIBED)
def test_it_says_how_it_was_made_whatever_the_workers_and_however_often_it_was_stopped(
    tmp_path, stand_in, monkeypatch, latents, name
):
    contents = []
    for folder, workers in (("one", 1), ("three", 3), ("stopped", 1)):
        (tmp_path / folder).mkdir()
        output, _ = describe(tmp_path / folder, name)
        how = {"weights": "photo", "tile_size_px": TILE_PX, "workers": workers}
        if folder == "stopped":
            stop_at_the_third_tile(monkeypatch, latents(HEIGHT, WIDTH), output, how)
            how["resume"] = True
        tiler.decode(latents(HEIGHT, WIDTH), output, **how)
        said = read_description(output.path)
        assert said["software"].startswith("taesd-tiler ")
        assert said["weights file"] == "photo_decoder.safetensors"
        assert re.fullmatch("[0-9a-f]{64}", said["weights"])
        assert "sha256" in said["latents"]
        assert said["size"] == f"{HEIGHT * 8} × {WIDTH * 8} px"
        assert said["tile size, latent px"] == TILE_PX // 8
        contents.append((said, output.path))
    assert contents[0][0] == contents[1][0] == contents[2][0]
    if output.path.suffix == ".tif":
        return  # tiles are in the order in which they came
    one, *others = (
        {path.relative_to(each).as_posix(): path.read_bytes() for path in [each, *each.rglob("*")] if path.is_file()}
        for _, each in contents
    )
    assert others == [one, one]


def stop_at_the_third_tile(monkeypatch, latents, output, how):
    with monkeypatch.context() as patch:
        load, n_calls = models.load_model, []

        def load_failing(*words):
            model = load(*words)

            def fail(*window):
                n_calls.append(1)
                if len(n_calls) == 3:
                    raise ZeroDivisionError
                return model(*window)

            return fail

        patch.setattr(models, "load_model", load_failing)
        with pytest.raises(tiler.TileError):
            tiler.decode(latents, output, **how)


@pytest.mark.parametrize("file", ["a.ome.tif", "a.OME.TIFF", "a.ome.btf", "a.tif", "a.btf"])
def test_a_name_that_promises_ome_gets_it_and_no_other_does(tmp_path, stand_in, latents, file):
    source = latents(HEIGHT, WIDTH)
    path = tmp_path / file
    tiler.decode(source, path, weights="photo", tile_size_px=TILE_PX)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
        [series] = tiff.series
        assert (tiff.is_ome, series.kind) == ((True, "ome") if ".ome." in file.lower() else (False, "generic"))
        assert (series.axes, series.shape, len(series.levels)) == ("YXS", (HEIGHT * 8, WIDTH * 8, 3), 3)
        if tiff.is_ome:
            pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
            assert (pixels["SizeY"], pixels["SizeX"], pixels["Type"]) == (HEIGHT * 8, WIDTH * 8, "uint8")
        np.testing.assert_array_equal(series.asarray(), RepeatModel()(source, ((True, True), (True, True))))
    assert tiler.verify(path, source, weights="photo", samples=0).ok


def test_more_memory_than_was_asked_for_is_said(tmp_path, stand_in, latents):
    said = []
    for tile_size_px in (None, 256):
        how = {"memory_bytes": 10**8, "tile_size_px": tile_size_px, "overwrite": True}
        notes = tiler.decode(latents(64, 64), tmp_path / "a.npy", weights="photo", **how).notes
        said += [note for note in notes if "memory" in note]
    assert re.fullmatch(r"about .* were planned for, more than the 100 MB asked for; .* 512 px .*", said[0])
    assert said[1].endswith("tiles of less than 256 px take less")
    report = tiler.decode(latents(8, 8), tmp_path / "b.npy", weights="photo", memory_bytes=10**11)
    assert not any("memory" in note for note in report.notes)


# -- what is refused, before any work


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        ("a.jpg", {"dtype": "uint16"}, "Not an option of a .jpg file: dtype=uint16"),
        ("a.zarr", {"compression": "jpeg"}, "No such compression of an OME-Zarr: compression=jpeg"),
        ("a.zarr", {"layout": "ome"}, "Not an option of a .zarr file"),
        ("a.npy", {"dtype": "int8"}, "No such numbers: dtype=int8"),
        ("a.tif", {"dtype": "complex"}, "No such numbers: dtype=complex"),
        ("a.png", {"dtype": "float32"}, "No such numbers in a PNG: dtype=float32.* Write a TIFF, as a.tif"),
        ("a.tif", {"dtype": "float32", "compression": "jpeg"}, "No such numbers in this compression: dtype=float32"),
        ("a.webp", {"quality": 0}, "No such quality: quality=0"),
        ("a.tif", {"quality": 95}, "No quality in this compression: quality=95, compression=deflate"),
        ("a.tif", {"quality": 100, "compression": "zstd"}, "quality=100, compression=zstd, which loses nothing"),
        ("a.ome.tif", {"layout": "pages"}, r"The name promises OME-XML: .*layout=pages.* or name it a\.tif\."),
        ("a.ome.png", {}, "The name promises OME, which is a TIFF or a Zarr"),
    ],
    ids=str,
)
def test_what_a_kind_cannot_hold_is_refused(tmp_path, latents, file, options, words):
    with pytest.raises(OptionError, match=words):
        tiler.decode(latents(5, 5), describe_output(tmp_path / file, options), weights="photo")
    assert not list(tmp_path.iterdir())


def test_a_name_that_means_another_kind_of_file_is_refused(tmp_path, latents):
    for output in (tiler.Tiff(tmp_path / "a.png"), tiler.Png(tmp_path / "a.tif"), tiler.Npy(tmp_path / "a.ome.zarr")):
        with pytest.raises(OptionError, match="The name promises another kind of file"):
            tiler.decode(latents(5, 5), output, weights="photo")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "upscale", "words"),
    [
        ("a.jpg", 8188, r"image=65504 × 8 px, at most 65500 px a side.*as a.tif, with compression=\"jpeg\""),
        ("a.webp", 2048, 'image=16384 × 8 px, at most 16383 px a side.*as a.tif, with compression="jpeg"'),
        ("a.png", 125_001, 'image=1000008 × 8 px, at most 1000000 px a side.*as a.tif, with compression="deflate"'),
    ],
)
def test_what_is_too_large_for_a_picture_is_refused_with_what_to_use(tmp_path, latents, file, upscale, words):
    with pytest.raises(OptionError, match=words):
        tiler.decode(latents(upscale, 1), tmp_path / file, weights="photo")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("a.tif", {"compression": "webp"}),
        ("a.tif", {"compression": "jxl", "quality": 99}),
        ("a.webp", {}),
    ],
    ids=str,
)
def test_what_cannot_be_verified_is_told_before_and_after(tmp_path, stand_in, latents, file, options):
    output = describe_output(tmp_path / file, options)
    with pytest.raises(OptionError, match="Not to be verified"):
        tiler.decode(latents(9, 9), output, weights="photo", verify=1)
    assert not list(tmp_path.iterdir())
    tiler.decode(latents(9, 9), output, weights="photo")
    with pytest.raises(InputError, match="cannot be verified"):
        tiler.verify(output.path, latents(9, 9), weights="photo")


def test_a_picture_that_takes_too_much_memory_to_encode_is_refused(tmp_path, stand_in, monkeypatch, latents):
    monkeypatch.setattr("tiler.jobs.room.find_memory", lambda: 10**9)
    with pytest.raises(tiler.RefusedError, match="Too little memory"):
        tiler.decode(latents(2000, 2000), tmp_path / "a.jpg", weights="photo", tile_size_px=TILE_PX)
    assert not list(tmp_path.iterdir())
