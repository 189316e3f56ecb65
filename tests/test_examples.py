import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
