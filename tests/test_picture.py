"""Pictures are read as what they are, compared with readers that are not libvips."""

import itertools
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from tiler.errors import DamagedError, InputError
from tiler.sources import spool
from tiler.sources.opening import open_image
from tiler.sources.positions import Turned
from tiler.window import Span, Window

SMOOTH = (np.add.outer(3 * np.arange(48), 2 * np.arange(64))[..., None] + [0, 9, 14]).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
EXACT = {
    "png": {},
    "jpg": {"quality": 90, "subsampling": 0},
    "webp": {"lossless": True},
    "avif": {"quality": 100, "subsampling": "4:4:4"},
}


def read_whole(source):
    return source.read(Window.whole(*source.shape[:2]))


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **EXACT.get(path.suffix[1:], {}), **options)
    return path


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "avif"])
def test_pictures_are_what_pillow_reads_and_the_right_way_up(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"x.{ending}", SMOOTH, exif=exif)
    source = open_image(path)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    whole = read_whole(source)
    assert source.shape == whole.shape == expected.shape
    assert whole.dtype == np.float32
    # Two libraries make RGB of YCbCr.
    np.testing.assert_allclose(whole * 255, expected, rtol=0, atol=1.01 if ending == "avif" else 1e-4)
    window = Window(Span(7, 21), Span(3, 40))
    np.testing.assert_array_equal(source.read(window), whole[window.slices])


@pytest.mark.parametrize("orientation", range(2, 9))
def test_windows_of_a_turned_source_are_those_of_the_turned_whole(orientation):
    class Rows:
        shape = (5, 8, 1)

        def read(self, window):
            return np.arange(40, dtype=np.float32).reshape(5, 8, 1)[window.slices]

    transposes = [None, 0, 3, 1, 5, 4, 6, 2]
    stored = Image.fromarray(np.arange(40, dtype=np.uint8).reshape(5, 8))
    expected = np.asarray(stored.transpose(Image.Transpose(transposes[orientation - 1])))
    source = Turned(Rows(), orientation)
    assert source.shape == (*expected.shape, 1)
    for rows, columns in itertools.product(*(itertools.combinations(range(size + 1), 2) for size in expected.shape)):
        window = Window(Span(*rows), Span(*columns))
        np.testing.assert_array_equal(source.read(window)[..., 0], expected[window.slices])


def test_a_large_picture_is_spooled_to_a_file_that_has_no_name(tmp_path, monkeypatch):
    path = save(tmp_path / "x.png", NOISE)
    folder = tmp_path / "beside"
    folder.mkdir()
    monkeypatch.setattr(spool, "MEMORY_BYTES", NOISE.nbytes - 1)
    source = open_image(path, spool_folder=folder)
    assert source.spool_bytes == NOISE.nbytes
    before = os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else []
    np.testing.assert_array_equal(read_whole(source), (NOISE / 255).astype(np.float32))
    for rows, columns in [((0, 48), (5, 6)), ((13, 14), (0, 64)), ((47, 48), (63, 64))]:
        window = Window(Span(*rows), Span(*columns))
        np.testing.assert_array_equal(source.read(window) * 255, NOISE[window.slices])
    assert not list(folder.iterdir())
    if before:
        assert len(os.listdir("/proc/self/fd")) == len(before) + 1
        del source
        assert len(os.listdir("/proc/self/fd")) < len(before)


@pytest.mark.parametrize(
    "options", [None, {"tile": (16, 16), "compression": "zlib"}, {}], ids=["png", "tiles", "strips"]
)
def test_many_threads_read_one_picture(tmp_path, options):
    if options is None:
        save(tmp_path / "x", NOISE, format="PNG")
    else:
        tifffile.imwrite(tmp_path / "x", NOISE, photometric="rgb", **options)
    source = open_image(tmp_path / "x")
    windows = [Window(Span(n, n + 9), Span(2 * n, 2 * n + 5)) for n in range(30)]
    with ThreadPoolExecutor(8) as pool:
        for window, values in zip(windows, pool.map(source.read, windows), strict=True):
            np.testing.assert_array_equal(values * 255, NOISE[window.slices])


