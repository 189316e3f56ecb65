"""A good file passes whatever is looked at; a file that anything was done to does not."""

import io
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from conftest import RepeatModel
from PIL import Image
from safetensors.numpy import load_file, save_file
from small_sinks import open_tiff

import tiler
from taesd_core.network import Network
from taesd_core.variants import find_weights
from tiler import models
from tiler.checks import reference as references
from tiler.checks.level_check import check_level
from tiler.checks.window_check import check_window
from tiler.formats.register import describe_output, open_written_image
from tiler.pyramid import halve
from tiler.sources.array_source import ArraySource
from tiler.window import Span, Window

tifffile = pytest.importorskip("tifffile")

NAMES = ["deflate.tif", "none.tif", "jpeg.tif", "flat.tif", "image.npy"]
PYRAMIDS = ["deflate.tif", "none.tif", "jpeg.tif"]
LOSSLESS = ["deflate.tif", "none.tif", "flat.tif", "image.npy"]
HEIGHT, WIDTH, FILE_TILE_PX = 39, 57, 64
every_file = pytest.mark.parametrize("name", NAMES)
every_pyramid = pytest.mark.parametrize("name", PYRAMIDS)


def options(name):
    if name == "image.npy":
        return {}
    compression = "deflate" if name == "flat.tif" else name.removesuffix(".tif")
    return {"compression": compression, "file_tile_px": FILE_TILE_PX, "pyramid": name != "flat.tif"}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with latents and a good file of every kind, made by the real decoder."""
    folder = tmp_path_factory.mktemp("good")
    random = np.random.default_rng(0)
    coarse = random.normal(size=(HEIGHT // 4 + 1, WIDTH // 4 + 1, 4)).repeat(4, 0).repeat(4, 1)[:HEIGHT, :WIDTH]
    latents = (0.5 * coarse + 0.2 * random.normal(size=coarse.shape)).astype(np.float32)
    np.save(folder / "latents.npy", latents)
    for name in NAMES:
        tiler.decode(latents, describe_output(folder / name, options(name)), weights="photo", tile_size_px=128)
    return folder


@pytest.fixture(scope="module")
def remembered():
    return {}


@pytest.fixture
def plain_model(monkeypatch, remembered):
    """The real plain model, which remembers what it has decoded: the tests ask for the same windows often."""
    load = references.load_reference

    def load_reference(path, *source):
        file = path, path.stat().st_mtime_ns
        if file not in remembered:
            remembered[file] = load(path, *source)

        def decode(window):
            key = file, window.shape, window.tobytes()
            if key not in remembered:
                remembered[key] = remembered[file](window)
            return remembered[key]

        return decode

    monkeypatch.setattr(references, "load_reference", load_reference)


@pytest.fixture
def stand_in(monkeypatch):
    """Models that take no time: each latent becomes 8 × 8 pixels."""
    monkeypatch.setattr(models, "load_model", lambda *_: RepeatModel())
    monkeypatch.setattr(references, "load_reference", lambda *_: repeat_latents)


def repeat_latents(window):
    return (np.clip(window[..., :3] * 42 + 127, 0, 255) // 1 / 255).repeat(8, 0).repeat(8, 1).astype(np.float32)


# ------------------------------------------------------------------------------------------------- good files


@every_file
def test_a_good_file_passes_whatever_windows_are_drawn(good, plain_model, name):
    for seed in range(25):
        found = tiler.verify(good / name, good / "latents.npy", weights="photo", samples=5, seed=seed)
        assert found.ok, found.lines
    found = tiler.verify(good / name, good / "latents.npy", weights="photo", samples="all")
    assert found.ok, found.lines
    assert sum(check.n_samples for check in found.windows) == HEIGHT * WIDTH * 64 * 3
    assert [level.level for level in found.levels] == ([1, 2, 3] if name in PYRAMIDS else [])
    assert found.max_difference <= 1 or name == "jpeg.tif"
    assert found.share_different <= 2e-4 or name == "jpeg.tif"


def test_upscaled_latents_are_verified_as_they_were_decoded(tmp_path, plain_model, latents):
    source = tiler.Latents(latents(13, 19), upscale=3)
    report = tiler.decode(source, tmp_path / "a.tif", weights="photo", tile_size_px=128, verify=4)
    assert report.verification.ok
    assert tiler.verify(tmp_path / "a.tif", source, weights="photo").ok
    assert not tiler.verify(tmp_path / "a.tif", source.data, weights="photo").ok


@pytest.mark.filterwarnings("ignore:The latents look like VAE space")
@pytest.mark.parametrize("compression", ["deflate", "none", "jpeg"])
@pytest.mark.parametrize("quality", [1, *(pytest.param(each, marks=pytest.mark.slow) for each in (30, 90)), 100])
def test_a_good_file_of_any_size_and_content_passes(tmp_path, stand_in, compression, quality):
    if compression != "jpeg" and quality != 100:
        pytest.skip("has no quality")
    random = np.random.default_rng(quality)
    for number, (height, width) in enumerate([(1, 1), (1, 90), (2, 2), (33, 7), (70, 41), (64, 64), (65, 129)]):
        for spread in (0, 0.5, 3, 50):  # from one colour to blocks of the most saturated colours that there are
            source = (random.normal(size=(height, width, 4)) * spread).astype(np.float32)
            path = tmp_path / f"{number}-{spread}.tif"
            output = tiler.Tiff(path, compression=compression, quality=quality if compression == "jpeg" else None)
            tiler.decode(source, output, weights="photo", tile_size_px=256)
            for seed in range(3):
                found = tiler.verify(path, source, weights="photo", samples=6, seed=seed)
                assert found.ok, found.lines
            if compression != "jpeg":
                assert found.max_difference == 0


@pytest.mark.parametrize("quality", [10, 50, 90, 100])
def test_the_levels_of_a_good_jpeg_pass_whatever_is_on_it(tmp_path, quality):
    random = np.random.default_rng(quality)
    noise = random.integers(0, 256, (200, 300, 3))
    images = {
        "noise": noise,
        "black and white dots": (noise[..., :1] > 127).repeat(3, 2) * 255,
        "dots of saturated colours": (noise > 127) * 255,
        "spots of saturated colours": ((noise > 127) * 255).repeat(3, 0).repeat(3, 1)[4:204, 5:305],
        "checks of saturated colours": ((noise > 127) * 255).repeat(16, 0).repeat(16, 1)[:200, :300],
        "black": noise * 0,
        # Every block is like the other, and so is what compression does to it.
        "stripes of two colours": np.resize([[255, 0, 0], [0, 255, 255]], (200, 300, 3)),
        "stripes of soft colours": np.resize([[200, 50, 50]] * 3 + [[50, 200, 200]], (200, 300, 3)),
        "slanting stripes": np.resize([[90]] * 21 + [[140]] * 16, (200, 300, 1)).repeat(3, 2),
    }
    for number, (what, image) in enumerate(images.items()):
        path = write_pyramid(tmp_path / f"{number}.tif", image.astype(np.uint8), "jpeg", quality=quality)
        found = check_levels(path)
        assert all(check.ok for check in found), (what, found)


def write_pyramid(path, image, compression, reduce=lambda level, pixels: halve(pixels), quality=90):
    """Write an image and levels that are made by ``reduce(level, pixels of the level below)``."""
    how = {"quality": quality} if compression == "jpeg" else {}
    sink = open_tiff(path, image.shape, compression=compression, file_tile_px=FILE_TILE_PX, **how)
    for level in range(len(sink.levels)):
        image = image if level == 0 else reduce(level, image)
        sink.write(level, Window.whole(*image.shape[:2]), image)
    sink.commit()
    return path


def check_levels(path):
    image = open_written_image(path)
    try:
        return [check_level(image, level) for level in range(1, len(image.levels))]
    finally:
        image.close()


# -------------------------------------------------------------------------------------------- what is done to them


def read_tile(path, level, index):
    """Return the bytes of a tile as they are stored."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[level]
        tiff.filehandle.seek(page.dataoffsets[index])
        return tiff.filehandle.read(page.databytecounts[index])


