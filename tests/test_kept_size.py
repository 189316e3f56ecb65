"""An image whose sides are no multiples of 8 comes back in its own size, whatever is made of its latents."""

import math

import numpy as np
import pytest
import tifffile
from conftest import RepeatModel
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from small_job import CountingModel, ShrinkModel

import tiler
from tiler import models
from tiler.errors import InputError, OptionError
from tiler.formats.register import describe_output
from tiler.pyramid import halve
from tiler.sources.array_source import ArraySource
from tiler.sources.metadata import read_size
from tiler.sources.upscale import Upscaled

HEIGHT, WIDTH = 203, 250
TILE_PX = 64


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """Models that take no time."""
    encoder = ShrinkModel(RepeatModel())
    monkeypatch.setattr(
        models, "load_model", lambda _, part, *__, **___: encoder if part == "encoder" else RepeatModel()
    )


@pytest.fixture
def kept(tmp_path, latents):
    """A file that keeps the size of its image."""
    return keep(tmp_path / "kept.safetensors", latents(26, 32), f"{WIDTH}x{HEIGHT}")


def keep(path, values, size):
    # As pipelines have them, written by another library.
    save_file({"latents": values.transpose(2, 0, 1)[None].copy()}, path, metadata={"image_size_px": size})
    return path


def decode_whole(values):
    return RepeatModel()(values, ((True, True), (True, True)))


@pytest.mark.parametrize("kind", [".safetensors", ".png"])
def test_an_image_comes_back_in_its_own_size(tmp_path, kind):
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "odd.png")
    report = tiler.encode(tmp_path / "odd.png", tmp_path / f"z{kind}", weights="photo", tile_size_px=TILE_PX)
    assert (report.shape, report.continued_px, report.notes) == ((26, 32, 4), (5, 6), ())
    if kind == ".png":
        with Image.open(tmp_path / "z.png") as image:
            assert (image.size, image.text) == ((32, 26), {"image_size_px": "250x203"})
    else:
        with safe_open(tmp_path / "z.safetensors", "np") as file:
            assert file.metadata() == {"latent_space": "diffusion", "image_size_px": "250x203"}
    report = tiler.decode(tmp_path / f"z{kind}", tmp_path / "again.png", weights="photo", tile_size_px=TILE_PX)
    assert report.shape == (HEIGHT, WIDTH, 3)
    with Image.open(tmp_path / "again.png") as image:
        assert image.size == (WIDTH, HEIGHT)


def test_what_is_clipped_in_a_png_is_said_in_the_report(tmp_path, monkeypatch):
    beyond = ShrinkModel(RepeatModel())
    monkeypatch.setattr(models, "load_model", lambda *_, **__: lambda *window: beyond(*window) * np.float32(3))
    white = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    report = tiler.encode(white, tmp_path / "z.png", weights="photo", tile_size_px=TILE_PX)
    assert report.notes == (
        "3,328 values of the latents, beyond [-3, 3], were clipped, for a PNG holds no others; .safetensors does",
    )
    assert tiler.encode(white, tmp_path / "z.safetensors", weights="photo", tile_size_px=TILE_PX).notes == ()


def test_a_npy_says_that_it_does_not_keep_the_size_and_whole_latents_have_none_to_keep(tmp_path):
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    report = tiler.encode(picture, tmp_path / "z.npy", weights="photo", tile_size_px=TILE_PX)
    [note] = report.notes
    assert note.startswith("the image is 250 × 203 px, which .npy does not keep: it decodes to 256 × 208 px;")
    report = tiler.encode(picture[:200, :248], tmp_path / "z.safetensors", weights="photo", tile_size_px=TILE_PX)
    assert report.notes == ()
    with safe_open(tmp_path / "z.safetensors", "np") as file:
        assert file.metadata() == {"latent_space": "diffusion"}


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "a.zarr", "a.png", "a.webp", "a.npy"])
def test_every_kind_of_output_is_the_crop_of_the_whole_and_its_levels_are_halves_of_it(tmp_path, kept, latents, name):
    tiled = {"file_tile_px": 32} if name.endswith(("tif", "zarr")) else {"quality": 100} if "webp" in name else {}
    output = describe_output(tmp_path / name, tiled)
    report = tiler.decode(kept, output, weights="photo", tile_size_px=TILE_PX)
    if name.endswith("tif"):
        with tifffile.TiffFile(output.path) as tiff:
            levels = [level.asarray() for level in tiff.series[0].levels]
    elif name.endswith("zarr"):
        group = pytest.importorskip("zarr").open_group(output.path, mode="r")
        levels = [group[str(level)][:].transpose(1, 2, 0) for level in range(report.n_levels)]
    elif name.endswith("npy"):
        levels = [np.load(output.path)]
    else:
        with Image.open(output.path) as image:
            levels = [np.asarray(image)]
    np.testing.assert_array_equal(levels[0], decode_whole(latents(26, 32))[:HEIGHT, :WIDTH])
    for number, level in enumerate(levels):
        assert level.shape == (math.ceil(HEIGHT / 2**number), math.ceil(WIDTH / 2**number), 3)
        assert number == 0 or (level == halve(levels[number - 1])).all()
    assert len(levels) == report.n_levels == (4 if tiled and "webp" not in name else 1)
    assert tiler.verify(output.path, kept, weights="photo", samples=0).ok
    np.save(tmp_path / "z.npy", latents(26, 32))
    found = tiler.verify(output.path, tmp_path / "z.npy", weights="photo", samples=0)
    assert found.problems == (f"shape={(HEIGHT, WIDTH, 3)}, but the latents decode to (208, 256, 3)",)


