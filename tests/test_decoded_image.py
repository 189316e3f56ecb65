"""Latents as an image: what is read of it by window and level is what ``decode`` writes, to the byte."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile

import tiler
from tiler.decoded_image import DecodedImage
from tiler.errors import InputError, OptionError, RefusedError
from tiler.window import Span, Window

ROOT = str(Path(__file__).parents[1])
HEIGHT, WIDTH = 90, 71
OPTIONS = {"weights": "photo", "tile_size_px": 160}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Latents in a file, the image that ``decode`` makes of them, and its pyramid down to 45 × 36."""
    folder = tmp_path_factory.mktemp("made")
    random = np.random.default_rng(7)
    coarse = random.normal(size=(HEIGHT // 5 + 2, WIDTH // 5 + 2, 4)).repeat(5, 0).repeat(5, 1)[:HEIGHT, :WIDTH]
    np.save(folder / "z.npy", (coarse + 0.2 * random.normal(size=coarse.shape)).astype(np.float32))
    tiler.decode(folder / "z.npy", tiler.Tiff(folder / "a.tif", file_tile_px=80), **OPTIONS)
    with tifffile.TiffFile(folder / "a.tif") as tiff:
        levels = [level.asarray() for level in tiff.series[0].levels]
    return folder / "z.npy", levels


@pytest.fixture
def image(made):
    with tiler.open(made[0], **OPTIONS) as image:
        yield image


def test_what_it_is_is_known_without_decoding(image, made, monkeypatch):
    monkeypatch.setattr(DecodedImage, "_model", property(lambda _: pytest.fail("a model was loaded")))
    assert image.shape == made[1][0].shape == (HEIGHT * 8, WIDTH * 8, 3)
    assert (image.dtype, image.ndim, len(image)) == (np.uint8, 3, HEIGHT * 8)
    assert image.levels == [(720, 568), (360, 284), (180, 142)]
    assert image.plan.n_tiles == 5 * 4
    assert repr(image) == (
        f"<DecodedImage 720 × 568 × 3 uint8 of {made[0]}, by photo_decoder.safetensors: 20 tiles of 160 px, 3 levels>"
    )


def test_random_windows_of_all_levels_are_those_of_the_file(image, made):
    random = np.random.default_rng(0)
    for _ in range(40):
        level = int(random.integers(len(image.levels)))
        spans = [sorted(random.choice(side + 1, 2, replace=False)) for side in image.levels[level]]
        window = Window(*(Span(int(start), int(stop)) for start, stop in spans))
        np.testing.assert_array_equal(image.read(level, window), made[1][level][window.slices])
    np.testing.assert_array_equal(image.read(1, (3, 5, 20, 30)), made[1][1][5:35, 3:23])


def test_tiles_are_those_of_the_grid_of_their_level(image, made):
    np.testing.assert_array_equal(image.tile(0, 4, 3), made[1][0][640:, 480:])
    np.testing.assert_array_equal(image.tile(1, 1, 0), made[1][1][160:320, :160])
    for place in ((0, 5, 0), (0, 0, -1), (2, 2, 0), (3, 0, 0), (-1, 0, 0)):
        with pytest.raises(OptionError, match="No such"):
            image.tile(*place)


INDICES = [
    np.s_[100:300, 200:500],
    np.s_[-1],
    np.s_[5, 7],
    np.s_[5, 7, 2],
    np.s_[..., 1],
    np.s_[3:9, ..., ::-1],
    np.s_[::-97, 500:20:-33],
    np.s_[7:2:-2, :3],
    np.s_[700:9000, -4:],
    np.s_[np.int64(4), 10:20, 0:2],
    np.s_[10:10],
    np.s_[3, 9:4, 1],
    np.s_[...],
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_it_is_indexed_as_an_array(image, made, index):
    found = image[index]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, made[1][0][index])


@pytest.mark.parametrize("index", [720, (0, -569), (0, 0, 3), (0, 0, 0, 0), None, [1, 2], True, 1.5, "x", (..., ...)])
def test_an_index_that_means_nothing_here_is_refused_before_anything_is_decoded(image, monkeypatch, index):
    monkeypatch.setattr(DecodedImage, "_model", property(lambda _: pytest.fail("a model was loaded")))
    with pytest.raises(IndexError):
        image[index]


def test_all_of_it_is_an_array_to_numpy_and_to_dask(image, made):
    np.testing.assert_array_equal(np.asarray(image), made[1][0])
    assert np.asarray(image, dtype=np.float32).dtype == np.float32
    chunked = image.to_dask()
    assert chunked.chunks[0] == (160, 160, 160, 160, 80)
    np.testing.assert_array_equal(chunked[150:170, 10:20].compute(), made[1][0][150:170, 10:20])


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_other_types_have_the_pixels_of_their_files(made, tmp_path, dtype):
    tiler.decode(made[0], tiler.Npy(tmp_path / "a.npy", dtype=dtype), **OPTIONS)
    with tiler.open(made[0], dtype=dtype, **OPTIONS) as image:
        np.testing.assert_array_equal(image[300:420, 100:333], np.load(tmp_path / "a.npy")[300:420, 100:333])


def test_a_region_and_joined_ends_are_those_of_decode(made, tmp_path):
    region, latents = (50, 33, 400, 300), tiler.Latents(made[0], wrap="x", upscale=2)
    tiler.decode(latents, tmp_path / "a.npy", region=region, **OPTIONS)
    with tiler.open(latents, region=region, **OPTIONS) as image:
        assert image.shape == (300, 400, 3)
        np.testing.assert_array_equal(image[...], np.load(tmp_path / "a.npy"))


def test_eight_threads_read_at_once_and_no_tile_is_decoded_twice(image, made, monkeypatch):
    decoded, decode = [], DecodedImage._decode
    monkeypatch.setattr(DecodedImage, "_decode", lambda self, *place: decoded.append(place) or decode(self, *place))
    random = np.random.default_rng(1)
    places = [(int(row), int(column)) for row, column in zip(*random.integers(0, 500, (2, 64)), strict=True)]

    def read(place):
        row, column = place
        return image[row : row + 60, column : column + 60]

    with ThreadPoolExecutor(8) as pool:
        for (row, column), found in zip(places, pool.map(read, places), strict=True):
            np.testing.assert_array_equal(found, made[1][0][row : row + 60, column : column + 60])
    assert len(decoded) == len(set(decoded))


def test_what_is_kept_is_bounded_and_cannot_be_changed(made):
    with tiler.open(made[0], cache_bytes=3 * 160 * 160 * 3, **OPTIONS) as image:
        for row in range(0, 700, 90):
            for column in range(0, 560, 90):
                image[row : row + 8, column : column + 8]
                assert image._cache.size_bytes <= 3 * 160 * 160 * 3
        first = image[0:9, 0:9]
        first[:] = 0
        assert image[0:9, 0:9].any()
        image.close()
        assert image._cache.size_bytes == 0


def test_an_image_of_a_file_travels_and_one_of_an_array_does_not(image, made, tmp_path, monkeypatch):
    monkeypatch.chdir(made[0].parent)
    with tiler.open("z.npy", **OPTIONS) as opened:
        sent = pickle.dumps(opened)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(pickle.loads(sent)[80:90, 3:9], made[1][0][80:90, 3:9])
    with tiler.open(np.load(made[0]), **OPTIONS) as opened, pytest.raises(TypeError, match="Save them"):
        pickle.dumps(opened)


def test_too_much_for_a_look_is_refused_with_what_to_do(made):
    with tiler.open(made[0], weights="photo", tile_size_px=64) as image:
        with pytest.raises(RefusedError, match=r"tiles=\d+.*at most 64.*overview\(\)"):
            image.read(2, (0, 0, 142, 180))
        assert image.overview(2, (0, 0, 142, 180)).shape == (180, 142, 3)
    for window in ((0, 0, 569, 1), (-1, 0, 1, 1), (0, 0, 0, 1)):
        with tiler.open(made[0], **OPTIONS) as image, pytest.raises(OptionError, match="region"):
            image.read(0, window)


@pytest.fixture(scope="module")
def smooth(tmp_path_factory):
    """Latents of a picture, the image that they decode to, and its pyramid."""
    folder = tmp_path_factory.mktemp("smooth")
    y, x = np.mgrid[:736, :568] / 736
    picture = np.stack([np.sin(7 * x + 3 * y), np.cos(9 * y - 2 * x), np.sin(5 * x * y)], axis=-1) * 100 + 128
    tiler.encode(picture.astype(np.uint8), folder / "z.npy", weights="photo")
    tiler.decode(folder / "z.npy", tiler.Tiff(folder / "a.tif", file_tile_px=80), **OPTIONS)
    with tifffile.TiffFile(folder / "a.tif") as tiff:
        return folder / "z.npy", [level.asarray() for level in tiff.series[0].levels]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_an_overview_is_near_what_it_stands_for(smooth, level):
    with tiler.open(smooth[0], **OPTIONS) as image:
        height, width = image.levels[level]
        found = image.overview(level, Window.whole(height, width)).astype(float)
        part = image.overview(level, (9, 5, 60, 70))
    errors = found - smooth[1][level]
    assert np.sqrt(np.mean(errors**2)) < (0.3, 9, 9)[level]
    # The same latents, in other tiles: but for roundings the same.
    assert np.abs(part - found[5:75, 9:69]).max() <= 1


def test_it_writes_and_verifies_what_decode_writes(image, made, tmp_path):
    report = image.write(tmp_path / "a.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), made[1][0])
    assert report.shape == image.shape
    assert image.verify(tmp_path / "a.npy", samples=2).ok
    with pytest.raises(tiler.OutputExistsError):
        image.write(tmp_path / "a.npy")
    np.testing.assert_array_equal(image.preview(64), tiler.preview(made[0], weights="photo", size_px=64))


def test_latents_that_cannot_be_decoded_are_refused_where_they_are_read(made):
    values = np.load(made[0])
    values[80, 60] = np.nan
    with tiler.open(values, **OPTIONS) as image:
        np.testing.assert_array_equal(image[:50, :50], made[1][0][:50, :50])
        with pytest.raises(InputError, match="NaN"):
            image[640:650, 480:490]


def test_opening_and_looking_at_what_it_is_starts_no_engine(made):
    script = (
        "import sys, tiler\n"
        "image = tiler.open(sys.argv[1], weights='photo')\n"
        "repr(image), image.levels, image.plan.summary()\n"
        "started = {'numba', 'llvmlite', 'tensorflow', 'keras', 'jax', 'torch', 'dask'} & set(sys.modules)\n"
        "assert not started, started\n"
    )
    subprocess.run([sys.executable, "-c", script, str(made[0])], check=True, cwd=ROOT)