def test_a_picture_that_changed_in_this_process_gives_its_new_pixels(tmp_path):
    for pixels in (NOISE, NOISE[::-1], NOISE[:, ::-1]):
        save(tmp_path / "x.png", pixels)
        np.testing.assert_array_equal(read_whole(open_image(tmp_path / "x.png")) * 255, pixels)


def test_16_bits_stay_16_bits(tmp_path):
    wide = np.random.default_rng(0).integers(0, 65536, (8, 9, 3), np.uint16)
    (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(wide))
    np.testing.assert_array_equal(read_whole(open_image(tmp_path / "x.png")), (wide / 65535).astype(np.float32))


def cut(content, share):
    return content[: int(len(content) * share)]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "avif"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_cut_picture_is_refused_in_one_line(tmp_path, ending, share):
    content = save(tmp_path / f"good.{ending}", NOISE).read_bytes()
    (tmp_path / "x").write_bytes(cut(content, share))
    with pytest.raises(InputError, match="damaged") as caught:
        read_whole(open_image(tmp_path / "x"))
    assert str(caught.value).isprintable()
    assert str(tmp_path / "x") in str(caught.value)


def test_a_jpeg_that_is_cut_and_closed_again_is_damaged(tmp_path):
    content = save(tmp_path / "good.jpg", NOISE).read_bytes()
    (tmp_path / "x.jpg").write_bytes(cut(content, 0.5) + b"\xff\xd9")
    with pytest.raises(DamagedError, match="premature end"):
        read_whole(open_image(tmp_path / "x.jpg"))


def test_a_png_with_a_long_text_is_read(tmp_path):
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", '{"nodes": []}' + " " * 8_000_000, zip=True)
    info.add_text("prompt", "x" * 5_000_000)
    save(tmp_path / "x.png", NOISE, pnginfo=info)
    np.testing.assert_array_equal(read_whole(open_image(tmp_path / "x.png")) * 255, NOISE)


@pytest.mark.parametrize(
    "content",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"1,2\n3,4\n",
        b"%PDF-1.4",
        b"GIF89a" + bytes(99),
    ],
    ids=["svg", "csv", "pdf", "gif"],
)
def test_what_libvips_knows_besides_is_not_opened(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match=r"Not a picture of a known format"):
        open_image(tmp_path / "x.png")


