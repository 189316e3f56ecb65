"""Every option of every public call and file at odd values: an error of ours, of one true line, before any work."""

import inspect
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import tiler
from tiler.command.cli import main
from tiler.options import RULES

LATENTS = np.zeros((4, 8, 8), np.float32)
IMAGE = np.zeros((16, 24, 3), np.uint8)
NAN = float("nan")

NO_NUMBERS = [
    *(True, np.True_, 1.5, 64.0, NAN, np.float32(64), 1j, "90", b"90", Path("x")),
    *([], {}, (1, 2), np.array([1, 2]), object()),
]
NO_WORDS = [True, 1, 1.5, b"x", [], {}, ("a",), np.array(["a", "b"]), Path("float32"), object()]
NO_FLAGS = [None, 0, 1, "no", "", [], np.array([True, False]), object()]
NO_PATHS = [True, 1, 1.5, b"a.tif", [], {}, np.array([1]), object(), "a\0.tif"]
TOO_LARGE = [10**30, -(10**30)]
NO_REGIONS = [
    *(1, "0,0,8,8", b"0088", [], [0, 0, 8], (0, 0, 8, 8, 8), (0, 0, 8.0, 8), (0, 0, True, 8), {0, 1, 2, 3}, object()),
    *((-1, 0, 8, 8), (0, 0, 0, 8), (0, 0, 99999999999999999999, 1), (0, 0, 2**63, 1), (NAN,) * 4),
]

ODD = {
    "weights": NO_PATHS,
    "key": NO_WORDS,
    "index": [*NO_NUMBERS, *TOO_LARGE],
    "axes": ["xyz", "HW", *NO_WORDS],
    "page": [*NO_NUMBERS, *TOO_LARGE],
    "colour": ["rgb", *NO_WORDS],
    "background": [None, "blue", "#12345", *NO_WORDS],
    "keep_metadata": NO_FLAGS,
    "space": NO_WORDS,
    "scale": [True, "1", NAN, float("inf"), 1j, [], {}, np.array([1, 2]), 10**400, object()],
    "shift": [True, "1", NAN, float("inf"), 1j, [], {}, np.array([1, 2]), 10**400, object()],
    "upscale": [None, 0, -1, 2.5, 2**31, *NO_NUMBERS, *TOO_LARGE],
    "wrap": NO_WORDS,
    "nonfinite": [None, *NO_WORDS],
    "channels": [None, 0, -1, *NO_NUMBERS, *TOO_LARGE],
    "region": NO_REGIONS,
    "tile_size_px": [0, -8, 1001, *NO_NUMBERS, *TOO_LARGE],
    "memory_bytes": [-1, *NO_NUMBERS, *TOO_LARGE],
    "cache_bytes": [None, -1, *NO_NUMBERS, *TOO_LARGE],
    "workers": [0, -1, *NO_NUMBERS, *TOO_LARGE],
    "size_px": [None, 0, -1, *NO_NUMBERS, *TOO_LARGE],
    "precision": [None, "half", *NO_WORDS],
    "engine": ["torch", *NO_WORDS],
    "overwrite": NO_FLAGS,
    "resume": NO_FLAGS,
    "force": NO_FLAGS,
    "verify": [-1, "all of it", *NO_NUMBERS, *TOO_LARGE],
    "samples": [None, -1, "some", *NO_NUMBERS, *TOO_LARGE],
    "seed": [None, -1, *NO_NUMBERS, *TOO_LARGE],
    "progress": [1, "x", True, []],
    "profile": [1, "x", True, tiler.Profile],
    "client": [1, "tcp://127.0.0.1:1", True],
    "output": NO_PATHS,
    "path": NO_PATHS,
    "dtype": [None, "float16", "x", 1, [], {}, object(), ">u2", "a\nb", NAN],
    "layout": ["page", *NO_WORDS],
    "compression": [None, "zip", *NO_WORDS],
    "quality": [0, 101, -1, *NO_NUMBERS, *TOO_LARGE],
    "file_tile_px": [0, -16, 17, 100_000, *NO_NUMBERS, *TOO_LARGE],
    "pyramid": NO_FLAGS,
    "dpi": [0, -1, True, "300", NAN, 1j, [], np.array([1, 2]), 10**400],
    "pixel_size_um": [0, -1, True, "0.5", NAN, 1j, [], np.array([1, 2]), 10**400],
}
FILES = [tiler.Tiff, tiler.Npy, tiler.Zarr, tiler.Png, tiler.Jpeg, tiler.WebP]
ENDINGS = {tiler.Tiff: "tif", tiler.Npy: "npy", tiler.Zarr: "zarr", tiler.Png: "png", tiler.Jpeg: "jpg"}
CALLS = {
    "decode": lambda **said: tiler.decode(LATENTS, said.pop("output", "a.tif"), **{"weights": "photo"} | said),
    "verify": lambda **said: tiler.verify(said.pop("output", "a.tif"), LATENTS, **{"weights": "photo"} | said),
    "encode": lambda **said: tiler.encode(IMAGE, said.pop("output", "a.npy"), **{"weights": "photo"} | said),
    "open": lambda **said: tiler.open(LATENTS, **{"weights": "photo"} | said),
    "decode_lazily": lambda **said: tiler.decode_lazily(LATENTS, **{"weights": "photo"} | said),
    "preview": lambda **said: tiler.preview(LATENTS, **{"weights": "photo"} | said),
    "plan_decode": lambda **said: tiler.plan_decode(LATENTS, said.pop("output", None), **said).summary(),
    "plan_encode": lambda **said: tiler.plan_encode(IMAGE, said.pop("output", None), **said).summary(),
    "Latents": lambda **said: tiler.plan_decode(tiler.Latents(LATENTS, **said)),
    **{
        kind.__name__: lambda kind=kind, **said: tiler.plan_decode(
            LATENTS, kind(said.pop("path", f"a.{ENDINGS.get(kind, 'webp')}"), **said)
        )
        for kind in FILES
    },
}


