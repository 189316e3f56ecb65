"""The public calls on real weights, end to end: files in, files out."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tiler
from taesd_core.checkpoint import load_checkpoint
from taesd_core.variants import find_weights
from taesd_core.whole_image import build_whole_image_model
from tiler import decoded_image, models
from tiler.sources.opening import open_latents
from tiler.sources.upscale import Upscaled

tifffile = pytest.importorskip("tifffile")
ROOT = str(Path(__file__).parents[1])


def stored_tiles(path):
    """Return the compressed bytes of every tile of every level."""
    content = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        return [
            [content[offset : offset + n] for offset, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
            for page in file.pages
        ]


@pytest.fixture(scope="module")
def whole_image():
    """The image as the plain model decodes it at once."""
    model = build_whole_image_model(*_network_and_tensors("decoder"))

    def decode(latents):
        return np.round(np.clip(model.predict_on_batch(latents[None])[0], 0, 1) * 255)

    return decode


def _network_and_tensors(part):
    checkpoint = load_checkpoint(find_weights("photo", part), part)
    return checkpoint.network.layers, checkpoint.tensors


def assert_equal_but_for_roundings(image, expected):
    difference = np.abs(image.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 2e-4


def test_files_hold_the_whole_image(tmp_path, latents, whole_image):
    source = latents(40, 55)
    np.save(tmp_path / "latents.npy", source.transpose(2, 0, 1)[None])
    for name in ("image.tif", "image.npy"):
        report = tiler.decode(tmp_path / "latents.npy", tmp_path / name, weights="photo", tile_size_px=128)
        assert report.path == tmp_path / name
        assert report.shape == (320, 440, 3)
        assert report.n_tiles == 12
        assert report.size_bytes == (tmp_path / name).stat().st_size
    image = np.load(tmp_path / "image.npy", mmap_mode="r")
    assert_equal_but_for_roundings(image, whole_image(source))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "image.tif"), image)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.npy", "image.tif", "latents.npy"]


def test_any_number_of_workers_writes_the_same_bytes(tmp_path, latents):
    source = latents(50, 37)
    for workers in (1, 4):
        for name in (f"{workers}.tif", f"{workers}.npy"):
            tiler.decode(source, tmp_path / name, weights="photo", tile_size_px=128, workers=workers)
    assert (tmp_path / "1.npy").read_bytes() == (tmp_path / "4.npy").read_bytes()
    tiles = stored_tiles(tmp_path / "1.tif")
    assert len(tiles) > 1
    assert tiles == stored_tiles(tmp_path / "4.tif")


def test_upscaled_latents_are_decoded_as_if_they_existed(tmp_path, latents):
    source = latents(20, 23)
    whole = tiler.Window.whole(60, 69)
    large = Upscaled(open_latents(source, 4), 3).read(whole)
    tiler.decode(tiler.Latents(source, upscale=3), tmp_path / "once.npy", weights="photo", tile_size_px=256)
    tiler.decode(large, tmp_path / "twice.npy", weights="photo", tile_size_px=256)
    assert (tmp_path / "once.npy").read_bytes() == (tmp_path / "twice.npy").read_bytes()


def test_encoding_gives_the_latents_of_the_whole_image(tmp_path, latents):
    image = np.clip(latents(21 * 8 - 3, 35 * 8 - 7, 3) / 2 + 0.5, 0, 1)
    report = tiler.encode(image, tmp_path / "latents.npy", weights="photo", tile_size_px=128)
    assert report.shape == (21, 35, 4)
    found = np.load(tmp_path / "latents.npy")
    assert (found.shape, found.dtype) == ((1, 4, 21, 35), np.float32)
    continued = np.pad(image, ((0, 3), (0, 7), (0, 0)), mode="edge")
    expected = build_whole_image_model(*_network_and_tensors("encoder")).predict_on_batch(continued[None])[0]
    assert np.abs(found[0].transpose(1, 2, 0) - expected).max() <= 2e-5 * np.ptp(expected)


def test_a_lazy_image_decodes_only_what_is_touched(latents, monkeypatch, tmp_path):
    source = latents(50, 60)
    tiler.decode(source, tmp_path / "image.npy", weights="photo", tile_size_px=128)
    run, touched = decoded_image.run_tile, []
    monkeypatch.setattr(
        decoded_image, "run_tile", lambda tile, *rest: touched.append((tile.row, tile.column)) or run(tile, *rest)
    )
    lazy = tiler.decode_lazily(source, weights="photo", tile_size_px=128)
    assert lazy.shape == (400, 480, 3)
    assert lazy.chunks[0] == (128, 128, 128, 16)
    assert touched == []
    part = lazy[130:260, 10:20].compute()
    np.testing.assert_array_equal(part, np.load(tmp_path / "image.npy")[130:260, 10:20])
    assert sorted(touched) == [(1, 0), (2, 0)]


LAZILY_ELSEWHERE = """
import os, sys
import dask
import numpy as np
import tiler

