import math

import numpy as np
import pytest
import tifffile

from tiler.command import demo
from tiler.command.demo import choose_shape, measure_psnr, run_demo
from tiler.errors import OptionError, OutputExistsError, TileError


class Served:
    """A source that serves windows of an array, and refuses any that are not inside it."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def read(self, window):
        assert window.rows.stop <= self.shape[0]
        assert window.columns.stop <= self.shape[1]
        return self.array[window.slices]


@pytest.mark.parametrize("shape", [(64, 64, 3), (70, 150, 3), (3, 5, 3)])
def test_psnr_is_that_of_the_whole_image_where_tiles_do_not_fit_the_sides(tmp_path, shape):
    random = np.random.default_rng(5)
    image = random.integers(0, 256, shape, np.uint8)
    truth = np.clip(image / 255 + random.normal(0, 0.03, shape), 0, 1).astype(np.float32)
    tifffile.imwrite(tmp_path / "image.tif", image, tile=(32, 48), photometric="rgb")
    expected = -10 * math.log10(np.mean((image / 255 - truth.astype(np.float64)) ** 2))
    assert measure_psnr(tmp_path / "image.tif", Served(truth)) == pytest.approx(expected, abs=1e-4)


def test_psnr_of_a_perfect_image_is_infinite(tmp_path):
    image = np.full((40, 40, 3), 51, np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", image, tile=(32, 32), photometric="rgb")
    assert measure_psnr(tmp_path / "image.tif", Served(image / np.float32(255))) == math.inf


@pytest.mark.parametrize("megapixels", [0.01, 0.1, 1, 8, 8.5, 1000])
def test_the_shape_is_3_to_2_in_whole_latent_pixels_and_near_the_size(megapixels):
    height, width = choose_shape(megapixels)
    assert height % 8 == width % 8 == 0
    assert width / height == pytest.approx(1.5, rel=0.08)
    assert height * width == pytest.approx(megapixels * 1e6, rel=0.1)


def test_the_smallest_picture_has_a_pixel():
    assert choose_shape(1e-9) == (8, 8)


@pytest.mark.parametrize("megapixels", [0, -1, math.nan, math.inf])
def test_a_size_that_is_none_is_refused(megapixels):
    with pytest.raises(OptionError, match="megapixels"):
        choose_shape(megapixels)


def test_an_existing_output_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "encode", None)  # would fail otherwise
    (tmp_path / "demo.tif").write_text("precious")
    with pytest.raises(OutputExistsError):
        run_demo(tmp_path / "demo.tif")


def test_a_name_that_is_none_of_a_tiff_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "encode", None)
    with pytest.raises(OptionError, match=r"demo\.npy"):
        run_demo(tmp_path / "demo.npy")


@pytest.mark.parametrize("error", [TileError("boom"), KeyboardInterrupt()], ids=["failure", "interrupt"])
def test_the_latents_are_gone_when_the_decode_fails(tmp_path, monkeypatch, error):
    seen = []

    def encode(picture, latents, **options):
        latents.write_text("latents")

    def decode(latents, output, **options):
        seen.append(latents.data.read_text())
        raise error

    monkeypatch.setattr(demo, "encode", encode)
    monkeypatch.setattr(demo, "decode", decode)
    with pytest.raises(type(error)):
        run_demo(tmp_path / "demo.tif", megapixels=0.01)
    assert seen == ["latents"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("failing", "overwrite", "kept"), [("encode", False, False), ("decode", False, True), ("decode", True, False)]
)
def test_finished_tiles_are_told_of_only_where_the_next_demo_goes_on_with_them(
    tmp_path, monkeypatch, failing, overwrite, kept
):
    def stop(*args, **options):
        error = KeyboardInterrupt()
        error.add_note("3 of 9 tiles are finished and kept.")
        raise error

    monkeypatch.setattr(demo, "encode", stop if failing == "encode" else lambda *args, **options: None)
    monkeypatch.setattr(demo, "decode", stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        run_demo(tmp_path / "demo.tif", megapixels=0.01, overwrite=overwrite)
    assert bool(caught.value.__notes__) == kept
