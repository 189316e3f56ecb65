"""Axes that are said hold in every call, files note them, and ``verify`` takes what the file notes."""

import re

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import RepeatModel
from PIL import Image
from small_job import CountingModel
from test_verification import repeat_latents

import tiler
from taesd_core.variants import find_weights
from tiler import api, models
from tiler.checks import reference as references
from tiler.command.cli import main
from tiler.errors import AxesError, AxesQuestion, InputError, OptionError
from tiler.planning import plan_decode, plan_encode
from tiler.sources.opening import open_image
from tiler.window import Window

LATENTS = np.random.default_rng(0).normal(size=(1, 4, 9, 4)).astype(np.float32)
"""Nine rows of four, or four rows of nine."""
MAPS = {"BCHW": LATENTS[0].transpose(1, 2, 0), "BHWC": LATENTS[0]}
ASKED = (
    r"can be read in 2 ways: .*BCHW, a map of 9 × 4; or BHWC, a map of 4 × 9.*axes[= ].?BCHW.? or (--)?axes[= ].?BHWC"
)
OUTPUTS = {
    "image.tif": {"compression": "none"},
    "image.ome.tif": {"layout": "ome"},
    "image.jp.tif": {"compression": "jpeg"},
    "image.zarr": {},
    "image.png": {},
    "image.jpg": {},
    "image.webp": {"quality": 100},
}


@pytest.fixture
def stand_in(monkeypatch):
    """Models that take no time: each latent becomes 8 × 8 pixels."""
    monkeypatch.setattr(models, "load_model", lambda *_, **_options: RepeatModel())
    monkeypatch.setattr(references, "load_reference", lambda *_: repeat_latents)


def describe(path, **options):
    return tiler.formats.register.describe_output(path, options)


@pytest.fixture(params=["file", "array"])
def given(request, tmp_path):
    if request.param == "array":
        return LATENTS
    np.save(tmp_path / "latents.npy", LATENTS)
    return tmp_path / "latents.npy"


@pytest.mark.parametrize("axes", MAPS)
def test_every_call_asks_and_then_reads_as_is_said(tmp_path, stand_in, given, axes):
    calls = {
        "decode": lambda latents: np.load(tiler.decode(latents, tmp_path / "o.npy", weights="photo").path),
        "decode_lazily": lambda latents: tiler.decode_lazily(latents, weights="photo").compute(),
        "preview": lambda latents: tiler.preview(latents, weights="photo"),
        "plan": lambda latents: np.empty(plan_decode(latents, weights="photo").output_shape),
    }
    expected = (repeat_latents(MAPS[axes]) * 255).round()
    for name, call in calls.items():
        with pytest.raises(AxesQuestion, match=ASKED):
            call(given)
        found = call(tiler.Latents(given, axes=axes))
        if name == "plan":
            assert found.shape == expected.shape
        else:
            np.testing.assert_array_equal(found, expected, err_msg=name)
    with pytest.raises(AxesQuestion, match=ASKED):
        tiler.verify(tmp_path / "o.npy", given, weights="photo")
    assert tiler.verify(tmp_path / "o.npy", tiler.Latents(given, axes=axes), weights="photo").ok
    other = next(each for each in MAPS if each != axes)
    assert not tiler.verify(tmp_path / "o.npy", tiler.Latents(given, axes=other), weights="photo").ok


@pytest.mark.parametrize("axes", MAPS)
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_file_notes_the_axes_and_verify_takes_them_and_says_so(tmp_path, stand_in, name, axes):
    path = tmp_path / name
    report = tiler.decode(tiler.Latents(LATENTS, axes=axes), describe(path, **OUTPUTS[name]), weights="photo")
    assert report.notes == (("the latents were read as BHWC, channels last",) if axes == "BHWC" else ())
    found = tiler.verify(path, LATENTS, weights="photo")
    assert found.ok
    assert found.axes == axes
    assert f"latents read as {axes}, which the file notes" in found.verdict
    assert sum("which the file notes" in line for line in found.lines) == 1
    # Said, they are not looked for.
    assert tiler.verify(path, tiler.Latents(LATENTS, axes=axes), weights="photo").axes is None


def test_latents_that_were_saved_in_another_order_since_are_read_by_the_rule(tmp_path, stand_in):
    latents = np.random.default_rng(0).normal(size=(9, 5, 4)).astype(np.float32)
    tiler.decode(latents, tmp_path / "a.tif", weights="photo")
    found = tiler.verify(tmp_path / "a.tif", latents.transpose(2, 0, 1)[None], weights="photo")
    assert found.ok
    assert found.axes is None
    assert "notes" not in found.verdict


