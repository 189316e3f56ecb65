"""Pictures through whole jobs: room for them, damage on the way, and what is said on standard error."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image
from test_room import set_free

import tiler
from tiler import models
from tiler.command.cli import main
from tiler.errors import DamagedError, InputError, RefusedError
from tiler.formats.npy import NpySink
from tiler.sources import spool
from tiler.window import Window

ROOT = Path(__file__).parents[1]
NOISE = np.random.default_rng(0).integers(0, 256, (1024, 256, 3), np.uint8)


class MeanModel:
    """A stand-in encoder: the mean of 8 × 8 px, with the contract and the halo of the real one."""

    halo = 19

    def __call__(self, window, borders, crop=..., origin=None):
        rows, columns = (slice(None if low else self.halo, None if high else -self.halo) for low, high in borders)
        height, width, _ = window.shape
        means = window.reshape(height // 8, 8, width // 8, 8, 3).mean((1, 3))
        return np.concatenate([means, means[..., :1]], axis=2)[rows, columns][crop].astype(np.float32)


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(models, "load_model", lambda *args: MeanModel())


def encode(image, output, **options):
    return tiler.encode(image, output, weights="photo", tile_size_px=256, workers=1, **options)


def test_a_spooled_picture_is_encoded_as_one_in_memory_and_leaves_nothing(tmp_path, monkeypatch, stand_in):
    Image.fromarray(NOISE).save(tmp_path / "x.png")
    encode(tmp_path / "x.png", tmp_path / "small.npy")
    monkeypatch.setattr(spool, "MEMORY_BYTES", 1000)
    encode(tmp_path / "x.png", tmp_path / "large.npy")
    assert (tmp_path / "large.npy").read_bytes() == (tmp_path / "small.npy").read_bytes()
    means = (NOISE / 255).reshape(128, 8, 32, 8, 3).mean((1, 3))
    np.testing.assert_allclose(np.load(tmp_path / "large.npy")[0, :3], means.transpose(2, 0, 1), rtol=0, atol=1e-6)
    assert sorted(os.listdir(tmp_path)) == ["large.npy", "small.npy", "x.png"]


def test_the_disk_must_hold_the_spool_beside_the_output(tmp_path, monkeypatch, stand_in):
    monkeypatch.setattr(spool, "MEMORY_BYTES", 1000)
    Image.fromarray(NOISE).save(tmp_path / "x.png")
    plan = tiler.plan_encode(tmp_path / "x.png", tmp_path / "x.npy", weights="photo")
    assert plan.spool_bytes == NOISE.nbytes
    assert re.search("^disk +786 kB beside the output", plan.summary(), re.MULTILINE)
    set_free(monkeypatch, NOISE.nbytes + 1000)  # and the output has 66 kB
    with pytest.raises(RefusedError, match="The disk may be too full"):
        encode(tmp_path / "x.png", tmp_path / "x.npy")
    set_free(monkeypatch, NOISE.nbytes + 100_000)
    encode(tmp_path / "x.png", tmp_path / "x.npy")


def test_what_is_held_in_memory_is_in_the_plan(tmp_path):
    image = Image.fromarray(NOISE)
    image.save(tmp_path / "flat.png")
    image.save(tmp_path / "x.webp", lossless=True)
    image.save(tmp_path / "baseline.jpg")
    image.save(tmp_path / "progressive.jpg", progressive=True)
    peaks = {
        name: tiler.plan_encode(tmp_path / name, weights="photo").peak_bytes
        for name in ("flat.png", "x.webp", "baseline.jpg", "progressive.jpg")
    }
    assert peaks["x.webp"] > peaks["flat.png"] + NOISE.nbytes
    assert peaks["progressive.jpg"] > peaks["baseline.jpg"] + NOISE.nbytes
    assert "disk" not in tiler.plan_encode(tmp_path / "flat.png", weights="photo").summary()


def test_damage_on_the_way_keeps_what_is_finished_and_the_run_goes_on(tmp_path, stand_in):
    path, output = tmp_path / "x.tif", tmp_path / "x.npy"
    tifffile.imwrite(path, NOISE, photometric="rgb", tile=(128, 128), compression="zlib")
    encode(path, tmp_path / "whole.npy")
    content = path.read_bytes()
    status = path.stat()

    def cut(*_):
        os.truncate(path, 20_000)

    with pytest.raises(DamagedError, match="damaged") as caught:
        encode(path, output, progress=cut)
    assert re.fullmatch(r"[1-3] of 4 tiles are finished and kept\.", caught.value.__notes__[0])
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    encode(path, output, resume=True)
    assert output.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_the_exit_code_says_whether_anything_was_done(tmp_path, monkeypatch, stand_in):
    """One of the two halves comes first."""
    monkeypatch.chdir(tmp_path)
    codes = []
    for row in (0, 7):
        tifffile.imwrite("x.tif", NOISE, photometric="rgb", tile=(128, 128), compression="zlib")
        with tifffile.TiffFile("x.tif") as tiff:
            place = tiff.pages.first.dataoffsets[2 * row]
        content = bytearray(Path("x.tif").read_bytes())
        content[place + 5 : place + 25] = bytes(20)
        Path("x.tif").write_bytes(content)
        words = ["encode", "x.tif", "x.npy", "--weights", "photo", "--tile-size", "256", "--workers", "1", "--quiet"]
        result = CliRunner().invoke(main, [*words, "--overwrite"])
        assert "is damaged: path=x.tif" in result.stderr
        assert len(result.stderr.splitlines()) == 1
        kept = "tiles are finished and kept. Go on with: tiler encode x.tif" in result.stderr
        assert result.exit_code == (6 if kept else 3)
        assert set(os.listdir()) == {"x.tif", *({"x.npy.part", "x.npy.part.journal"} if kept else ())}
        codes.append(result.exit_code)
    assert sorted(codes) == [3, 6]


def test_libraries_say_nothing_on_standard_error(tmp_path):
    """A tag that libtiff warns of, a JPEG that libjpeg warns of, and a PNG that libpng warns of."""
    Image.fromarray(NOISE).save(tmp_path / "whole.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:40_000] + b"\xff\xd9")
    tifffile.imwrite(tmp_path / "a.tif", NOISE, photometric="rgb", tile=(128, 128), compression="zlib")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[-2000:] = bytes(2000)
    (tmp_path / "a.tif").write_bytes(content)
    Image.fromarray(NOISE).save(tmp_path / "a.png", icc_profile=b"no profile" * 20)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    program = f"""