def test_of_several_pictures_one_is_chosen(tmp_path):
    frames = [Image.fromarray(each) for each in (NOISE, NOISE[::-1])]
    frames[0].save(tmp_path / "x.webp", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(InputError, match=r"Several pictures.*pages=2.*page=0 to 1"):
        open_image(tmp_path / "x.webp")
    sources = [open_image(tmp_path / "x.webp", page=page) for page in (0, 1)]
    for source, frame in zip(sources, frames, strict=True):
        np.testing.assert_array_equal(read_whole(source) * 255, np.asarray(frame))
    assert sources[0].fingerprint != sources[1].fingerprint
    with pytest.raises(InputError, match=r"No such page.*page=2"):
        open_image(tmp_path / "x.webp", page=2)


@pytest.mark.parametrize("kind", ["png", "avif"])
def test_of_an_animation_the_first_picture_is_read_and_said(tmp_path, kind):
    frames = [Image.new("RGB", (16, 16), (level, level, level)) for level in (90, 160, 220)]
    options = {"lossless": True} if kind == "png" else {"quality": 95}
    animated, still = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
    frames[0].save(animated, save_all=True, append_images=frames[1:], duration=100, **options)
    frames[0].save(still, **options)
    with Image.open(animated) as image:
        assert image.n_frames == 3
    source = open_image(animated)
    np.testing.assert_allclose(read_whole(source), 90 / 255, atol=0 if kind == "png" else 2 / 255, rtol=1e-6)
    assert source.notes == ("an animation of 3 frames, of which the first, or its still picture, was read",)
    frames[0].save(animated, save_all=True, **options)
    assert open_image(animated).notes == open_image(still).notes == ()


def test_a_name_is_a_name(tmp_path):
    """libvips takes what is in brackets for options."""
    path = tmp_path / "x[page=1].png"
    save(path, NOISE)
    np.testing.assert_array_equal(read_whole(open_image(path)) * 255, NOISE)


def test_damaged_exif_changes_nothing_and_says_nothing(tmp_path, capfd):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3"
    save(tmp_path / "a.jpg", SMOOTH)
    content = (tmp_path / "a.jpg").read_bytes()
    right = read_whole(open_image(tmp_path / "a.jpg"))
    (tmp_path / "a.jpg").write_bytes(content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif + content[2:])
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(read_whole(open_image(tmp_path / "a.jpg")), right)
    assert heard == []
    assert capfd.readouterr() == ("", "")


def find_scans(content):
    """Where each pass of a progressive JPEG begins, its tables included."""
    scans = [place for place in range(len(content) - 1) if content[place : place + 2] == b"\xff\xda"]
    starts = []
    for before, scan in itertools.pairwise([0, *scans]):
        table = content.rfind(b"\xff\xc4", before, scan)
        starts.append(scan if table < 0 else table)
    return starts


def test_a_progressive_jpeg_that_lacks_passes_is_said_to(tmp_path):
    path = tmp_path / "a.jpg"
    for pixels in (SMOOTH, NOISE[:, :, 0]):
        Image.fromarray(pixels).save(path, quality=90, progressive=True)
        content = path.read_bytes()
        starts = find_scans(content)
        assert len(starts) > 5
        for start in starts[1:]:
            path.write_bytes(content[:start] + b"\xff\xd9")
            source = open_image(path)
            assert read_whole(source).shape == (48, 64, 3)
            assert "before its last passes" in source.notes[0]
        for whole in (content, content[:2] + b"\xff\xfe\0\6\xff\xd9" + content[2:], content + content[: starts[1]]):
            path.write_bytes(whole)
            assert open_image(path).notes == ()
    for options in ({}, {"restart_marker_blocks": 1}):
        Image.fromarray(SMOOTH).save(path, quality=90, progressive=bool(options), **options)
        assert open_image(path).notes == ()


@pytest.mark.parametrize("kind", ["stored", "tiled", "png"])
def test_16_bits_of_which_the_highest_are_never_used_are_said(tmp_path, kind):
    values = np.minimum(SMOOTH[:, :, 0].astype(np.uint16) * 16, 4095)
    if kind == "png":
        Image.fromarray(values).save(tmp_path / "a.png")
    else:
        tifffile.imwrite(tmp_path / "a.png", values, tile=(16, 16) if kind == "tiled" else None)
    source = open_image(tmp_path / "a.png")
    assert source.notes == ()
    read_whole(source)
    assert len(source.notes) == 1
    assert f"no value goes beyond {values.max()} of 65535" in source.notes[0]
    Image.fromarray(values * 16).save(tmp_path / "b.png")
    bright = open_image(tmp_path / "b.png")
    read_whole(bright)
    assert bright.notes == ()


@pytest.mark.parametrize("change", ["replaced", "rewritten", "removed"])
@pytest.mark.parametrize("kind", [None, {"tile": (16, 16), "compression": "zlib"}, {}], ids=["png", "tiles", "strips"])
def test_a_picture_that_changes_between_opening_and_reading_is_noticed(tmp_path, kind, change):
    def write(path, pixels):
        if kind is None:
            save(path, pixels)
        else:
            tifffile.imwrite(path, pixels, photometric="rgb", **kind)

    path = tmp_path / "a.png"
    write(path, NOISE)
    source = open_image(path)
    if change == "removed":
        path.unlink()
    else:
        write(tmp_path / "b.png", NOISE[::-1])
        if change == "replaced":
            os.replace(tmp_path / "b.png", path)
        else:
            path.write_bytes((tmp_path / "b.png").read_bytes())
            os.utime(path, ns=(0, 10**18))  # A clock may stand still between two writes.
    with pytest.raises(InputError, match="changed while it was in use"):
        read_whole(source)
