import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import tiler
from taesd_core.checkpoint import load_checkpoint
from taesd_core.variants import find_weights
from taesd_core.whole_image import build_whole_image_model

ROOT = Path(__file__).parents[1]


def run(name, *arguments):
    command = [sys.executable, ROOT / "examples" / name, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


def test_the_round_trip_measures_every_picture_of_a_folder(tmp_path):
    rows, columns = np.mgrid[:75, :90]
    smooth = np.dstack([100 + rows, 80 + columns, 200 - rows]).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "smooth.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.tif")
    (tmp_path / "notes.txt").write_text("no picture")
    done = run("round_trip.py", tmp_path)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(\S+) .*?(\d+\.\d+) dB +(\d+\.\d+) dB$", done.stdout, re.MULTILINE)
    assert [name for name, _, _ in found] == ["noise.tif", "smooth.png", "mean"]
    decibels = np.array([[float(each) for each in row[1:]] for row in found])
    # A tiny autoencoder keeps what is smooth and loses noise; 8 bits of latents cost little.
    assert (decibels[1] > 28).all()
    assert (decibels[0] < 20).all()
    assert np.abs(decibels[:, 0] - decibels[:, 1]).max() < 2
    np.testing.assert_allclose(decibels[2], decibels[:2].mean(0), atol=0.01)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise.tif", "notes.txt", "smooth.png"]


def test_the_round_trip_of_no_pictures_is_a_usage_error(tmp_path):
    done = run("round_trip.py", tmp_path)
    assert done.returncode == 2
    assert "no pictures" in done.stderr


def test_the_preview_callback_shows_noise_become_a_picture(tmp_path):
    done = run("preview_callback.py", tmp_path, "--steps", "9", "--every", "4", "--size", "96")
    assert done.returncode == 0, done.stderr
    names = [f"step-{step:03}.png" for step in (0, 4, 8)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    pictures = [np.asarray(Image.open(tmp_path / name), float) for name in names]
    assert {picture.shape for picture in pictures} == {(64, 96, 3)}
    distances = [np.abs(picture - pictures[-1]).mean() for picture in pictures]
    assert distances[0] > distances[1] > 2


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_the_preview_callback_takes_tensors(tmp_path, kind, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT / "examples")
    from preview_callback import Preview

    latents = torch.randn(2, 4, 9, 12, generator=torch.Generator().manual_seed(0)).to(getattr(torch, kind))
    given = {"latents": latents}
    assert Preview(tmp_path, "photo")(None, 5, 700, given) is given
    with Image.open(tmp_path / "step-005.png") as image:
        assert image.size == (96, 72)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A file of latents, and the image that they are, in [0, 1]: two by two tiles of the examples."""
    latents = (0.5 * np.random.default_rng(0).normal(size=(40, 56, 4))).astype(np.float32)
    path = tmp_path_factory.mktemp("latents") / "latents.npy"
    np.save(path, latents.transpose(2, 0, 1)[None])
    return path, decode_whole(latents)


def decode_whole(latents):
    """Decode at once, by the plain model."""
    checkpoint = load_checkpoint(find_weights("photo", "decoder"), "decoder")
    model = build_whole_image_model(checkpoint.network.layers, checkpoint.tensors)
    return np.clip(model.predict_on_batch(latents[None])[0], 0, 1)


def assert_equal_but_for_roundings(found, expected):
    assert found.dtype == np.uint8
    difference = np.abs(found - np.round(expected * 255))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 2e-4


def test_a_corner_of_a_picture_is_looked_at_lazily(picture):
    pytest.importorskip("xarray")
    latents, expected = picture
    done = run("look_lazily.py", latents, "--corner", "100")
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.startswith("320 × 448 px")
    assert [line.split()[0] for line in lines] == ["red", "green", "blue"]
    means = [float(line.split()[1]) for line in lines]
    np.testing.assert_allclose(means, 255 * expected[:100, :100].mean((0, 1)), atol=0.03)


def test_the_lazy_picture_has_names_and_decodes_what_is_asked(picture, monkeypatch):
    xarray = pytest.importorskip("xarray")
    monkeypatch.syspath_prepend(ROOT / "examples")
    from look_lazily import open_picture

    latents, expected = picture
    run_tile, touched = tiler.decoded_image.run_tile, []
    monkeypatch.setattr(
        tiler.decoded_image, "run_tile", lambda tile, *rest: touched.append(tile.row) or run_tile(tile, *rest)
    )
    opened = open_picture(latents, "photo")
    assert isinstance(opened, xarray.DataArray)
    part = opened.sel(channel="blue").isel(y=slice(260, 300), x=slice(10, 20))
    assert touched == []
    assert_equal_but_for_roundings(part.values, expected[260:300, 10:20, 2])
    assert touched == [1]


def test_a_plain_zarr_array_is_written(tmp_path, picture):
    zarr = pytest.importorskip("zarr")
    latents, expected = picture
    done = run("decode_to_zarr.py", latents, tmp_path / "picture.zarr", "--dtype", "uint16")
    assert done.returncode == 0, done.stderr
    array = zarr.open_array(tmp_path / "picture.zarr", mode="r")
    assert (array.chunks, array.dtype) == ((256, 256, 3), np.uint16)
    assert np.abs(array[:] - expected * 65535.0).max() <= 0.5 + 65535 * 2e-5


def test_the_latent_of_a_pipeline_becomes_a_tiff(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    path = tmp_path / "picture.tif"
    done = run("latent_of_a_pipeline.py", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(1, 4, 64, 96) torch.float16", f"{path}: 512 × 768 px"]
    monkeypatch.syspath_prepend(ROOT / "examples")
    from latent_of_a_pipeline import save_picture, stand_in_latents

    latents = stand_in_latents(512, 768)
    expected = decode_whole(latents[0].float().permute(1, 2, 0).numpy())
    with tifffile.TiffFile(path) as file:
        assert [page.shape for page in file.pages] == [(512, 768, 3), (256, 384, 3)]
    assert_equal_but_for_roundings(tifffile.imread(path, key=0), expected)
    # The other space is asked for, not passed over: nobody knows the scale of these weights' model.
    with pytest.raises(tiler.OptionError, match="scale and shift are not known"):
        save_picture(torch.zeros(1, 4, 8, 8), tmp_path / "other.tif", "photo", space="vae")


def test_two_workers_decode(tmp_path, picture):
    pytest.importorskip("distributed")
    latents, expected = picture
    done = run("two_workers.py", latents, tmp_path / "picture.tif")
    assert done.returncode == 0, done.stderr
    assert "picture.tif: 4 tiles in" in done.stdout
    assert_equal_but_for_roundings(tifffile.imread(tmp_path / "picture.tif", key=0), expected)
    assert [each.name for each in tmp_path.iterdir()] == ["picture.tif"]
