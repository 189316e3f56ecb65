"""How large a pixel is said to be, where somebody asks for it, as other libraries read it."""

import json
import warnings

import numpy as np
import pytest
import tifffile
from conftest import RepeatModel
from PIL import Image
from small_job import CountingModel

import tiler
from tiler import models
from tiler.errors import OptionError
from tiler.formats.register import describe_output

HEIGHT, WIDTH, TILE_PX = 20, 27, 64


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(models, "load_model", lambda *_: RepeatModel())


@pytest.fixture
def decode(tmp_path, latents):
    """Decode to a file with options, and return its path."""

    def run(name, **options):
        output = describe_output(tmp_path / name, options)
        tiler.decode(latents(HEIGHT, WIDTH), output, weights="photo", tile_size_px=TILE_PX)
        return output.path

    return run


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_pictures_have_the_dpi_that_is_asked_for_and_none_else(decode, name):
    with Image.open(decode(name, dpi=300)) as image:
        exif = image.getexif()
        found = image.info["dpi"] if name != "a.webp" else (exif[282], exif[283])
        assert found == pytest.approx((300, 300), abs=1e-3 if name == "a.png" else 0)
        assert name != "a.webp" or exif[296] == 2
    with Image.open(decode(f"b{name}")) as image:
        assert "dpi" not in image.info
        assert not image.getexif()


def read_tags(path):
    """(x, y, unit) of every level."""
    with tifffile.TiffFile(path) as tiff:
        for page in [*tiff.pages, *(tiff.pages[0].pages or ())]:
            x, y, unit = (page.tags[name].value for name in ("XResolution", "YResolution", "ResolutionUnit"))
            yield x[0] / x[1], y[0] / y[1], unit.name


@pytest.mark.parametrize("layout", ["pages", "ome"])
def test_a_level_of_a_tiff_has_half_the_dpi_of_the_level_below(decode, layout):
    path = decode("a.tif", dpi=72.5, layout=layout, file_tile_px=64)
    assert list(read_tags(path)) == [(72.5, 72.5, "INCH"), (36.25, 36.25, "INCH"), (18.125, 18.125, "INCH")]
    with Image.open(path) as image:
        assert image.info["dpi"] == (72.5, 72.5)
    path = decode("b.tif", layout=layout, file_tile_px=64)
    assert [unit for _, _, unit in read_tags(path)] == ["NONE"] * 3


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_readers_find_the_pixel_size_of_a_tiff(decode, name):
    path = decode(name, pixel_size_um=0.25, file_tile_px=64)
    assert list(read_tags(path)) == [(40_000 / side, 40_000 / side, "CENTIMETER") for side in (1, 2, 4)]
    if ".ome." in name:
        with tifffile.TiffFile(path) as tiff:
            pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        assert [pixels[f"PhysicalSize{axis}"] for axis in "XY"] == [0.25, 0.25]
        assert [pixels[f"PhysicalSize{axis}Unit"] for axis in "XY"] == ["µm", "µm"]
        return
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(path) as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25)
    rasterio = pytest.importorskip("rasterio")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            assert dataset.tags()["TIFFTAG_XRESOLUTION"] == "40000"
            assert dataset.tags()["TIFFTAG_RESOLUTIONUNIT"] == "3 (pixels/cm)"


def test_an_ome_zarr_says_the_pixel_size_of_every_level(decode):
    models = pytest.importorskip("ome_zarr_models.v05")
    zarr = pytest.importorskip("zarr")
    image = models.Image.from_zarr(zarr.open_group(decode("a.ome.zarr", pixel_size_um=0.5, file_tile_px=64), mode="r"))
    [multiscale] = image.ome_attributes.multiscales
    assert [(axis.name, axis.unit) for axis in multiscale.axes[1:]] == [("y", "micrometer"), ("x", "micrometer")]
    scales = [dataset.coordinateTransformations[0].scale for dataset in multiscale.datasets]
    assert scales == [[1, 0.5, 0.5], [1, 1, 1], [1, 2, 2]]
    shifts = [dataset.coordinateTransformations[1].translation for dataset in multiscale.datasets[1:]]
    # The middle of the first pixel of a level is that of the pixels it is the mean of.
    assert shifts == [[0, 0.25, 0.25], [0, 0.75, 0.75]]
    plain = json.loads((decode("b.zarr") / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
    assert plain["axes"][1:] == [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("a.npy", {"dpi": 300}, "Not an option of a .npy file: dpi=300"),
        ("a.zarr", {"dpi": 300}, "Not an option of a .zarr file: dpi=300"),
        ("a.png", {"pixel_size_um": 2}, "Not an option of a .png file: pixel_size_um=2"),
        ("a.jpg", {"dpi": 72.5}, "No such resolution in a JPEG: dpi=72.5. Use a whole number from 1 to 65535"),
        ("a.jpg", {"dpi": 65536}, "No such resolution in a JPEG"),
        ("a.png", {"dpi": 0.5}, "No such resolution in a PNG"),
        ("a.tif", {"dpi": 300, "pixel_size_um": 2.0}, "Two resolutions: dpi=300, pixel size=2.0 µm"),
        *(
            ("a.tif", {"dpi": each}, "(No such resolution|Not a number): dpi=")
            for each in (0, -1, np.nan, np.inf, True, "300", 2e6)
        ),
        *(("a.zarr", {"pixel_size_um": each}, "No such resolution: pixel size=") for each in (0, -0.5, 1e-4)),
    ],
    ids=str,
)
def test_a_resolution_that_a_format_cannot_hold_is_refused(decode, tmp_path, name, options, words):
    with pytest.raises(OptionError, match=words):
        decode(name, **options)
    assert not list(tmp_path.iterdir())


def test_another_resolution_is_another_job(decode, tmp_path, latents, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(models, "load_model", lambda *_: CountingModel(lambda number: 1 // (2 - number)))
        with pytest.raises(tiler.TileError):
            decode("a.tif", dpi=300)
    output = tiler.Tiff(tmp_path / "a.tif", dpi=301)
    with pytest.raises(tiler.OutputExistsError, match="half done"):
        tiler.decode(latents(HEIGHT, WIDTH), output, weights="photo", tile_size_px=TILE_PX)
    with pytest.raises(tiler.InputError, match="dpi, begun with 300, now 301"):
        tiler.decode(latents(HEIGHT, WIDTH), output, weights="photo", tile_size_px=TILE_PX, resume=True)