def list_names(call):
    kind = getattr(tiler, call)
    if inspect.isclass(kind):
        return [field.name for field in fields(kind)]
    names = list(inspect.signature(kind).parameters)
    return ["output" if call in ("encode", "plan_encode") and name == "latents" else name for name in names]


CASES = [(call, name) for call in CALLS for name in list_names(call) if name in ODD]


@pytest.mark.parametrize(("call", "name"), CASES, ids=["-".join(case) for case in CASES])
def test_an_odd_value_of_any_option_is_refused_in_one_line(tmp_path, monkeypatch, call, name):
    monkeypatch.chdir(tmp_path)
    if call == "verify":
        (tmp_path / "a.tif").write_bytes(b"x")
    before = sorted(tmp_path.iterdir())
    for value in ODD[name]:
        with pytest.raises(tiler.OptionError) as caught:
            CALLS[call](**{name: value})
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 400
        assert message.endswith((".", '"', ")")), message
    assert sorted(tmp_path.iterdir()) == before


def test_every_option_of_every_call_has_a_rule_and_odd_values():
    """An option that is new has a rule too, or looks at its values itself."""
    own = {"latents", "image", "data"}
    for call in CALLS:
        assert set(list_names(call)) - own <= set(ODD) & set(RULES) | {"_"}, call


def test_whole_numbers_of_numpy_are_whole_numbers(tmp_path):
    latents = tiler.Latents(LATENTS[None], index=np.int64(0), upscale=np.uint8(2), scale=None)
    file = tiler.Tiff(tmp_path / "a.tif", compression="jpeg", quality=np.int16(90), file_tile_px=np.uint16(32))
    plan = tiler.plan_decode(
        latents,
        file,
        region=np.array([8, 0, 64, 32]),
        tile_size_px=np.int32(64),
        memory_bytes=np.int64(2**31),
        workers=np.uint8(3),
        channels=np.array(4),
    )
    assert (plan.output_shape, plan.tile_px, plan.workers) == ((32, 64, 3), 64, 3)
    kept = [latents.index, latents.upscale, file.quality, file.file_tile_px, plan.core, plan.workers]
    assert [type(value) for value in kept] == [int] * 6
    assert tiler.Npy("a.npy", dtype=np.dtype(np.uint16)) == tiler.Npy("a.npy", dtype="uint16")
    assert tiler.Latents(LATENTS, scale=np.float32(0.5), shift=Fraction(1, 4)).scale == 0.5
    assert tiler.Tiff("a.tif", pyramid=np.False_).pyramid is False


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--region", "0,0,99999999999999999999,1"], "Not a region: region=(0, 0, 99999999999999999999, 1)"),
        (["--file-tile", "100000"], "A file cannot have such tiles: file tile=100000 px. Use a multiple of 16 px"),
        (["--upscale", str(10**19)], "Not a factor to upscale by: upscale=10000000000000000000"),
        (["--workers", "-3"], "No worker: workers=-3"),
        (["--tile-size", str(10**20)], "tile_size_px=100000000000000000000"),
        (["--index", str(10**20)], "index=100000000000000000000"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "decode", "dry run"])
def test_numbers_beyond_all_bounds_are_usage_and_no_mistake_of_ours(tmp_path, monkeypatch, command, words, says):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", LATENTS)
    line = ["plan", "a.npy"] if command == "plan" else ["decode", "a.npy", "a.tif", "--weights", "photo"]
    result = CliRunner().invoke(main, [*line, *words, *["--dry-run"] * (command == "dry run")])
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
