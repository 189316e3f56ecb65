"""The command line: its words, one line per failure, and nothing left behind."""

import inspect
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import numpy as np
import profiles
import pytest
import tifffile
from click.testing import CliRunner
from conftest import RepeatModel
from PIL import Image
from safetensors.numpy import load_file, save_file

import tiler
from taesd_core.variants import find_weights
from tiler import api, models
from tiler.command import cli
from tiler.command.cli import main
from tiler.dtypes import DType
from tiler.errors import NonFiniteError, TileError
from tiler.formats.tiff_options import Compression, Layout
from tiler.memory import format_bytes
from tiler.sources.opening import open_image, open_latents
from tiler.window import Window

ROOT = str(Path(__file__).parents[1])
SIGNATURES = {"decode": inspect.signature(api.decode), "encode": inspect.signature(api.encode)}
PLANS = ("plan {}", "decode {} x.tif --weights photo --dry-run")
HEAVY = ("tensorflow", "keras", "dask", "tifffile", "PIL", "h5py", "torch", "huggingface_hub", "onnx", "pyvips")


def run(*args):
    """Run a command line; an exception that gets out of it is a failure of the test."""
    result = CliRunner().invoke(main, [str(each) for each in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_process(*args):
    """Run a command line as people do, in the current folder."""
    command = [sys.executable, "-m", "tiler", *args]
    environment = os.environ | {"PYTHONPATH": ROOT}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def said(result):
    """What a run said on standard error besides how far it is."""
    return re.sub(r"(?m)^((De|En)coding to|Verifying) .*\n", "", result.stderr)


def fails(result, code, *words):
    """Check the exit code, and that standard error has one line with all of ``words`` and nothing else."""
    lines = said(result).splitlines()
    assert (result.exit_code, len(lines)) == (code, 1), result.stderr
    assert lines[0].startswith("tiler: ")
    for word in words:
        assert word in lines[0]
    assert result.stdout == ""
    return True


@pytest.fixture
def folder(tmp_path, monkeypatch, latents):
    """The current folder, with good latents and a good image in it."""
    monkeypatch.chdir(tmp_path)
    np.save("good.npy", latents(6, 9).transpose(2, 0, 1)[None])
    Image.fromarray((latents(41, 56, channels=3) * 40 + 120).astype(np.uint8)).save("good.png")
    return tmp_path


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*")}


# ------------------------------------------------------------------------------------------------------ words


LATENTS = "--key --index --axes --latent-space --latent-scale --latent-shift --upscale --wrap --nonfinite"
WORDS = {
    "decode": f"{LATENTS} --weights --region --tile-size --memory --workers --precision --engine --dtype --layout "
    "--compression --quality --file-tile --pyramid --no-pyramid --dpi --pixel-size --overwrite --resume --force "
    "--keep-metadata --verify --dry-run --scheduler --profile --quiet",
    "encode": "--axes --weights --tile-size --memory --workers --precision --engine --nonfinite --page --colour "
    "--background --overwrite --resume --force --keep-metadata --dry-run --profile --quiet",
    "plan": f"{LATENTS} --weights --region --tile-size --memory --workers --engine --file-tile",
    "verify": f"{LATENTS} --weights --region --samples --seed --quiet",
    "preview": f"{LATENTS} --weights --size --overwrite --quiet",
    "demo": "--overwrite --quiet",
}


@pytest.mark.parametrize("command", WORDS)
def test_the_words_are_these_and_the_help_says_them(command):
    options = [param for param in main.commands[command].params if param.param_type_name == "option"]
    assert sorted(word for param in options for word in param.opts + param.secondary_opts) == sorted(
        WORDS[command].split()
    )
    result = run(command, "--help")
    assert result.exit_code == 0
    for word in WORDS[command].split():
        assert word in result.stdout


@pytest.mark.parametrize("command", ["decode", "encode"])
def test_the_help_warns_of_the_photo_weights(command):
    assert re.search(r"photo is not\s+Stable\s+Diffusion\s+compatible", run(command, "--help").stdout)


def test_without_a_command_it_shows_the_help():
    result = run()
    assert result.exit_code == 0
    assert all(command in result.stdout for command in WORDS)


def test_the_version_is_shown():
    result = run("--version")
    assert result.exit_code == 0
    assert re.match(r"tiler (\d+\.\d+|of unknown version)", result.stdout)


# ------------------------------------------------------------------------------------------------------ light


def test_import_and_help_and_plan_load_nothing_heavy(folder):
    script = f"""
import sys
sys.path.insert(0, {ROOT!r})
def check(what, more=()):
    loaded = [name for name in (*{HEAVY!r}, *more) if name in sys.modules]
    assert not loaded, (what, loaded)
import tiler
check("import tiler")
import tiler.command.cli
check("import tiler.command.cli")
for words in (["--help"], ["decode", "--help"], ["demo", "--help"], ["plan", "good.npy"]):
    try:
        tiler.command.cli.main(words)
    except SystemExit as end:
        assert end.code == 0, words
    # Half of the time until there is a plan goes to NumPy and what stands on it.
    check(words, () if words[0] == "plan" else ("numpy", "tiler.api"))
"""
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


# ------------------------------------------------------------------------------------------------- what works


def test_a_precision_that_gains_nothing_is_noted_once_unless_quiet(folder, monkeypatch):
    from taesd_core import engines

    monkeypatch.setattr(engines, "tell_precision", lambda precision: f"{precision} is no faster.")
    arguments = ["decode", "good.npy", "image.tif", "--weights", "photo", "--precision", "float16", "--dry-run"]
    assert said(run(*arguments)) == "Note: float16 is no faster.\n"
    assert said(run(*arguments, "--quiet")) == ""


def test_decode_writes_the_image_and_says_so(folder):
    result = run("decode", "good.npy", "image.tif", "--weights", "photo", "--tile-size", 32, "--file-tile", 16)
    assert (result.exit_code, said(result)) == (0, "")
    assert len(result.stdout.splitlines()) == 1
    for word in ("image.tif", "48 × 72 × 3", "4 levels", "6 tiles", format_bytes(contents(folder)["image.tif"])):
        assert word in result.stdout
    assert re.search(r"in \d+\.\d s by kernels for CPUs; peak memory \d.* [MG]B$", result.stdout)
    with tifffile.TiffFile("image.tif") as tiff:
        assert [level.shape for level in tiff.series[0].levels] == [(48, 72, 3), (24, 36, 3), (12, 18, 3), (6, 9, 3)]
    assert set(contents(folder)) == {"good.npy", "good.png", "image.tif"}


@pytest.fixture
def calls(monkeypatch):
    """Record the calls of the library instead of running them."""
    recorded = {}

    def record(name):
        def call(*args, **kwargs):
            recorded[name] = (list(args), kwargs)
            raise TileError("stop here")

        return call

    for name in ("decode", "encode"):
        monkeypatch.setattr(api, name, record(name))
    return recorded


def test_options_reach_the_library(folder, calls):
    options = ["--tile-size", "160", "--memory", "0.5", "--workers", "3", "--precision", "bfloat16"]
    options += ["--overwrite", "--quiet", "--weights", "w.safetensors", "--resume", "--force", "--nonfinite", "zero"]
    options += ["--keep-metadata"]
    of_tiff = ["--compression", "jxl", "--quality", "77", "--file-tile", "80", "--layout", "ome", "--dtype", "uint16"]
    run("encode", "a", "b", *options, "--colour", "linear", "--background", "black")
    of_latents = ["--key", "z", "--index", "3", "--latent-space", "vae", "--latent-scale", "2", "--latent-shift", "-1"]
    of_latents += ["--upscale", "5", "--wrap", "y"]
    run("decode", "a", "b.tif", *options, "--region", "1,2,30,40", *of_tiff, *of_latents)
    common = {"weights": "w.safetensors", "tile_size_px": 160, "memory_bytes": 2**29, "workers": 3}
    common |= {"precision": "bfloat16", "engine": None, "overwrite": True, "progress": None, "profile": None}
    common |= {"resume": True, "force": True, "keep_metadata": True}
    of_picture = {"nonfinite": "zero", "axes": None, "page": None, "colour": "linear", "background": "black"}
    assert calls["encode"] == ([Path("a"), Path("b")], common | of_picture)
    said = {"key": "z", "index": 3, "space": "vae", "scale": 2.0, "shift": -1.0}
    latents = tiler.Latents(Path("a"), **said, upscale=5, wrap="y", nonfinite="zero")
    output = tiler.Tiff(Path("b.tif"), compression="jxl", quality=77, file_tile_px=80, layout="ome", dtype="uint16")
    assert calls["decode"] == ([latents, output], common | {"verify": None, "region": (1, 2, 30, 40), "client": None})
    run("decode", "a", "b.tif", *options, "--no-pyramid")
    assert calls["decode"][0][1].pyramid is False


@pytest.mark.parametrize("command", ["decode", "encode"])
def test_defaults_are_those_of_the_library(folder, command, calls):
    parameters = SIGNATURES[command].parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    run(command, "a", "b.npy", "--weights", "w")
    assert calls[command][1] == defaults | {"weights": "w"}
    if command == "decode":
        assert calls[command][0] == [tiler.Latents(Path("a")), tiler.Npy(Path("b.npy"))]


def test_a_compression_that_not_all_readers_know_is_told(folder, calls):
    words = ["decode", "a", "b.tif", "--weights", "w", "--compression"]
    note = "Note: zstd in a TIFF: some builds of libvips show it in black, without a word.\n"
    assert run(*words, "zstd").stderr.startswith(note)
    assert "Note" not in run(*words, "zstd", "--quiet").stderr
    assert "Note" not in run(*words, "lzw").stderr


def test_the_command_line_offers_what_the_library_knows():
    options = {option.name: option for option in main.commands["decode"].params}
    assert sorted(options["compression"].type.choices) == sorted(get_args(Compression))
    assert list(options["dtype"].type.choices) == list(get_args(DType))
    assert list(options["layout"].type.choices) == list(get_args(Layout))


def test_options_of_another_kind_of_file_are_refused_not_ignored(folder):
    before = contents(folder)
    result = run("decode", "good.npy", "image.npy", "--weights", "photo", "--compression", "jpeg")
    assert result.exit_code == 2
    assert result.stderr == "tiler: Not an option of a .npy file: compression=jpeg. Leave it out.\n"
    assert contents(folder) == before


def test_encode_writes_latents_that_decode_reads(folder):
    result = run("encode", "good.png", "latents.npy", "--weights", "photo")
    assert (result.exit_code, said(result)) == (0, "")
    assert "latents.npy: 6 × 7 × 4" in result.stdout
    assert np.load("latents.npy").shape == (1, 4, 6, 7)
    assert run("decode", "latents.npy", "again.npy", "--weights", "photo").exit_code == 0
    assert np.load("again.npy").shape == (48, 56, 3)


def test_encode_says_what_became_of_the_colours_and_keeps_it_with_the_latents(folder):
    random = np.random.default_rng(3)
    pixels = random.integers(0, 256, (40, 48, 4)).astype(np.uint8)
    pixels[:20, :, 3] = 255
    profile = profiles.rgb(profiles.EXCHANGED)
    Image.fromarray(pixels).save("image.png", icc_profile=profile)
    # The right picture, in a way of its own: red and green change places, then black shows through.
    shares = pixels[:, :, 3:] / 255
    np.save("right.npy", (pixels[:, :, [1, 0, 2]] / 255 * shares).astype(np.float32))
    result = run("encode", "image.png", "a.safetensors", "--weights", "photo", "--background", "black")
    assert result.exit_code == 0
    converted = "olours converted to sRGB: they were of a test"
    assert f"\nC{converted}\nTransparency composited on black\n" in result.stdout
    run("encode", "right.npy", "b.safetensors", "--weights", "photo")
    (found, expected), said = [load_file(f"{name}.safetensors")["latents"] for name in "ab"], Path("a.safetensors")
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert converted.encode() in said.read_bytes()
    failed = run("encode", "image.png", "c.npy", "--weights", "photo", "--background", "blue")
    assert failed.exit_code == 2
    assert "No such background: background='blue'" in failed.stderr


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_an_image_that_was_decoded_is_encoded_as_it_was_written(folder, dtype):
    assert run("decode", "good.npy", "image.tif", "--weights", "photo", "--dtype", dtype).exit_code == 0
    written = tifffile.imread("image.tif")
    largest = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    assert written.dtype == dtype
    source = open_image("image.tif")
    values = source.read(Window.whole(*source.shape[:2]))
    np.testing.assert_array_equal(values, (written / largest).astype(np.float32))
    assert source.notes == ()


def test_encode_says_which_values_are_beyond_0_to_1_and_refuses_what_is_far(folder):
    image = np.full((40, 48, 3), 0.5, np.float32)
    image[33, 7, 1] = 1.2
    np.save("image.npy", image)
    result = run("encode", "image.npy", "latents.npy", "--weights", "photo")
    assert result.exit_code == 0
    assert "\nValues beyond [0, 1], from 0 to 1.2, were taken as they are, for instance at row 33" in result.stdout
    image[20, 17, 1] = 3
    np.save("image.npy", image)
    result = run("encode", "image.npy", "other.npy", "--weights", "photo")
    assert result.exit_code == 3
    assert "not in [0, 1]: value=3 at row 20, column 17, channel 1" in result.stderr
    assert not list(folder.glob("other*"))


@pytest.mark.parametrize("kind", ["npy", "safetensors", "png"])
def test_encode_writes_every_kind_that_decode_reads_and_says_what_it_added(folder, kind):
    result = run("encode", "good.png", f"latents.{kind}", "--weights", "photo")
    assert (result.exit_code, said(result)) == (0, "")
    assert "continued by 7 rows and 0 columns" in result.stdout
    run("encode", "good.png", "same.npy", "--weights", "photo")
    [expected] = np.load("same.npy")
    found = open_latents(f"latents.{kind}", 4).read(Window.whole(6, 7)).transpose(2, 0, 1)
    np.testing.assert_allclose(found, expected.clip(-3, 3) if kind == "png" else expected, atol=0.012 * (kind == "png"))
    assert {path.name for path in folder.iterdir()} == {"good.npy", "good.png", "same.npy", f"latents.{kind}"}


def test_encode_refuses_other_kinds_before_it_reads_anything(folder):
    for options in ([], ["--dry-run"]):
        assert fails(run("encode", "x", "b.tif", "--weights", "photo", *options), 2, ".npy, .safetensors, .png")


def test_latents_of_a_comfyui_file_are_converted(folder):
    [latents] = np.load("good.npy")
    save_file({"latent_tensor": latents[None] / 0.5 + 0.25, "latent_format_version_0": np.zeros(0)}, "x.latent")
    assert fails(run("decode", "x.latent", "a.npy", "--weights", "photo"), 2, "VAE space", "--latent-scale")
    how = ["--latent-scale", "0.5", "--latent-shift", "0.25"]
    assert run("decode", "x.latent", "a.npy", "--weights", "photo", *how).exit_code == 0
    assert run("decode", "good.npy", "b.npy", "--weights", "photo").exit_code == 0
    assert np.abs(np.load("a.npy").astype(int) - np.load("b.npy")).max() <= 1


def test_one_of_a_batch_is_decoded(folder):
    [latents] = np.load("good.npy")
    np.savez("batch.npz", other=np.zeros((2, 4, 5, 5), np.float32), z=np.stack([latents * 0, latents]))
    assert fails(run("decode", "batch.npz", "a.npy", "--weights", "photo"), 3, "Several arrays", "--key")
    assert fails(run("decode", "batch.npz", "a.npy", "--weights", "photo", "--key", "z"), 3, "batch=2", "--index")
    assert run("decode", "batch.npz", "a.npy", "--weights", "photo", "--key", "z", "--index", "1").exit_code == 0
    run("decode", "good.npy", "b.npy", "--weights", "photo")
    np.testing.assert_array_equal(np.load("a.npy"), np.load("b.npy"))


def test_preview_writes_a_small_picture(folder):
    result = run("preview", "good.npy", "small.png", "--weights", "photo", "--size", "40")
    assert (result.exit_code, said(result)) == (0, "")
    assert result.stdout.startswith("small.png: 24 × 40 px in ")
    with Image.open("small.png") as image:
        assert (image.size, image.mode) == ((40, 24), "RGB")
    assert fails(run("preview", "good.npy", "small.png", "--weights", "photo"), 4, "--overwrite")
    assert fails(run("preview", "good.npy", "small.tif", "--weights", "photo"), 2, ".png")
    assert run("preview", "good.npy", "small.png", "--weights", "photo", "--overwrite", "--quiet").output == ""


def test_quiet_says_nothing(folder):
    result = run("decode", "good.npy", "image.npy", "--weights", "photo", "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert "image.npy" in contents(folder)


def test_the_report_goes_to_standard_output_and_no_bar_is_drawn_where_nobody_watches(folder):
    result = run_process("plan", "good.npy")
    assert (result.returncode, result.stderr) == (0, "")
    assert "72" in result.stdout
    assert "48" in result.stdout


@pytest.mark.parametrize(
    "words", [["plan", "good.npy"], ["decode", "good.npy", "x.tif", "--weights", "photo", "--dry-run"]]
)
def test_plans_follow_their_options_and_write_nothing(folder, words):
    before = contents(folder)
    first = run(*words)
    larger = run(*words, "--upscale", 4)
    smaller_tiles = run(*words, "--tile-size", 16)
    for result in (first, larger, smaller_tiles):
        assert (result.exit_code, said(result)) == (0, "")
        assert result.stdout
    assert len({first.stdout, larger.stdout, smaller_tiles.stdout}) == 3
    assert contents(folder) == before


def test_dry_run_of_encode_writes_nothing(folder):
    before = contents(folder)
    result = run("encode", "good.png", "latents.npy", "--weights", "photo", "--dry-run")
    assert (result.exit_code, said(result)) == (0, "")
    assert result.stdout
    assert contents(folder) == before


@pytest.mark.parametrize("words", [("decode", "good.npy", "x.npy"), ("encode", "good.png", "x.npy")], ids=str)
def test_a_dry_run_that_would_go_on_plans_the_tiles_of_what_is_there(folder, monkeypatch, words):
    n_calls = 0

    def fail_at_the_third(window, borders, crop, origin):
        nonlocal n_calls
        n_calls += 1
        if n_calls > 2:
            raise ZeroDivisionError
        decoded = RepeatModel()(window if words[0] == "decode" else window[::8, ::8], borders)
        return decoded[crop] if words[0] == "decode" else decoded[::8, ::8, [0, 1, 2, 0]][crop].astype(np.float32)

    monkeypatch.setattr(models, "load_model", lambda *_: fail_at_the_third)
    assert run(*words, "--weights", "photo", "--tile-size", 24, "--workers", 1).exit_code == 6
    before = contents(folder)
    again = run(*words, "--weights", "photo", "--dry-run", "--resume")
    assert again.exit_code == 0
    assert again.stdout == run(*words, "--weights", "photo", "--dry-run", "--resume", "--tile-size", 24).stdout
    assert again.stdout != run(*words, "--weights", "photo", "--dry-run", "--overwrite").stdout
    for options in ([], ["--dry-run"]):
        assert fails(run(*words, "--weights", "photo", *options), 4, "half done", "--resume", "--overwrite")
    assert contents(folder) == before


# ------------------------------------------------------------------------------------------------- what fails


def _truncated():
    Path("bad.npy").write_bytes(Path("good.npy").read_bytes()[:-7])


def _pickled():
    np.save("bad.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)


BAD_LATENTS = {
    "missing": (lambda: None, "bad.npy"),
    "empty file": (lambda: Path("bad.npy").touch(), "bad.npy"),
    "no npy at all": (lambda: Path("bad.npy").write_bytes(b"GIF89a" * 9), "bad.npy"),
    "truncated": (_truncated, "truncated"),
    "pickled": (_pickled, "bad.npy"),
    "wrong channels": (lambda: np.save("bad.npy", np.zeros((1, 5, 6, 7), np.float32)), "(1, 5, 6, 7)"),
    "zero-sized": (lambda: np.save("bad.npy", np.zeros((1, 4, 0, 7), np.float32)), "(1, 4, 0, 7)"),
    "NaN": (lambda: np.save("bad.npy", np.full((1, 4, 6, 7), np.nan, np.float32)), "NaN"),
    "Inf": (lambda: np.save("bad.npy", np.full((1, 4, 6, 7), np.inf, np.float32)), "Inf"),
    "whole numbers": (lambda: np.save("bad.npy", np.zeros((1, 4, 6, 7), np.int64)), "int64"),
    "a folder": (lambda: Path("bad.npy").mkdir(), "older"),
}


@pytest.mark.parametrize("output", ["image.tif", "image.npy"])
@pytest.mark.parametrize("case", BAD_LATENTS)
def test_bad_latents_are_one_line_and_exit_code_3(folder, case, output):
    spoil, word = BAD_LATENTS[case]
    spoil()
    before = contents(folder)
    assert fails(run("decode", "bad.npy", output, "--weights", "photo"), 3, word)
    assert contents(folder) == before


@pytest.mark.parametrize("case", [case for case in BAD_LATENTS if case not in ("NaN", "Inf")])
@pytest.mark.parametrize(
    "words", [["plan", "bad.npy"], ["decode", "bad.npy", "x.tif", "--weights", "photo", "--dry-run"]]
)
def test_a_plan_refuses_what_a_decode_would(folder, case, words):
    spoil, word = BAD_LATENTS[case]
    spoil()
    assert fails(run(*words), 3, word)


@pytest.mark.parametrize("image", ["missing.png", "good.npy", "text.png"])
def test_bad_images_are_one_line_and_exit_code_3(folder, image):
    (folder / "text.png").write_text("not an image")
    before = contents(folder)
    assert fails(run("encode", image, "out.npy", "--weights", "photo"), 3, image)
    assert contents(folder) == before


def _change_weights(change):
    tensors = load_file(find_weights("photo", "decoder"))
    change(tensors)
    save_file(tensors, "bad.safetensors")


BAD_WEIGHTS = {
    "missing file": (lambda: None, "bad.safetensors"),
    "no safetensors at all": (lambda: Path("bad.safetensors").write_bytes(b"\x80\x04pickle" * 9), "bad.safetensors"),
    "missing tensor": (lambda: _change_weights(lambda each: each.pop("7.weight")), "7.weight"),
    "extra tensor": (lambda: _change_weights(lambda each: each.update(more=np.zeros(3, np.float32))), "more"),
    "misshapen tensor": (
        lambda: _change_weights(lambda each: each.update({"12.weight": np.zeros((64, 64, 1, 1), np.float32)})),
        "12.weight",
    ),
    "the encoder": (
        lambda: save_file(load_file(find_weights("photo", "encoder")), "bad.safetensors"),
        "encoder",
    ),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_bad_weights_are_one_line_and_exit_code_3(folder, case):
    spoil, word = BAD_WEIGHTS[case]
    spoil()
    before = contents(folder)
    assert fails(run("decode", "good.npy", "image.tif", "--weights", "bad.safetensors"), 3, word)
    assert contents(folder) == before


def test_an_unknown_name_of_weights_is_told_the_known_ones(folder):
    assert fails(run("decode", "good.npy", "image.tif", "--weights", "foto"), 3, "foto", "photo")


@pytest.mark.parametrize("words", [["decode", "good.npy", "x.tif"], ["encode", "good.png", "x.npy"]])
def test_weights_must_be_asked_for(folder, words):
    before = contents(folder)
    assert fails(run(*words), 2, "--weights", ".safetensors", "--weights photo", "not Stable Diffusion compatible")
    assert contents(folder) == before


@pytest.mark.parametrize(
    "words",
    [
        ["decode", "good.npy", "there.tif", "--weights", "photo"],
        ["decode", "good.npy", "there.tif", "--weights", "photo", "--dry-run"],
        ["encode", "good.png", "there.npy", "--weights", "photo"],
        ["encode", "good.png", "there.npy", "--weights", "photo", "--dry-run"],
        ["decode", "good.npy", "there.tif", "--weights", "photo", "--resume"],
        ["decode", "good.npy", "there.tif", "--weights", "photo", "--resume", "--dry-run"],
        ["demo", "there.tif"],
    ],
    ids=" ".join,
)
def test_an_existing_output_is_kept(folder, words):
    for name in ("there.tif", "there.npy"):
        (folder / name).write_bytes(b"precious")
    before = contents(folder)
    result = run(*words)
    assert result.exit_code == 4
    assert "there." in result.stderr
    assert "--overwrite" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert contents(folder) == before
    assert (folder / "there.tif").read_bytes() == (folder / "there.npy").read_bytes() == b"precious"


def test_nan_is_read_as_0_where_that_is_asked_for(folder):
    latents = np.load("good.npy")
    latents.flat[[5, 77]] = np.nan, np.inf
    np.save("odd.npy", latents)
    assert fails(run("decode", "odd.npy", "odd.tif", "--weights", "photo"), 3, "NaN", "--nonfinite zero")
    latents.flat[[5, 77]] = 0
    np.save("zero.npy", latents)
    done = run("decode", "odd.npy", "odd-image.npy", "--weights", "photo", "--nonfinite", "zero", "--verify", "1")
    assert (done.exit_code, said(done)) == (0, "")
    assert "2 values of the input were NaN or Inf and read as 0\n" in done.stdout
    assert "NaN" not in run("decode", "zero.npy", "zero-image.npy", "--weights", "photo").stdout
    assert Path("odd-image.npy").read_bytes() == Path("zero-image.npy").read_bytes()
    image = np.full((16, 16, 3), 0.5, np.float32)
    image[3, 4, 1] = np.nan
    np.save("image.npy", image)
    assert fails(run("encode", "image.npy", "x.npy", "--weights", "photo"), 3, "NaN", "row 3, column 4, channel 1")
    done = run("encode", "image.npy", "x.npy", "--weights", "photo", "--nonfinite", "zero")
    assert "1 values of the input" in done.stdout


def test_latents_of_another_space_are_decoded_with_one_line_of_warning(folder):
    np.save("vae.npy", np.load("good.npy") / np.float32(0.05))
    result = run("decode", "vae.npy", "image.npy", "--weights", "photo", "--quiet", "--upscale", "2")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("tiler: The latents look like VAE space: root mean square=")
    assert len(result.stderr.splitlines()) == 1


def test_overwrite_replaces_the_output_but_not_before_the_new_one_is_complete(folder):
    (folder / "there.npy").write_bytes(b"precious")
    np.save("bad.npy", np.full((1, 4, 6, 7), np.nan, np.float32))
    assert fails(run("decode", "bad.npy", "there.npy", "--weights", "photo", "--overwrite"), 3, "NaN")
    assert (folder / "there.npy").read_bytes() == b"precious"
    assert run("decode", "good.npy", "there.npy", "--weights", "photo", "--overwrite").exit_code == 0
    assert np.load("there.npy").shape == (48, 72, 3)


@pytest.mark.parametrize(
    "words",
    [
        "--bogus",
        "bogus",
        "decode",
        "decode good.npy",
        "decode good.npy x.tif --weights photo --upscale many",
        "decode good.npy x.tif --weights photo --upscale 0",
        "decode good.npy x.tif --weights photo --tile-size 100",
        "decode good.npy x.tif --weights photo --tile-size 0",
        "decode good.npy x.tif --weights photo --tile-size -64",
        "decode good.npy x.tif --weights photo --workers 0",
        "decode good.npy x.tif --weights photo --compression zip",
        "decode good.npy x.tif --weights photo --compression jpeg --quality 0",
        "decode good.npy x.tif --weights photo --file-tile 100",
        "decode good.npy x.gif --weights photo",
        "decode good.npy x --weights photo",
        "encode good.png x.tif --weights photo",
        "encode good.png x.npy --weights photo --tile-size 12",
        "plan good.npy --tile-size 12",
        "plan good.npy --file-tile 40",
        "plan good.npy --memory 0",
        "plan good.npy --memory inf",
        "plan good.npy --memory nan",
        "plan good.npy --memory 1e300",
        "verify x.tif good.npy --weights photo --seed -1",
        "plan good.npy --tile-size large",
        "plan good.npy --upscale -1",
        "demo x.gif",
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(folder, words):
    before = contents(folder)
    assert fails(run(*words.split()), 2)
    assert contents(folder) == before


@pytest.mark.parametrize(
    "words",
    [
        ["decode", "good.npy", "good.npy"],
        ["decode", "link.npy", "good.npy", "--overwrite"],
        ["decode", "good.npy", "good.npy", "--overwrite", "--dry-run"],
        ["decode", "x.npy.part", "x.npy", "--overwrite"],
        ["encode", "good.npy", "good.npy", "--overwrite"],
        ["encode", "good.npy", "good.npy", "--overwrite", "--dry-run"],
        ["preview", "good.npy", "good.png", "--overwrite"],
    ],
    ids=" ".join,
)
def test_latents_and_images_are_never_overwritten_by_what_is_made_of_them(folder, words):
    image = np.zeros((16, 16, 3), np.float32)
    np.save("good.npy", image if words[0] == "encode" else np.load("good.npy"))
    Path("link.npy").symlink_to("good.npy")
    Path("x.npy.part").hardlink_to("good.npy")
    if words[0] == "preview":
        Path("good.png").unlink(missing_ok=True)
        Path("good.png").hardlink_to("good.npy")
    before = Path("good.npy").read_bytes()
    result = run(*words, "--weights", "photo")
    assert (result.exit_code, len(result.stderr.splitlines())) == (3, 1)
    assert "The output would take the place of its input" in result.stderr
    assert Path("good.npy").read_bytes() == Path("x.npy.part").read_bytes() == before


@pytest.mark.parametrize("output", ["no-such-folder/x.tif", "a-folder.tif"])
def test_an_output_that_cannot_be_made_is_refused(folder, output):
    (folder / "a-folder.tif").mkdir()
    assert fails(run("decode", "good.npy", output, "--weights", "photo"), 3, output)


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (TileError("Tile 1, 2 failed:\n\n  something"), 6, "Tile 1, 2 failed: something"),
        (MemoryError("cannot allocate 9 GB"), 6, "memory"),
        (OSError(28, "No space left on device", "x.tif"), 6, "No space left on device: path=x.tif"),
        (OSError("strange"), 6, "strange"),
        (ZeroDivisionError("oh"), 1, "ZeroDivisionError"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["tile", "memory", "full disk", "odd OSError", "our mistake", "interrupt"],
)
def test_what_happens_on_the_way_is_one_line(folder, monkeypatch, error, code, word):
    def decode(*args, **kwargs):
        raise error

    monkeypatch.setattr(api, "decode", decode)
    result = run("decode", "good.npy", "x.tif", "--weights", "photo")
    assert result.exit_code == code
    lines = [line for line in result.stderr.splitlines() if line]  # after ^C, click ends the line with the bar
    assert len(lines) == 1
    assert word in lines[0]


def test_debug_shows_the_traceback_and_keeps_the_exit_code(folder):
    result = run("--debug", "decode", "missing.npy", "x.tif", "--weights", "photo")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("tiler: ")


def test_a_real_process_fails_with_one_line(folder):
    result = run_process("decode", "missing.npy", "x.tif", "--weights", "photo")
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.splitlines() == ["tiler: No such file: path=missing.npy. Check the name."]


def test_without_standard_error_it_fails_alike_and_writes_alike(folder):
    """What TensorFlow says goes to file descriptor 2, which the next file would get."""
    words = f"exec {sys.executable} -m tiler decode {{}} --weights photo 2>&-"
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    for given, code in (("missing.npy x.npy", 3), ("good.npy x.npy", 0)):
        done = subprocess.run(words.format(given), shell=True, check=False, env=environment | {"PYTHONPATH": ROOT})
        assert done.returncode == code
    assert run("decode", "good.npy", "y.npy", "--weights", "photo").exit_code == 0
    assert Path("x.npy").read_bytes() == Path("y.npy").read_bytes()


def test_a_backend_that_cannot_be_used_is_named(folder):
    done = subprocess.run(
        [sys.executable, "-m", "tiler", "decode", "good.npy", "x.npy", "--weights", "photo", "--engine", "keras"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": ROOT, "KERAS_BACKEND": "openvino"},
    )
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(
        r"tiler: The engine cannot be started here: engine=keras .*KERAS_BACKEND=tensorflow.*\n", said(done)
    )
    assert not Path("x.npy").exists()


@pytest.mark.parametrize("given", [["--scheduler", "tcp://a:1"], ["--scheduler=tcp://a:1"]], ids=str)
def test_how_to_go_on_names_no_cluster_where_that_would_refuse(folder, monkeypatch, given):
    def decode(*args, **kwargs):
        error = NonFiniteError("NaN")
        error.add_note("3 of 9 tiles are finished and kept.")
        raise error

    monkeypatch.setattr(api, "decode", decode)
    monkeypatch.setattr("tiler.command.cli._connect", lambda scheduler: nullcontext())
    result = run("decode", "good.npy", "x.tif", *given, "--weights", "photo")
    line = "Go on with: tiler decode good.npy x.tif --weights photo --nonfinite zero --resume"
    assert fails(result, 3, f"3 of 9 tiles are finished and kept. {line}")


# ------------------------------------------------------------------------------------------------------- demo


def test_the_demo_writes_a_pyramid_and_verifies_it(folder, monkeypatch):
    whole = Image.open(cli.LANDSCAPE)
    (folder / "few").mkdir()
    whole.crop((100, 100, 148, 132)).save(folder / "few" / "latents.png")
    monkeypatch.setattr(cli, "LANDSCAPE", folder / "few" / "latents.png")
    before = contents(folder)
    (folder / "demo.tif").write_bytes(b"an older one")
    result = run("demo", "--overwrite")
    assert (result.exit_code, said(result)) == (0, "")
    assert set(contents(folder)) == {*before, "demo.tif"}
    assert "demo.tif: 256 × 384 × 3" in result.stdout
    assert "demo.tif is what the latents decode to" in result.stdout
    assert "QuPath" in result.stdout
    assert "do not fit the latents of Stable Diffusion" in result.stdout


def test_a_real_run_says_only_its_own_on_standard_error(folder, monkeypatch):
    """In a process of its own, into a file: TensorFlow writes to the descriptor, which no runner sees."""
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    np.save("nan.npy", np.full((6, 9, 4), np.nan, np.float32))
    begun = r"Decoding to image\.tif: 1 tile, 0\.0 megapixels, by Keras, about \d+ MB of memory at the peak\n"
    for words, code, expected in (
        (["nan.npy"], 3, begun + r"tiler: .*NaN.*\n"),
        (["good.npy"], 0, begun),
        (["good.npy", "--quiet", "--overwrite"], 0, ""),
    ):
        command = [sys.executable, "-m", "tiler", "decode", words[0], "image.tif", "--weights", "photo", *words[1:]]
        command += ["--engine", "keras"]
        with open("log", "w+") as log:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=log, check=False, env=os.environ | {"PYTHONPATH": ROOT}
            )
            log.seek(0)
            assert re.fullmatch(expected, log.read())
        assert done.returncode == code


def test_the_readmes_name_every_module_and_no_other():
    """Their tables have a row for each module, under the name of its folder, and nothing that has gone."""
    root = Path(ROOT)
    named, folder = set(), None
    readmes = [(root / package / "README.md").read_text() for package in ("tiler", "taesd_core")]
    for line in "\n".join(readmes).splitlines():
        if heading := re.match(r"\| `((?:tiler|taesd_core)/[a-z/]*)` \|", line):
            folder = heading[1]
        elif folder and line.startswith("| `"):
            named |= {folder + name for name in re.findall(r"`(\w+\.py)`", line.split("|")[1])}
        elif not line.startswith("|"):
            folder = None
    modules = {
        str(path.relative_to(root))
        for package in ("tiler", "taesd_core")
        for path in (root / package).rglob("[a-z]*.py")
    }
    assert named == modules