def test_a_run_goes_on_with_the_axes_that_it_was_begun_with(tmp_path, stand_in, monkeypatch):
    latents = np.random.default_rng(0).normal(size=(1, 4, 16, 4)).astype(np.float32)
    options = {"weights": "photo", "tile_size_px": 32, "workers": 1}

    def stop(number):
        if number == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(models, "load_model", lambda *_: CountingModel(stop))
    with pytest.raises(KeyboardInterrupt):
        tiler.decode(tiler.Latents(latents, axes="BCHW"), tmp_path / "o.tif", **options)
    assert (tmp_path / "o.tif.part").exists()
    monkeypatch.setattr(models, "load_model", lambda *_: RepeatModel())
    with pytest.raises(InputError, match="axes, begun with BCHW, now BHWC"):
        tiler.decode(tiler.Latents(latents, axes="BHWC"), tmp_path / "o.tif", resume=True, **options)
    tiler.decode(tiler.Latents(latents, axes="BCHW"), tmp_path / "o.tif", resume=True, **options)


def test_the_command_line_asks_and_reads_as_is_said(tmp_path, stand_in, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("latents.npy", LATENTS)

    def run(*words):
        return CliRunner().invoke(main, words)

    result = run("decode", "latents.npy", "o.tif", "--weights", "photo")
    assert result.exit_code == 3
    assert re.search(ASKED, result.stderr)
    result = run("decode", "latents.npy", "o.tif", "--weights", "photo", "--axes", "bhwc")
    assert result.exit_code == 0, result.output
    assert "32 × 72 × 3" in result.stdout
    assert "The latents were read as BHWC, channels last" in result.stdout
    result = run("verify", "o.tif", "latents.npy", "--weights", "photo")
    assert result.exit_code == 0, result.output
    assert "BHWC, which the file notes" in result.stdout
    assert run("plan", "latents.npy", "--axes", "BCHW").exit_code == 0
    result = run("decode", "latents.npy", "p.tif", "--weights", "photo", "--axes", "rows")
    assert result.exit_code == 2
    assert "BCHW, CHW, HWC" in result.stderr


def test_weights_that_lie_there_by_chance_do_not_decide(tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "taesd_decoder.safetensors").write_bytes(find_weights("photo", "decoder").read_bytes())
    monkeypatch.setenv("TAESD_TILER_WEIGHTS", str(folder))
    # Four channels, or sixteen in four rows.
    latents = np.zeros((1, 4, 9, 16), np.float32)
    with pytest.raises(OptionError, match=r"latents with 4 or 16 channels.*weights=.*axes="):
        api.find_checkpoint(None, "decoder", tiler.Latents(latents))
    assert api.find_checkpoint(None, "decoder", tiler.Latents(latents, axes="BCHW")).parent == folder
    assert api.find_checkpoint(None, "decoder", tiler.Latents(np.zeros((1, 4, 9, 4)))).parent == folder


def test_a_picture_of_three_rows_is_asked_about_and_read_as_is_said(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (3, 9, 3), np.uint8)
    np.save(tmp_path / "image.npy", image)
    for given in (image, tmp_path / "image.npy"):
        with pytest.raises(AxesQuestion, match='axes="CHW" or axes="HWC"'):
            open_image(given)
        with pytest.raises(AxesQuestion, match='axes="CHW" or axes="HWC"'):
            plan_encode(given)
        for axes, expected in (("HWC", image), ("CHW", image.transpose(1, 2, 0))):
            source = open_image(given, axes=axes)
            values = source.read(Window.whole(*expected.shape[:2]))
            np.testing.assert_array_equal(values, (expected / 255).astype(np.float32))
            assert plan_encode(given, axes=axes).output_shape[:2] == tuple(-(-size // 8) for size in expected.shape[:2])


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((40, 50, 4), r"expected channels=3.*look like RGBA.*image\[\.\.\., :3\]"),
        ((1, 40, 50, 4), "look like RGBA"),
        ((40, 50), r"axes=2.*grey.*numpy\.dstack"),
        ((40, 50, 1), r"grey.*numpy\.repeat"),
        ((40, 50, 5), "expected channels=3.*Transpose it"),
        ((2, 40, 50, 3), "batch=2. One at a time: pass one of them"),
    ],
    ids=str,
)
def test_a_picture_of_other_axes_is_told_what_it_looks_like(shape, says):
    with pytest.raises(InputError, match=says) as caught:
        open_image(np.zeros(shape, np.uint8))
    for wrong in ("--index", "choose a variant", "--key"):
        assert wrong not in str(caught.value)


def test_axes_of_what_has_its_own_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png", axes="HWC").shape == (8, 8, 3)
    with pytest.raises(AxesError, match=r"axes=HWC, said=CHW. Leave axes= out"):
        open_image(tmp_path / "a.png", axes="CHW")


def test_a_preview_of_four_rows_is_not_turned(stand_in):
    latents = np.random.default_rng(0).normal(size=(8, 20, 4)).astype(np.float32)
    small = latents.reshape(4, 2, 10, 2, 4).mean((1, 3))
    found = tiler.preview(latents, weights="photo", size_px=80)
    np.testing.assert_allclose(found, repeat_latents(small) * 255, atol=1)
