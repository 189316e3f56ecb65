"""Pictures that cannot be packed into their file are refused before memory is taken for them; others never are."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from fuzz_png import to_bytes
from PIL import Image
from test_png_picture import END, header, pixels

from tiler.errors import InputError
from tiler.sources.opening import open_image
from tiler.window import Span, Window

FLAT = np.zeros((1600, 1600, 3), np.uint8)
KINDS = {
    "deflate": {"compression": "zlib", "compressionargs": {"level": 9}},
    "LZW": {"compression": "lzw"},
    "packbits": {"compression": "packbits"},
    "planes": {"compression": "zlib", "planarconfig": "separate"},
    "tiles": {"compression": "zlib", "tile": (800, 800)},
    "old deflate": {"compression": 32946},
    "JPEG": {"compression": "jpeg"},
}


def write(path, pixels, *, tile=None, **options):
    places = {"tile": tile} if tile else {"rowsperstrip": len(pixels)}
    pixels = np.moveaxis(pixels, 2, 0) if options.get("planarconfig") else pixels
    tifffile.imwrite(path, pixels, photometric="rgb", **places, **options)


def widen(path, width):
    """Make a TIFF of one strip, or of tiles, say that it is of another width."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tags = tiff.pages.first.tags
        for name in {"ImageWidth", "TileWidth"} & {tag.name for tag in tags}:
            tags[name].overwrite(width, dtype="I")


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_the_flattest_pictures_are_read(tmp_path, options):
    if options["compression"] != "zlib":
        pytest.importorskip("imagecodecs")
    write(tmp_path / "x.tif", FLAT, **options)
    window = Window(Span(1590, 1600), Span(1590, 1600))
    assert not open_image(tmp_path / "x.tif").read(window).any()


def test_the_flattest_fax_is_read(tmp_path):
    pyvips = pytest.importorskip("pyvips")
    white = pyvips.Image.black(5000, 2000).invert()
    white.tiffsave(str(tmp_path / "x.tif"), compression="ccittfax4", bitdepth=1, tile=False)
    assert open_image(tmp_path / "x.tif").read(Window(Span(1990, 2000), Span(4990, 5000))).min() == 1


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_tiff_of_more_pixels_than_its_bytes_can_hold_is_refused(tmp_path, options):
    if options["compression"] != "zlib":
        pytest.importorskip("imagecodecs")
    tile = {"tile": (16, 16)} if "tile" in options else {}
    write(tmp_path / "x.tif", FLAT[:16, :16], **options | tile)
    widen(tmp_path / "x.tif", 800_000)
    with pytest.raises(InputError, match=r"damaged: .* 16 × 800000 px do not fit into \d+ bytes of [A-Z_]+\)"):
        open_image(tmp_path / "x.tif")


@pytest.mark.parametrize("bits_and_colour", [(1, 0), (8, 0), (8, 2), (8, 3), (16, 6)], ids=str)
def test_the_flattest_png_is_read(tmp_path, bits_and_colour):
    bits, colour = bits_and_colour
    width, height = 9000, 500
    row = 1 + width * bits * {0: 1, 2: 3, 3: 1, 6: 4}[colour] // 8
    palette = [(b"PLTE", bytes(768))] if colour == 3 else []
    chunks = [header(width, height, bits, colour), *palette, pixels(bytes(row * height), 9), END]
    (tmp_path / "x.png").write_bytes(to_bytes(chunks))
    background = {"background": "black"} if colour == 6 else {}
    assert not open_image(tmp_path / "x.png", **background).read(Window(Span(499, 500), Span(0, 10))).any()


def test_the_flattest_jpeg_is_read(tmp_path):
    Image.fromarray(FLAT[:, :, 0]).save(tmp_path / "x.jpg", quality=1, optimize=True)
    content = (tmp_path / "x.jpg").read_bytes()
    assert len(content) < FLAT[:, :, 0].size / 230
    with tifffile.TiffWriter(tmp_path / "x.tif") as tiff:
        tiff.write(iter([content]), shape=FLAT.shape[:2], dtype="u1", compression="jpeg", rowsperstrip=1600)
    window = Window(Span(1590, 1600), Span(1590, 1600))
    assert open_image(tmp_path / "x.tif").read(window).max() < 2 / 255


@pytest.mark.parametrize("sides", [(17, 70_000), (70_000, 17), (60_000, 60_000)], ids=str)
def test_a_jpeg_in_a_tiff_that_cannot_be_so_large_is_refused(tmp_path, sides):
    """Before a minute, or all of the memory, is spent on it."""
    pytest.importorskip("imagecodecs")
    write(tmp_path / "x.tif", FLAT[:16, :16], compression="jpeg")
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as tiff:
        for name, side in zip(("ImageLength", "ImageWidth", "RowsPerStrip"), (*sides, sides[0]), strict=True):
            tiff.pages.first.tags[name].overwrite(side, dtype="I")
    with pytest.raises(InputError, match=f"damaged: .* {sides[0]} × {sides[1]} px do not fit into .* bytes of JPEG"):
        open_image(tmp_path / "x.tif")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="takes Linux to count memory")
def test_wide_pictures_in_small_files_take_little_memory(tmp_path):
    write(tmp_path / "x.tif", FLAT[:16, :16], **KINDS["deflate"])
    widen(tmp_path / "x.tif", 8_355_587)
    (tmp_path / "x.png").write_bytes(to_bytes([header(8_388_616), pixels(), END]))
    program = f"""
import pathlib, sys
from tiler.errors import InputError
from tiler.sources.opening import open_image
from tiler.window import Span, Window
for name in ("x.tif", "x.png"):
    try:
        open_image(pathlib.Path({str(tmp_path)!r}) / name).read(Window(Span(0, 1), Span(0, 1)))
    except InputError as error:
        print(error)
lines = pathlib.Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if "VmHWM" in line))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *messages, peak = done.stdout.splitlines()
    assert len(messages) == 2
    assert all("do not fit into" in message for message in messages)
    assert int(peak) < 150_000, "kB"
