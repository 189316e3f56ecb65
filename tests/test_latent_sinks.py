import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from tiler.errors import InputError, OptionError, OutputExistsError
from tiler.formats import png_latents
from tiler.formats.latents import SafetensorsSink
from tiler.formats.png_latents import LatentPngSink
from tiler.sources.opening import open_latents
from tiler.window import Span, Window

LATENTS = np.random.default_rng(0).normal(0, 1.5, (7, 5, 4)).astype(np.float32)
WINDOWS = [Window(Span(3, 7), Span(0, 5)), Window(Span(0, 3), Span(2, 5)), Window(Span(0, 3), Span(0, 2))]


def write(sink, windows=WINDOWS):
    for window in windows:
        sink.write(0, window, LATENTS[window.slices])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_safetensors_reads_what_was_written(tmp_path, dtype):
    sink = SafetensorsSink(tmp_path / "a.safetensors", LATENTS.shape, dtype, channels_first=True)
    for window in WINDOWS:
        sink.write(0, window, LATENTS[window.slices].astype(dtype))
    sink.commit()
    stored = load_file(tmp_path / "a.safetensors")
    assert list(stored) == ["latents"]
    np.testing.assert_array_equal(stored["latents"], LATENTS.transpose(2, 0, 1)[None].astype(dtype), strict=True)
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        assert file.metadata() == {"latent_space": "diffusion"}
    # Aligned, for those who map the file into memory.
    assert int.from_bytes((tmp_path / "a.safetensors").read_bytes()[:8], "little") % 8 == 0


def to_bytes(latents):
    """The convention of TAESD, as its author writes it."""
    return (latents / 6 + 0.5).clip(0, 1) * 255


def test_a_png_holds_rounded_latents(tmp_path):
    sink = LatentPngSink(tmp_path / "a.png", LATENTS.shape)
    write(sink)
    sink.commit()
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "RGBA"
        pixels = np.asarray(image)
    np.testing.assert_allclose(pixels, to_bytes(LATENTS.astype(np.float64)), atol=0.5001)
    values = open_latents(tmp_path / "a.png", 4).read(Window.whole(7, 5))
    np.testing.assert_allclose(values, LATENTS.clip(-3, 3), atol=3.001 / 255)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_png_counts_what_it_clips(tmp_path):
    sink = LatentPngSink(tmp_path / "a.png", LATENTS.shape)
    assert sink.notes == ()
    write(sink)
    n_beyond = int((np.abs(LATENTS.astype(np.float64)) > 3).sum())
    assert n_beyond == 5
    [note] = sink.notes
    assert note.startswith("5 values of the latents, beyond [-3, 3], were clipped")
    sink.close()


def test_a_half_done_png_is_gone_on_with(tmp_path):
    sink = LatentPngSink(tmp_path / "a.png", LATENTS.shape)
    write(sink, WINDOWS[:1])
    sink.close()
    sink = LatentPngSink(tmp_path / "a.png", LATENTS.shape, begun={})
    write(sink, WINDOWS[1:])
    sink.commit()
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_allclose(np.asarray(image), to_bytes(LATENTS), atol=0.51)


def test_a_png_that_cannot_be_compressed_leaves_the_part(tmp_path, monkeypatch):
    sink = LatentPngSink(tmp_path / "a.png", LATENTS.shape)
    write(sink)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", fail)
        with pytest.raises(OSError, match="No space"):
            sink.commit()
    sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png.part"]
    LatentPngSink(tmp_path / "a.png", LATENTS.shape, begun={}).commit()
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_allclose(np.asarray(image), to_bytes(LATENTS), atol=0.51)


def test_a_png_does_not_replace_what_appeared_meanwhile(tmp_path):
    sink = LatentPngSink(tmp_path / "a.png", LATENTS.shape)
    (tmp_path / "a.png").write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        sink.commit()
    assert (tmp_path / "a.png").read_bytes() == b"mine"
    assert (tmp_path / "a.png.part").exists()


@pytest.mark.parametrize("kind", ["png", "safetensors"])
def test_a_part_that_grew_is_cut_and_another_is_refused(tmp_path, kind):
    def open_sink(begun):
        if kind == "png":
            return LatentPngSink(tmp_path / "a", LATENTS.shape, begun=begun)
        return SafetensorsSink(tmp_path / "a", LATENTS.shape, "float32", begun=begun)

    open_sink(None).close()
    size = (tmp_path / "a.part").stat().st_size
    with (tmp_path / "a.part").open("ab") as file:
        file.write(b"more")
    open_sink({}).close()
    assert (tmp_path / "a.part").stat().st_size == size
    with (tmp_path / "a.part").open("r+b") as file:
        file.write(b"less")
    with pytest.raises(InputError, match="half-done output has changed"):
        open_sink({})


MEASURE = """
import re, sys
import numpy as np
from pathlib import Path
from taesd_core.network import Network
from tiler.plan import Plan
from tiler.formats.png_latents import LatentPngSink, PngLatents
from tiler.window import Span, Window

def read(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

SIDE = 2048
LatentPngSink("warm.png", (8, 8, 4)).commit()
file = PngLatents("a.png").plan(Plan(Network.encoder(4), SIDE, SIDE, 64), overwrite=False)
sink = file.open_sink(begun=None, description="")
noise = np.random.default_rng(0).normal(size=(64, SIDE, 4)).astype(np.float32)
for row in range(0, SIDE, 64):
    sink.write(0, Window(Span(row, row + 64), Span(0, SIDE)), noise)
Path("/proc/self/clear_refs").write_text("5")
before = read("VmRSS")
sink.commit()
print(read("VmHWM") - before, file.commit_bytes)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_completing_a_png_takes_the_predicted_memory(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    words = [sys.executable, "-c", MEASURE]
    result = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    peak_bytes, predicted_bytes = map(int, result.stdout.split())
    assert 0.8 * predicted_bytes < peak_bytes < predicted_bytes + 3e6


def test_what_does_not_fit_a_png_is_refused(tmp_path, monkeypatch):
    with pytest.raises(OptionError, match="channels=16"):
        LatentPngSink(tmp_path / "a.png", (5, 5, 16))
    monkeypatch.setattr(png_latents, "PNG_LIMIT_PX", 24)
    with pytest.raises(OptionError, match="Too many latents for a PNG: size=5 × 5, limit=24"):
        LatentPngSink(tmp_path / "a.png", (5, 5, 4))
    assert not list(tmp_path.iterdir())