def change_tile(path, level, index, change):
    """Change the pixels of a tile and store it anew."""
    content = read_tile(path, level, index)
    shape = (FILE_TILE_PX, FILE_TILE_PX, 3)
    if path.name == "jpeg.tif":
        pixels = np.array(Image.open(io.BytesIO(content)))
    elif path.name == "none.tif":
        pixels = np.frombuffer(content, np.uint8).reshape(shape).copy()
    else:
        pixels = np.frombuffer(zlib.decompress(content), np.uint8).reshape(shape).cumsum(axis=1, dtype=np.uint8)
    change(pixels)
    if path.name == "jpeg.tif":
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90, subsampling="4:2:0")
        store_tile(path, level, index, file.getvalue())
    elif path.name == "none.tif":
        store_tile(path, level, index, pixels.tobytes())
    else:
        store_tile(path, level, index, zlib.compress(np.diff(pixels, axis=1, prepend=np.uint8(0)).tobytes()))


def store_tile(path, level, index, content):
    """Append a tile, and let the tables tell of it."""
    offset = path.stat().st_size
    with path.open("ab") as file:
        file.write(content)
    patch_tables(path, level, {index: (offset, len(content))})


def patch_tables(path, level, places):
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page = tiff.pages[level]
        for name, number in (("TileOffsets", 0), ("TileByteCounts", 1)):
            tag = page.tags[name]
            values = list(tag.value)
            for index, place in places.items():
                values[index] = place[number]
            tag.overwrite(tuple(values))