if __name__ == "__main__":
    os.chdir("folder")
    latents = tiler.Latents("latents.npy", upscale=2, nonfinite="zero")
    lazy = tiler.decode_lazily(latents, weights="photo", tile_size_px=128)
    os.chdir("..")
    np.save("there.npy", lazy.compute(scheduler="processes", num_workers=1))
"""


def test_a_lazy_image_is_computed_by_other_processes_too(tmp_path, latents):
    """A number of an open file means another file there."""
    source = latents(9, 11)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "latents.npy", source)
    (tmp_path / "script.py").write_text(LAZILY_ELSEWHERE)
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": ROOT}, check=True)
    tiler.decode(tiler.Latents(source, upscale=2), tmp_path / "image.npy", weights="photo", tile_size_px=128)
    np.testing.assert_array_equal(np.load(tmp_path / "there.npy"), np.load(tmp_path / "image.npy"))


@pytest.mark.parametrize("dtype", ["uint16", np.float32])
def test_a_lazy_image_of_more_bits_is_the_whole_image(latents, dtype):
    source = 2 * latents(24, 30)  # beyond [0, 1] here and there
    lazy = tiler.decode_lazily(source, weights="photo", tile_size_px=128, dtype=dtype)
    found = lazy[:190, 100:].compute()
    assert lazy.dtype == found.dtype == dtype
    assert lazy.name.startswith("decode-")
    expected = build_whole_image_model(*_network_and_tensors("decoder")).predict_on_batch(source[None])[0][:190, 100:]
    assert expected.min() < -0.01
    assert expected.max() > 1.01
    if dtype is np.float32:
        assert np.abs(found - expected).max() <= 2e-5 * np.ptp(expected)
    else:
        assert np.abs(found - np.clip(expected, 0, 1) * 65535.0).max() <= 0.5 + 65535 * 2e-5 * np.ptp(expected)


def test_a_lazy_image_of_unknown_numbers_is_refused(latents):
    with pytest.raises(tiler.OptionError, match=r"dtype=float16\. Use uint8, uint16, float32"):
        tiler.decode_lazily(latents(5, 5), weights="photo", dtype="float16")


def test_a_failed_run_leaves_nothing_behind(tmp_path, latents):
    source = latents(16, 16)  # one tile: with more, what is finished is kept
    source[15, 15, 0] = np.nan
    for name in ("image.tif", "image.npy"):
        with pytest.raises(tiler.InputError, match="row 15, column 15"):
            tiler.decode(source, tmp_path / name, weights="photo", tile_size_px=128)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_keeps_the_old_output(tmp_path, latents):
    output = tmp_path / "image.tif"
    output.write_bytes(b"precious")
    with pytest.raises(tiler.OutputExistsError):
        tiler.decode(latents(5, 5), output, weights="photo")
    with pytest.raises(tiler.InputError):
        tiler.decode(np.full((5, 5, 4), np.inf, np.float32), output, weights="photo", overwrite=True)
    assert output.read_bytes() == b"precious"
    tiler.decode(latents(5, 5), output, weights="photo", overwrite=True)
    assert tifffile.imread(output).shape == (40, 40, 3)


@pytest.mark.parametrize(
    ("of_latents", "of_output", "options", "message"),
    [
        ({}, {"file_tile_px": 512}, {"tile_size_px": 1000}, "tile=1000 px, file tile=512 px"),
        ({}, {}, {"tile_size_px": 1001}, "multiple of 8 px"),
        ({}, {}, {"tile_size_px": 0}, "multiple of 8 px"),
        ({}, {}, {"workers": 0}, "workers=0"),
        ({"upscale": 0}, {}, {}, "scale"),
        ({}, {"compression": "zip"}, {}, "compression=zip"),
        ({}, {"quality": 101}, {}, "quality=101"),
        ({}, {}, {"precision": "float8"}, "precision=float8"),
    ],
)
def test_options_out_of_range_are_refused_before_any_work(
    tmp_path, latents, monkeypatch, of_latents, of_output, options, message
):
    monkeypatch.setattr(models, "load_model", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(tiler.OptionError, match=message):
        tiler.decode(
            tiler.Latents(latents(5, 5), **of_latents),
            tiler.Tiff(tmp_path / "image.tif", **of_output),
            weights="photo",
            **options,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_lower_precision_is_nearly_the_same_image(tmp_path, latents, precision):
    source = latents(12, 14)
    images = {}
    for each in ("float32", precision):
        tiler.decode(source, tmp_path / f"{each}.npy", weights="photo", precision=each)
        images[each] = np.load(tmp_path / f"{each}.npy").astype(int)
    difference = np.abs(images["float32"] - images[precision])
    assert 0 < difference.max() < 30
    assert difference.mean() < 3


def test_a_profile_says_where_the_time_went(tmp_path, latents):
    profile = tiler.Profile()
    report = tiler.decode(latents(30, 30), tmp_path / "image.tif", weights="photo", tile_size_px=128, profile=profile)
    assert profile.wall_seconds == report.seconds
    assert set(profile.seconds) == {"load", "read", "decode", "write"}
    assert all(0 < seconds < report.seconds for seconds in profile.seconds.values())
    assert 0 <= profile.idle_share < 1
    assert len(profile.summary().splitlines()) == 5


def test_every_public_name_exists():
    assert sorted(tiler.__all__) == tiler.__all__
    assert all(hasattr(tiler, name) for name in tiler.__all__)


PEAK = """
import resource, sys
sys.path.insert(0, {tests!r})
import numpy as np
from conftest import RepeatModel
from tiler import Latents, decode, models
models.load_model = lambda *_: RepeatModel()
side = int(sys.argv[1])
decode(Latents(np.zeros((1, 1, 4), np.float32), upscale=side // 8), sys.argv[2], weights="photo", workers=4)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("name", ["image.tif", "image.npy"])
def test_memory_is_flat(tmp_path, request, name):
    """16 and 64 megapixels, with a stand-in decoder: what it leaves out does not grow with the image."""
    script = PEAK.format(tests=str(request.path.parent))

    def peak(side):
        command = [sys.executable, "-c", script, str(side), str(tmp_path / f"{side}-{name}")]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    small, large = peak(4096), peak(8192)
    assert large < 1.1 * small


# Not ru_maxrss, which counts what the parent had when the process was forked.
PREDICTED = """
import sys
import numpy as np
import tiler
source = np.random.default_rng(0).normal(size=(int(sys.argv[1]), int(sys.argv[2]), 4)).astype("f4")
plan = tiler.plan_decode(source)
tiler.decode(source, sys.argv[3], weights="photo")
with open("/proc/self/status") as status:
    peak_kb = int(status.read().split("VmHWM:")[1].split()[0])
print(plan.peak_bytes, peak_kb * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it says the peak memory of a process")
@pytest.mark.parametrize(("height", "width"), [(96, 140), (512, 512)], ids=["1 Mpx", "17 Mpx"])
def test_peak_memory_is_no_more_than_predicted(tmp_path, height, width):
    command = [sys.executable, "-c", PREDICTED, str(height), str(width), str(tmp_path / "image.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    predicted, measured = map(int, done.stdout.split())
    assert measured <= predicted <= 2 * measured
    assert predicted <= 500_000_000


@pytest.mark.parametrize("kind", ["decode", pytest.param("encode", marks=pytest.mark.slow)])
def test_a_run_that_goes_on_takes_the_tiles_that_were_begun(tmp_path, monkeypatch, latents, kind):
    """By itself it might choose others: less memory may be free now."""

    def run(**options):
        if kind == "decode":
            return tiler.decode(latents(30, 41), tmp_path / "a.tif", weights="photo", **options)
        return tiler.encode(np.zeros((240, 328, 3), np.uint8), tmp_path / "a.npy", weights="photo", **options)

    def stop(n_done, *_):
        if n_done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tile_size_px=64, progress=stop)
    with pytest.raises(tiler.InputError, match="first difference: tile size, latent px, begun with"):
        run(tile_size_px=128, resume=True)
    if kind == "decode":
        with pytest.raises(tiler.InputError, match="first difference: tile size, latent px, begun with"):
            tiler.decode(
                latents(30, 41), tiler.Tiff(tmp_path / "a.tif", file_tile_px=128), weights="photo", resume=True
            )
    report = run(resume=True)
    assert report.n_tiles == 4 * 6
    assert report.n_resumed >= 3