from pathlib import Path
from tiler.errors import InputError
from tiler.sources.opening import open_image
from tiler.window import Window
from tiler.formats.npy import NpySink
from tiler.window import Window
for name in ("a.jpg", "a.tif", "a.png"):
    try:
        source = open_image(Path({str(tmp_path)!r}) / name)
        source.read(Window.whole(*source.shape[:2]))
    except InputError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, timeout=300
    )
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 3, done.stdout


def test_a_page_is_asked_only_of_what_has_pages(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((8, 8, 3), np.uint8))
    Image.fromarray(NOISE).save(tmp_path / "x.bmp")
    for name in ("x.npy", "x.bmp"):
        with pytest.raises(InputError, match="page=1"):
            tiler.plan_encode(tmp_path / name, page=1)
        tiler.plan_encode(tmp_path / name, page=0)


def test_16_bits_in_an_npy_as_decode_writes_them_are_encoded(tmp_path, stand_in):
    values = np.random.default_rng(5).integers(0, 65536, (48, 64, 3), np.uint16)
    sink = NpySink(tmp_path / "a.npy", values.shape, "uint16")
    sink.write(0, Window.whole(48, 64), values)
    sink.commit()
    means = (values / 65535).reshape(6, 8, 8, 8, 3).mean((1, 3)).transpose(2, 0, 1)
    report = encode(tmp_path / "a.npy", tmp_path / "b.npy")
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), means[None, [0, 1, 2, 0]], atol=1e-6)
    assert not any("65535" in note for note in report.notes)
    np.save(tmp_path / "c.npy", values >> 4)
    report = encode(tmp_path / "c.npy", tmp_path / "d.npy")
    assert any(note.startswith(f"no value goes beyond {(values >> 4).max()} of 65535") for note in report.notes)