def swap_tiles(path, level, one, other):
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[level]
        places = {
            one: (page.dataoffsets[other], page.databytecounts[other]),
            other: (page.dataoffsets[one], page.databytecounts[one]),
        }
    patch_tables(path, level, places)


def copy(good, tmp_path, name):
    return shutil.copy(good / name, tmp_path / name)


def verify(path, good, **kwargs):
    return tiler.verify(path, good / "latents.npy", **{"weights": "photo", "samples": 0} | kwargs)


def assert_off(found, *words):
    assert not found.ok
    for word in words:
        assert word in found.verdict, found.verdict
    assert "path=" in found.verdict
    assert any(line.startswith("OFF") for line in found.lines)


@pytest.mark.parametrize("change", [4, -4, 100])
@pytest.mark.parametrize("name", ["deflate.tif", "none.tif"])
def test_one_changed_sample_of_a_lossless_pyramid_is_found_wherever_it_is(good, tmp_path, name, change):
    def spoil(pixels):
        changed = int(pixels[17, 23, 1]) + change
        pixels[17, 23, 1] = changed if 0 <= changed <= 255 else changed - 2 * change

    for index in (0, 13, 30):
        path = copy(good, tmp_path, name)
        change_tile(path, 0, index, spoil)
        found = verify(path, good)
        assert_off(found, "level 1", "1 of 12 tiles off")
        row, column = divmod(index, 8)
        place = Window(Span(row // 2 * 64, row // 2 * 64 + 64), Span(column // 2 * 64, column // 2 * 64 + 64))
        assert str(place).split(",")[1].split(":")[0] in found.verdict
        assert [check.ok for check in found.levels] == [False, True, True]


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("change", [1, -1])
@pytest.mark.parametrize("name", ["deflate.tif", "none.tif"])
def test_a_sample_of_a_reduced_level_that_changed_by_1_is_found(good, tmp_path, name, level, change):
    def spoil(pixels):
        pixels[9, 31, 2] = int(pixels[9, 31, 2]) + change

    path = copy(good, tmp_path, name)
    change_tile(path, level, 0, spoil)
    assert_off(verify(path, good), f"level {level}")


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("change", [2, -2])
def test_one_changed_sample_in_a_window_is_found(good, tmp_path, plain_model, name, change):
    path = copy(good, tmp_path, name)
    if name == "image.npy":
        array = np.load(path, mmap_mode="r+")
        array[70, 71, 2] = int(array[70, 71, 2]) + change
    else:
        change_tile(path, 0, 9, lambda pixels: pixels.__setitem__((6, 7, 2), int(pixels[6, 7, 2]) + change))
    found = verify(path, good, samples="all")
    off = [check for check in found.windows if not check.ok]
    assert [(check.window.rows.start, check.window.columns.start) for check in off] == [(0, 0)]
    assert off[0].max_difference in (1, 2, 3)


def test_a_whole_window_that_is_off_by_1_is_found_though_every_sample_is_near(good, plain_model):
    """What rounding explains is known sample by sample, so a small error everywhere is no excuse for another."""
    image = open_written_image(good / "image.npy")
    latents = np.load(good / "latents.npy")
    plain = references.load_reference(find_weights("photo", "decoder"), ArraySource(latents, 4))
    arguments = (ArraySource(latents, 4), Network.decoder(4))
    window = Window.whole(HEIGHT, WIDTH) * 8
    assert check_window(image, *arguments, plain, window, window).ok
    # 0.1 of 255 everywhere: max |Δ| is 1, as it is in a good file, but in a tenth of the samples.
    assert not check_window(image, *arguments, lambda each: plain(each) + np.float32(0.1 / 255), window, window).ok
    image.close()


def test_a_changed_spot_of_a_jpeg_is_found_in_a_window_and_by_the_levels(good, tmp_path, plain_model):
    path = copy(good, tmp_path, "jpeg.tif")
    change_tile(path, 0, 9, lambda pixels: pixels.__setitem__(np.s_[16:24, 16:24], 255 - pixels[16:24, 16:24]))
    found = verify(path, good, samples="all")
    assert not found.levels[0].ok
    assert not found.windows[0].ok
    path = copy(good, tmp_path, "jpeg.tif")
    change_tile(path, 0, 9, lambda pixels: pixels.__setitem__((20, 21), (255 - pixels[20, 21]) // 128 * 255))
    assert not verify(path, good, samples="all").windows[0].ok


@every_pyramid
@pytest.mark.parametrize(("level", "one", "other"), [(0, 0, 1), (0, 5, 26), (1, 0, 5), (2, 0, 1)])
def test_two_swapped_tiles_are_found(good, tmp_path, name, level, one, other):
    path = copy(good, tmp_path, name)
    swap_tiles(path, level, one, other)
    found = verify(path, good)
    expected = [number in (level, level + 1) for number in (1, 2, 3)]
    assert [not check.ok for check in found.levels] == expected
    swap_tiles(path, level, one, other)
    assert verify(path, good).ok


@pytest.mark.parametrize("name", ["flat.tif", "image.npy"])
def test_swapped_tiles_without_a_pyramid_are_found_by_decoding_all_again(good, tmp_path, plain_model, name):
    path = copy(good, tmp_path, name)
    if name == "image.npy":
        array = np.load(path, mmap_mode="r+")
        array[:64, :64], array[:64, 64:128] = array[:64, 64:128].copy(), array[:64, :64].copy()
    else:
        swap_tiles(path, 0, 0, 1)
    assert_off(verify(path, good, samples="all"), "window rows 0:312, columns 0:456")
    assert verify(path, good, samples=0).ok, "nothing was looked at"


@pytest.mark.parametrize("compression", ["deflate", "none", "jpeg"])
def test_tiles_that_are_swapped_in_every_level_are_found_by_the_windows(good, tmp_path, plain_model, compression):
    """The levels fit each other: only the latents tell."""
    image = np.load(good / "image.npy")
    image[:128, :128], image[128:256, 128:256] = image[128:256, 128:256].copy(), image[:128, :128].copy()
    path = write_pyramid(tmp_path / "a.tif", image, compression)
    found = verify(path, good, samples="all")
    assert_off(found, "window")
    assert all(level.ok for level in found.levels)


def nearest(pixels):
    return np.ascontiguousarray(pixels[::2, ::2])


def nearest_odd(pixels):
    """Every other pixel, from the second row and column on."""
    odd = np.pad(pixels, [(0, size % 2) for size in pixels.shape], mode="edge")[..., :3]
    return np.ascontiguousarray(odd[1::2, 1::2])


def left_halves(pixels):
    even = np.pad(pixels, [(0, size % 2) for size in pixels.shape], mode="edge")[..., :3]
    return halve(np.ascontiguousarray(even[:, ::2].repeat(2, axis=1)))


def shifted(pixels):
    return halve(np.roll(pixels, 1, axis=1))


def darker(pixels):
    return (halve(pixels) * 0.98).astype(np.uint8)


def grey(pixels):
    means = halve(pixels)
    return np.asarray(Image.fromarray(means).convert("L").convert("RGB"))


def swapped_channels(pixels):
    return np.ascontiguousarray(halve(pixels)[..., ::-1])


def rounded_down(pixels):
    even = np.pad(pixels, [(0, size % 2) for size in pixels.shape], mode="edge")[..., :3].astype(int)
    return (even.reshape(len(even) // 2, 2, even.shape[1] // 2, 2, 3).sum(axis=(1, 3)) // 4).astype(np.uint8)


def empty(pixels):
    return halve(pixels) * 0


@pytest.mark.parametrize("wrong_level", [1, 2])
@pytest.mark.parametrize(
    "reduce", [nearest, nearest_odd, left_halves, shifted, darker, grey, swapped_channels, rounded_down, empty]
)
@pytest.mark.parametrize("compression", ["deflate", "none", "jpeg"])
def test_a_level_that_is_made_wrongly_is_found(good, tmp_path, compression, reduce, wrong_level):
    if compression == "jpeg" and reduce is rounded_down:
        pytest.skip("less than JPEG may change")
    path = write_pyramid(
        tmp_path / "a.tif",
        np.load(good / "image.npy"),
        compression,
        lambda level, pixels: (reduce if level == wrong_level else halve)(pixels),
    )
    found = check_levels(path)
    assert not found[wrong_level - 1].ok, found
    # The next is made of it as it is, so that one fits.
    assert found[wrong_level].ok


@pytest.mark.parametrize("quality", [50, 70, 100])
def test_single_pixels_for_means_are_found_in_a_jpeg_of_any_usual_quality(good, tmp_path, quality):
    image = np.load(good / "image.npy")
    for number, reduce in enumerate((halve, nearest, nearest_odd)):
        path = write_pyramid(
            tmp_path / f"{number}.tif", image, "jpeg", lambda _, pixels, reduce=reduce: reduce(pixels), quality
        )
        found = check_levels(path)[0]
        assert found.ok == (reduce is halve), found
        # At a high quality a tile alone may be far enough off to tell.
        assert found.ok or "single pixels" in found.problem or found.n_tiles_off


@every_file
def test_other_latents_are_found(good, tmp_path, plain_model, latents, name):
    found = tiler.verify(good / name, latents(HEIGHT, WIDTH, seed=5), weights="photo", samples=3)
    assert_off(found, "window")
    assert all(not check.ok for check in found.windows)
    assert all(level.ok for level in found.levels)


@every_file
@pytest.mark.parametrize("where", [(0, 0), (HEIGHT - 1, WIDTH - 1)])
def test_a_single_other_latent_is_found_by_a_window_that_sees_it(good, plain_model, name, where):
    source = np.load(good / "latents.npy")
    source[(*where, 2)] += 0.3
    assert_off(tiler.verify(good / name, source, weights="photo", samples="all"), "window")


@every_file
def test_latents_of_another_size_are_found(good, tmp_path, latents, name):
    found = tiler.verify(good / name, latents(HEIGHT, WIDTH + 1), weights="photo")
    assert_off(found, "(312, 456, 3)", "(312, 464, 3)")
    assert found.windows == found.levels == ()


@every_file
def test_other_weights_are_found_even_if_they_differ_by_little(good, tmp_path, plain_model, name):
    tensors = load_file(find_weights("photo", "decoder"))
    tensors["10.conv.4.weight"] = tensors["10.conv.4.weight"] * np.float32(1.05)
    save_file(tensors, tmp_path / "other.safetensors")
    found = tiler.verify(good / name, good / "latents.npy", weights=tmp_path / "other.safetensors", samples=1)
    assert_off(found, "window")
    assert found.max_difference < 30, "the point is that they are alike"


@every_file
def test_a_truncated_file_is_found(good, tmp_path, plain_model, name):
    path = tmp_path / name
    content = (good / name).read_bytes()
    for n_bytes in (1, 100, len(content) // 2, len(content) - 100):
        path.write_bytes(content[:n_bytes])
        assert_off(verify(path, good, samples="all"))


@every_pyramid
def test_an_absent_tile_and_a_tile_of_rubbish_are_found_and_named(good, tmp_path, plain_model, name):
    path = copy(good, tmp_path, name)
    patch_tables(path, 0, {2: (0, 0)})
    found = verify(path, good, samples="all")
    assert_off(found, "tile 2 is absent", "rows 0:312")
    assert [level.ok for level in found.levels] == [False, True, True]
    path = copy(good, tmp_path, name)
    store_tile(path, 0, 2, b"rubbish")
    assert_off(verify(path, good, samples="all"), "tile 2 cannot be decompressed")


@every_pyramid
def test_missing_levels_and_wrongly_marked_ones_are_found(good, tmp_path, name):
    path = copy(good, tmp_path, name)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[2].tags["NewSubfileType"].overwrite(0)
    assert_off(verify(path, good), "NewSubfileType=0")
    path = copy(good, tmp_path, name)
    with tifffile.TiffFile(path) as tiff:
        # Where the second page keeps the place of the third there shall be none.
        position = tiff.pages[2].offset
    content = bytearray(path.read_bytes())
    at = content.index(position.to_bytes(8, "little"))
    content[at : at + 8] = bytes(8)
    path.write_bytes(content)
    assert_off(verify(path, good), "levels=2", "would have 4")


WRONG_ARRAYS = {
    "doubles": lambda array: array.astype(np.float64),
    "a batch": lambda array: array[None],
    "channels first": lambda array: array.transpose(2, 0, 1),
    "grey": lambda array: array[..., 0],
    "objects": lambda array: np.array([{}, 1]),
}


@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_a_wrong_array_is_found(good, tmp_path, case):
    np.save(tmp_path / "a.npy", WRONG_ARRAYS[case](np.load(good / "image.npy")))
    assert_off(verify(tmp_path / "a.npy", good))


def test_a_tiff_of_others_is_no_reason_to_crash(good, tmp_path):
    image = np.load(good / "image.npy")
    cases = {
        "strips": (image, {}),
        "planes": (image.transpose(2, 0, 1), {"planarconfig": "separate", "tile": (64, 64)}),
        "oblong": (image, {"tile": (64, 32)}),
        "32 bits": (image.astype(np.uint32), {"tile": (64, 64)}),
        "grey": (image[..., 0], {"tile": (64, 64)}),
    }
    for case, (pixels, layout) in cases.items():
        tifffile.imwrite(tmp_path / f"{case}.tif", pixels, photometric=None if case == "grey" else "rgb", **layout)
        assert_off(verify(tmp_path / f"{case}.tif", good))


# ------------------------------------------------------------------------------------------------------ the calls


def test_the_file_is_not_checked_by_the_model_that_made_it(good, monkeypatch, plain_model):
    monkeypatch.setattr(models, "load_model", lambda *_: pytest.fail("the exact model was loaded"))
    assert verify(good / "deflate.tif", good, samples=2).ok


def test_without_windows_no_model_is_loaded(good, monkeypatch):
    monkeypatch.setattr(references, "load_reference", lambda *_: pytest.fail("a model was loaded"))
    found = verify(good / "deflate.tif", good)
    assert found.ok
    assert found.windows == ()


def test_decode_verifies_its_own_file(tmp_path, stand_in, monkeypatch, latents):
    source = latents(40, 50)
    assert tiler.decode(source, tmp_path / "a.tif", weights="photo", verify=3).verification.ok
    assert len(tiler.decode(source, tmp_path / "b.npy", weights="photo", verify="all").verification.windows) == 1
    assert tiler.decode(source, tmp_path / "c.npy", weights="photo").verification is None
    darker = np.float32(0.9)
    monkeypatch.setattr(references, "load_reference", lambda *_: lambda window: repeat_latents(window) * darker)
    with pytest.raises(tiler.VerificationError, match=r"d\.tif.*window") as caught:
        tiler.decode(source, tmp_path / "d.tif", weights="photo", verify=3)
    assert isinstance(caught.value, RuntimeError)
    assert (tmp_path / "d.tif").exists()
    found = tiler.verify(tmp_path / "d.tif", source, weights="photo")
    assert not found.ok


@pytest.mark.parametrize("samples", [-1, 1.5, "some", None])
def test_a_number_of_windows_is_0_or_more_or_all(good, tmp_path, latents, samples):
    with pytest.raises(tiler.OptionError, match="samples="):
        verify(good / "image.npy", good, samples=samples)
    if samples is not None:
        with pytest.raises(tiler.OptionError, match="verify="):
            tiler.decode(latents(3, 3), tmp_path / "a.npy", weights="photo", verify=samples)
        assert not (tmp_path / "a.npy").exists()


def test_what_is_missing_or_not_finite_is_an_error_and_no_verdict(good, tmp_path, stand_in):
    with pytest.raises(tiler.InputError, match="No such file"):
        verify(tmp_path / "none.tif", good)
    with pytest.raises(tiler.OptionError, match=r"\.tif"):
        verify(good / "latents.gif", good)
    source = np.load(good / "latents.npy")
    source[3, 3, 3] = np.nan
    with pytest.raises(tiler.InputError, match="NaN or Inf: value=nan at row 3, column 3, channel 3"):
        tiler.verify(good / "image.npy", source, weights="photo")


def test_progress_counts_windows_and_tiles(good, plain_model):
    calls = []
    verify(good / "deflate.tif", good, samples=2, progress=lambda *call: calls.append(call))
    n_tiles = 3 * 4 + 2 * 2 + 1
    assert [call[:2] for call in calls] == [(n + 1, n_tiles + 2) for n in range(n_tiles + 2)]
    assert all(later[2] > earlier[2] for earlier, later in pairwise(calls))


def test_a_verification_adds_up_its_windows(good, plain_model):
    found = verify(good / "image.npy", good, samples="all")
    one = replace(found.windows[0], n_different=3, n_samples=100, max_difference=1)
    other = replace(one, n_different=0, max_difference=7, ok=False)
    both = replace(found, windows=(one, other))
    assert both.max_difference == 7
    assert both.share_different == 3 / 200
    assert not both.ok
    assert replace(found, windows=()).share_different == 0
    assert [line[:3] for line in both.lines] == ["ok ", "OFF"]


LIGHT = """
import sys
sys.path.insert(0, {tests!r})
from test_verification import repeat_latents
import tiler
from tiler.checks import reference as references
references.load_reference = lambda *_: repeat_latents
for name in sys.argv[2:]:
    found = tiler.verify(name, sys.argv[1], weights="photo", samples=5)
    assert found.ok, found.lines
    assert len(found.levels) == 3
assert not [name for name in ("tensorflow", "keras", "dask") if name in sys.modules]
"""


def test_nothing_heavy_is_loaded(tmp_path, request, stand_in, latents):
    np.save(tmp_path / "latents.npy", latents(HEIGHT, WIDTH))
    for name in PYRAMIDS:
        output = describe_output(tmp_path / name, options(name))
        tiler.decode(tmp_path / "latents.npy", output, weights="photo", tile_size_px=128)
    script = LIGHT.format(tests=str(request.path.parent))
    names = [str(tmp_path / name) for name in ("latents.npy", *PYRAMIDS)]
    subprocess.run([sys.executable, "-c", script, *names], check=True)


PEAK = """
import resource, sys
sys.path.insert(0, {tests!r})
import numpy as np
from test_verification import repeat_latents
from tiler import Latents, verify
from tiler.checks import reference as references
references.load_reference = lambda *_: repeat_latents
latents = Latents(np.zeros((1, 1, 4), np.float32), upscale=int(sys.argv[1]) // 8)
found = verify(sys.argv[2], latents, weights="photo", samples=6)
assert found.ok, found.lines
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("name", ["deflate.tif", pytest.param("jpeg.tif", marks=pytest.mark.slow), "image.npy"])
def test_memory_is_flat(tmp_path, request, stand_in, name):
    script = PEAK.format(tests=str(request.path.parent))

    def peak(side):
        path = tmp_path / f"{side}-{name}"
        compression = {} if name == "image.npy" else {"compression": name.removesuffix(".tif")}
        latents = tiler.Latents(np.zeros((1, 1, 4), np.float32), upscale=side // 8)
        tiler.decode(latents, describe_output(path, compression), weights="photo")
        command = [sys.executable, "-c", script, str(side), str(path)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    small, large = peak(4096), peak(8192)
    assert large < 1.1 * small