def test_enlarged_latents_are_cropped_to_the_enlarged_size(tmp_path, kept, latents):
    report = tiler.decode(tiler.Latents(kept, upscale=3), tmp_path / "a.npy", weights="photo", tile_size_px=TILE_PX)
    assert report.shape == (3 * HEIGHT, 3 * WIDTH, 3)
    source = Upscaled(ArraySource(latents(26, 32), 4), 3)
    whole = decode_whole(source.read(tiler.Window.whole(78, 96)))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), whole[: 3 * HEIGHT, : 3 * WIDTH])


def test_a_region_counts_in_the_size_that_is_kept(tmp_path, kept, latents):
    whole = decode_whole(latents(26, 32))
    tiler.decode(kept, tmp_path / "a.npy", weights="photo", region=(100, 3, 150, 200), tile_size_px=TILE_PX)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), whole[3:203, 100:250])
    assert tiler.verify(tmp_path / "a.npy", kept, weights="photo", region=(100, 3, 150, 200), samples=0).ok
    for region in [(100, 3, 151, 200), (100, 3, 150, 201)]:
        with pytest.raises(OptionError, match=r"The region leaves the image: .*image=250 × 203 px"):
            tiler.decode(kept, tmp_path / "b.npy", weights="photo", region=region)


def test_what_is_planned_computed_lazily_or_shown_small_has_the_size_too(kept, latents):
    whole = decode_whole(latents(26, 32))
    plan = tiler.plan_decode(kept)
    assert plan.output_shape == (HEIGHT, WIDTH, 3)
    assert "203 × 250 × 3, rows 0:203, columns 0:250 of 208 × 256" in plan.summary()
    lazy = tiler.decode_lazily(kept, weights="photo", tile_size_px=TILE_PX)
    assert lazy.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), whole[:HEIGHT, :WIDTH])
    np.testing.assert_array_equal(tiler.preview(kept, weights="photo"), whole[:HEIGHT, :WIDTH])
    # 16 × 13 latents; 250 / 256 of 128 px, 203 / 208 of 104 px.
    assert tiler.preview(kept, weights="photo", size_px=128).shape == (102, 125, 3)


def test_ends_that_join_are_refused_with_an_image_that_ends_before_its_latents(tmp_path, kept, latents):
    with pytest.raises(OptionError, match=r"These ends cannot join: wrap=x, .*image_size_px=250x203.*Leave wrap= out"):
        tiler.decode(tiler.Latents(kept, wrap="x"), tmp_path / "a.png", weights="photo")
    whole = keep(tmp_path / "whole.safetensors", latents(26, 32), "256x208")
    report = tiler.decode(tiler.Latents(whole, wrap="x"), tmp_path / "a.png", weights="photo", tile_size_px=TILE_PX)
    assert report.shape == (208, 256, 3)


@pytest.mark.parametrize(
    "size", ["248x203", "257x203", "250x200", "250x209", "203x250", "0x0", "250 x 203", "", "1x2x3"]
)
def test_a_size_that_does_not_fit_the_latents_is_refused_by_name(tmp_path, latents, size):
    path = keep(tmp_path / "z.safetensors", latents(26, 32), size)
    with pytest.raises(InputError, match=f"does not fit them: .*image_size_px={size}, but they decode to 256x208"):
        tiler.decode(path, tmp_path / "a.png", weights="photo")
    assert not (tmp_path / "a.png.part").exists()


@pytest.mark.parametrize("size", ["249x201", "256x208"])
def test_the_smallest_and_the_largest_size_fit(tmp_path, latents, size):
    path = keep(tmp_path / "z.safetensors", latents(26, 32), size)
    assert tiler.plan_decode(path).output_shape[:2] == tuple(map(int, size.split("x")))[::-1]


def test_a_run_is_not_gone_on_with_in_another_size(tmp_path, kept, latents, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(models, "load_model", lambda *_: CountingModel(lambda number: 1 // (2 - number)))
        with pytest.raises(tiler.TileError):
            tiler.decode(kept, tmp_path / "a.npy", weights="photo", tile_size_px=TILE_PX, workers=1)
    content = kept.read_bytes()
    kept.write_bytes(content.replace(b"250x203", b"249x203"))
    with pytest.raises((InputError, tiler.OutputExistsError), match=r"begun with"):
        tiler.decode(kept, tmp_path / "a.npy", weights="photo", tile_size_px=TILE_PX, resume=True)
    kept.write_bytes(content)
    tiler.decode(kept, tmp_path / "a.npy", weights="photo", tile_size_px=TILE_PX, resume=True)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), decode_whole(latents(26, 32))[:HEIGHT, :WIDTH])


def test_a_size_fits_within_the_last_latent_of_whatever_scale(tmp_path, latents):
    path = keep(tmp_path / "z.safetensors", latents(2, 3), "65x33")
    assert read_size(path, (64, 96), 32) == (33, 65)
    with pytest.raises(InputError, match="may lack less than 32 px a side"):
        read_size(keep(path, latents(2, 3), "64x33"), (64, 96), 32)
