import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tiler
from tiler import small_picture
from tiler.command.preview_file import check_picture, save_picture
from tiler.errors import InputError, OptionError, OutputExistsError, RefusedError
from tiler.small_picture import average_down, choose_size
from tiler.sources.array_source import ArraySource

RANDOM = np.random.default_rng(0)


@settings(max_examples=40, deadline=None, database=None)
@given(st.data())
def test_means_are_those_of_pillow(data):
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    small = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    values = RANDOM.normal(size=(height, width, 2)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_picture, "PART_ROWS", data.draw(st.integers(1, 50)))
        patch.setattr(small_picture, "PART_COLUMNS", data.draw(st.integers(1, 50)))
        found = average_down(ArraySource(values, 2, axes="HWC"), *small)
    # A box filter of Pillow takes whole pixels only, so it gets each as many, of one value.
    repeated = values.repeat(small[0], 0).repeat(small[1], 1)
    expected = repeated.reshape(small[0], height, small[1], width, 2).mean((1, 3), dtype=np.float64)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32


class Counting:
    """A source that counts what is read of it."""

    def __init__(self, shape):
        self.shape, self.n_read, self.largest = shape, 0, 0

    def read(self, window):
        size = window.shape[0] * window.shape[1]
        self.n_read, self.largest = self.n_read + size, max(self.largest, size)
        return np.ones((*window.shape, self.shape[2]), np.float32)


def test_each_latent_is_read_once_and_few_at_a_time():
    source = Counting((1000, 9000, 4))
    found = average_down(source, 7, 63)
    assert source.n_read == 1000 * 9000
    assert source.largest <= small_picture.PART_ROWS * small_picture.PART_COLUMNS
    np.testing.assert_allclose(found, 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "size_px", "chosen"),
    [
        pytest.param((128, 128, 4), 512, (64, 64), id="square"),
        pytest.param((128, 1024, 4), 512, (8, 64), id="wide"),
        pytest.param((1, 10_000, 4), 512, (1, 64), id="a line"),
        pytest.param((30, 20, 4), 512, (30, 20), id="smaller"),
        pytest.param((65, 65, 4), 512, (64, 64), id="a little larger"),
        pytest.param((65, 65, 4), 519, (64, 64), id="not whole latents"),
        pytest.param((65, 65, 4), 8, (1, 1), id="one latent"),
    ],
)
def test_the_preview_is_no_larger_than_it_is_asked_to_be(shape, size_px, chosen):
    assert choose_size(shape, size_px, 8) == chosen


def test_less_than_a_latent_is_refused():
    with pytest.raises(OptionError, match=r"size=7 px. Use 8 or more"):
        choose_size((64, 64, 4), 7, 8)


def test_small_latents_are_decoded_as_they_are(latents):
    data = latents(20, 16)
    picture = tiler.preview(data, weights="photo")
    whole = tiler.decode_lazily(data, weights="photo", tile_size_px=160).compute()
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("wrap", ["x", "both"])
def test_what_is_there_to_join_the_ends_is_no_part_of_the_preview(latents, wrap):
    data = latents(12, 9)
    found = tiler.preview(tiler.Latents(data, wrap=wrap), weights="photo")
    np.testing.assert_array_equal(found, tiler.preview(data, weights="photo"))


def test_large_latents_look_like_the_reduced_image(tmp_path):
    rows, columns = np.mgrid[:512, :768]
    image = np.dstack([128 + 90 * np.sin(rows / 80), columns / 3, 128 + 90 * np.cos((rows + columns) / 90)])
    tiler.encode(image.astype(np.uint8), tmp_path / "x.safetensors", weights="photo")
    picture = tiler.preview(tmp_path / "x.safetensors", weights="photo", size_px=256)
    assert picture.shape == (168, 256, 3)
    reduced = np.asarray(Image.fromarray(image.astype(np.uint8)).resize((256, 168), Image.Resampling.BOX))
    assert np.abs(picture.astype(int) - reduced).mean() < 8


def test_what_is_not_finite_is_named(latents):
    data = latents(20, 16)
    data[3, 4, 1] = np.nan
    with pytest.raises(InputError, match="NaN or Inf: value=nan at row 3, column 4, channel 1"):
        tiler.preview(data, weights="photo", size_px=64)


def test_a_picture_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    pixels = RANDOM.integers(0, 256, (9, 8, 3), np.uint8)
    path = check_picture(tmp_path / "x.PNG", overwrite=False)
    save_picture(pixels, path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
    with pytest.raises(OutputExistsError):
        check_picture(path, overwrite=False)
    check_picture(path, overwrite=True)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space"):
        save_picture(pixels, tmp_path / "y.png")
    assert [found.name for found in tmp_path.iterdir()] == ["x.PNG"]
    with pytest.raises(OptionError, match=r"must end in \.png"):
        check_picture(tmp_path / "x.tif", overwrite=False)


def test_a_preview_that_memory_cannot_hold_is_refused(monkeypatch):
    monkeypatch.setattr("tiler.jobs.room.find_memory", lambda: 2**30)
    with pytest.raises(RefusedError, match=r"Too little memory: .* Use a smaller size_px=\."):
        tiler.preview(Counting((2000, 2000, 4)), weights="photo", size_px=8192)
