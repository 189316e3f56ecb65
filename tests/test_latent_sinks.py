import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from tiler.errors import InputError, OptionError, OutputExistsError
from tiler.sinks import latent_sinks
from tiler.sinks.latent_sinks import LatentPngSink, SafetensorsSink
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


def test_a_half_done_png_is_gone_on_with(tmp_path):
    sink = LatentPngSink(tmp_path / "a.png", LATENTS.shape)
    write(sink, WINDOWS[:1])
    sink.close()
    sink = LatentPngSink(tmp_path / "a.png", LATENTS.shape, reopen=True)
    write(sink, WINDOWS[1:])
    sink.commit()
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_allclose(np.asarray(image), to_bytes(LATENTS), atol=0.51)


def test_a_png_that_cannot_be_compressed_leaves_the_part(tmp_path, monkeypatch):
    sink = LatentPngSink(tmp_path / "a.png", LATENTS.shape)
    write(sink)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", fail)
        with pytest.raises(OSError, match="No space"):
            sink.commit()
    sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png.part"]
    LatentPngSink(tmp_path / "a.png", LATENTS.shape, reopen=True).commit()
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
def test_a_part_that_changed_is_refused(tmp_path, kind):
    def open_sink(reopen):
        if kind == "png":
            return LatentPngSink(tmp_path / "a", LATENTS.shape, reopen=reopen)
        return SafetensorsSink(tmp_path / "a", LATENTS.shape, "float32", reopen=reopen)

    open_sink(False).close()
    with (tmp_path / "a.part").open("ab") as file:
        file.write(b"more")
    with pytest.raises(InputError, match="half-done output has changed"):
        open_sink(True)


def test_what_does_not_fit_a_png_is_refused(tmp_path, monkeypatch):
    with pytest.raises(OptionError, match="channels=16"):
        LatentPngSink(tmp_path / "a.png", (5, 5, 16))
    monkeypatch.setattr(latent_sinks, "PNG_LIMIT_PX", 24)
    with pytest.raises(OptionError, match="Too many latents for a PNG: size=5 × 5, limit=24"):
        LatentPngSink(tmp_path / "a.png", (5, 5, 4))
    assert not list(tmp_path.iterdir())
