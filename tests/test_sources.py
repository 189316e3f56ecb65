import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tiler.errors import InputError
from tiler.sources import npy_source
from tiler.sources.array_source import ArraySource
from tiler.sources.latent_png import LatentPng
from tiler.sources.latent_space import Converted
from tiler.sources.npy_source import NpySource
from tiler.sources.opening import open_image, open_latents
from tiler.sources.picture import PictureSource
from tiler.sources.positions import EdgePadded
from tiler.sources.upscale import Upscaled
from tiler.window import Span, Window

HEIGHT, WIDTH = 23, 31
LATENTS = np.random.default_rng(0).standard_normal((HEIGHT, WIDTH, 4)).astype(np.float32)
PIXELS = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
CHANNELS_FIRST = np.ascontiguousarray(LATENTS.transpose(2, 0, 1))[np.newaxis]


def save_array(folder, array):
    np.save(folder / "array.npy", array)
    return folder / "array.npy"


def save_image(folder, pixels, name="image.png"):
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def make_memory_map(folder):
    return np.load(save_array(folder, CHANNELS_FIRST), mmap_mode="r")


def make_torch(dtype):
    torch = pytest.importorskip("torch")
    return torch.from_numpy(CHANNELS_FIRST).to(getattr(torch, dtype))


def make_dask():
    dask_array = pytest.importorskip("dask.array")
    return dask_array.from_array(CHANNELS_FIRST, chunks=(1, 3, 7, 10))


def round_to_bfloat16(values):
    """Round to the nearest, by TensorFlow's own type."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def make_bfloat16():
    return CHANNELS_FIRST.astype(pytest.importorskip("ml_dtypes").bfloat16)


BATCH = np.concatenate([CHANNELS_FIRST + 1, CHANNELS_FIRST, CHANNELS_FIRST - 1])


def save_npz(folder, save=np.savez):
    save(folder / "latents.npz", seed=np.int64(7), latents=CHANNELS_FIRST)
    return folder / "latents.npz"


def save_safetensors(folder, dtype):
    from safetensors.numpy import save_file

    ml_dtypes = pytest.importorskip("ml_dtypes")
    batch = BATCH.astype(getattr(ml_dtypes, dtype, dtype))
    save_file({"before": np.arange(5), "latents": batch, "later": np.zeros((1, 2))}, folder / "latents.safetensors")
    return folder / "latents.safetensors"


TO_IMAGE = (PIXELS[..., :3] / 255).astype(np.float32)
SOURCES = {
    "npy": (lambda folder: open_latents(save_array(folder, CHANNELS_FIRST), 4), LATENTS),
    "npy, Fortran": (lambda folder: open_latents(save_array(folder, np.asfortranarray(CHANNELS_FIRST)), 4), LATENTS),
    "array": (lambda _: open_latents(CHANNELS_FIRST, 4), LATENTS),
    "array of another layout": (lambda _: open_latents(LATENTS.astype(">f8"), 4), LATENTS),
    "read-only array": (lambda _: open_latents(np.broadcast_to(LATENTS[:1], LATENTS.shape), 4), LATENTS[[0] * HEIGHT]),
    "memory map": (lambda folder: open_latents(make_memory_map(folder), 4), LATENTS),
    "dask": (lambda _: open_latents(make_dask(), 4), LATENTS),
    "torch": (lambda _: open_latents(make_torch("float32"), 4), LATENTS),
    "torch, bfloat16": (lambda _: open_latents(make_torch("bfloat16"), 4), round_to_bfloat16(LATENTS)),
    "bfloat16": (lambda _: open_latents(make_bfloat16(), 4), round_to_bfloat16(LATENTS)),
    "batch": (lambda _: open_latents(BATCH, 4, index=1), LATENTS),
    "npy, batch": (lambda folder: open_latents(save_array(folder, BATCH), 4, index=1), LATENTS),
    "npy, batch, Fortran": (
        lambda folder: open_latents(save_array(folder, np.asfortranarray(BATCH)), 4, index=1),
        LATENTS,
    ),
    "npz": (lambda folder: open_latents(save_npz(folder), 4), LATENTS),
    "npz, compressed": (lambda folder: open_latents(save_npz(folder, np.savez_compressed), 4), LATENTS),
    "safetensors": (lambda folder: open_latents(save_safetensors(folder, "float32"), 4, index=1), LATENTS),
    "safetensors, bfloat16": (
        lambda folder: open_latents(save_safetensors(folder, "bfloat16"), 4, index=1),
        round_to_bfloat16(LATENTS),
    ),
    "converted": (
        lambda _: Converted(ArraySource(LATENTS, 4), scale=0.5, shift=0.25),
        (LATENTS - np.float32(0.25)) * np.float32(0.5),
    ),
    "torch, half": (lambda _: open_latents(make_torch("float16"), 4), LATENTS.astype(np.float16).astype(np.float32)),
    "8-bit latents": (
        lambda folder: open_latents(save_image(folder, PIXELS), 4),
        ((PIXELS / 255 - 0.5) * 6).astype(np.float32),
    ),
    "image": (lambda folder: open_image(save_image(folder, PIXELS[..., :3])), TO_IMAGE),
    "image, npy of bytes": (lambda folder: open_image(save_array(folder, PIXELS[..., :3])), TO_IMAGE),
    "image, npy of floats": (lambda folder: open_image(save_array(folder, TO_IMAGE.astype(np.float64))), TO_IMAGE),
    "image, array of bytes": (lambda _: open_image(PIXELS[..., :3]), TO_IMAGE),
    "image, array of floats": (lambda _: open_image(TO_IMAGE), TO_IMAGE),
    "upscaled by 1": (lambda _: Upscaled(ArraySource(LATENTS, 4), 1), LATENTS),
    "upscaled": (lambda _: Upscaled(ArraySource(LATENTS, 4), 3), None),
    "edge-padded": (
        lambda _: EdgePadded(ArraySource(LATENTS, 4), 8),
        np.pad(LATENTS, ((0, 1), (0, 1), (0, 0)), mode="edge"),
    ),
    "a source": (lambda _: open_latents(ArraySource(LATENTS, 4), 4), LATENTS),
}


@pytest.fixture(params=SOURCES.values(), ids=SOURCES)
def source_and_whole(request, tmp_path):
    make, whole = request.param
    source = make(tmp_path)
    return source, source.read(Window.whole(*source.shape[:2])) if whole is None else whole


def cut(size, random):
    """Cut [0, size) into random spans."""
    cuts = sorted({0, size, *(int(n) for n in random.integers(1, size, 5))})
    return [Span(*pair) for pair in itertools.pairwise(cuts)]


@pytest.mark.parametrize("seed", range(3))
def test_windows_read_in_any_order_by_many_threads_make_the_whole(source_and_whole, seed):
    source, whole = source_and_whole
    assert source.shape == whole.shape
    random = np.random.default_rng(seed)
    windows = [Window(*pair) for pair in itertools.product(cut(whole.shape[0], random), cut(whole.shape[1], random))]
    random.shuffle(windows)
    together = np.full(whole.shape, np.nan, np.float32)
    with ThreadPoolExecutor(8) as threads:
        for window, values in zip(windows, threads.map(source.read, windows), strict=True):
            assert type(values) is np.ndarray
            assert values.shape == (*window.shape, whole.shape[2])
            assert values.dtype == np.dtype("=f4")
            assert values.flags.c_contiguous
            together[window.slices] = values
    np.testing.assert_array_equal(together, whole)


def test_what_is_read_may_be_written_to(source_and_whole):
    source, whole = source_and_whole
    window = Window.whole(*source.shape[:2])
    source.read(window)[...] = 99
    np.testing.assert_array_equal(source.read(window), whole)


def test_shapes_are_plain_integers(source_and_whole):
    assert [type(size) for size in source_and_whole[0].shape] == [int, int, int]


@pytest.mark.parametrize(
    ("open_path", "content", "kind"),
    [
        pytest.param(lambda path: open_latents(path, 4), "npy", NpySource, id="latents, npy"),
        pytest.param(lambda path: open_latents(path, 4), "png", LatentPng, id="latents, png"),
        pytest.param(open_image, "npy", NpySource, id="image, npy"),
        pytest.param(open_image, "png", PictureSource, id="image, png"),
    ],
)
@pytest.mark.parametrize("name", ["x.npy", "x.PNG", "x", "x.txt"])
def test_the_first_bytes_tell_and_not_the_ending(tmp_path, open_path, content, kind, name):
    array = PIXELS[..., :3] if open_path is open_image else PIXELS
    if content == "npy":
        save_array(tmp_path, array if open_path is open_image else LATENTS).rename(tmp_path / name)
    else:
        save_image(tmp_path, array).rename(tmp_path / name)
    assert type(open_path(tmp_path / name)) is kind
    assert type(open_path(str(tmp_path / name))) is kind


def test_sources_pass_through():
    source = ArraySource(LATENTS, 4)
    assert open_latents(source, 4) is source
    image = ArraySource(TO_IMAGE, 3)
    assert open_image(image) is image


class Odd:
    """Something that may be told apart from an array by what it lacks."""

    def __init__(self, shape=(4, 7, 9), dtype="<f4"):
        self.shape, self.dtype = shape, dtype

    def __getitem__(self, index):
        raise RuntimeError("no\nelements")


class Shaped:
    """A source of any shape."""

    def __init__(self, shape):
        self.shape = shape

    def read(self, window):
        raise AssertionError("it was read")


@pytest.mark.parametrize("open_it", [lambda it: open_latents(it, 4), open_image], ids=["latents", "image"])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(lambda folder: folder / "missing.npy", "No such file", id="missing"),
        pytest.param(lambda folder: str(folder / "missing.png"), "No such file", id="missing, as text"),
        pytest.param(lambda folder: folder, "A folder", id="folder"),
        pytest.param(lambda _: "", "A folder", id="no name"),
        pytest.param(lambda folder: save_text(folder, b""), "is empty", id="empty"),
        pytest.param(lambda folder: save_text(folder, b"hello, world"), "Not a", id="text"),
        pytest.param(lambda folder: save_text(folder, b"hello\nworld\xff\r\n"), "Not a", id="lines"),
        pytest.param(
            lambda folder: save_text(folder, b"\x89PNG\r\n\x1a\n"), "no header|cannot be read", id="PNG of no pixels"
        ),
        pytest.param(lambda folder: save_text(folder, b"\x93NUMPY"), "Not a .npy file", id="npy of no header"),
        pytest.param(lambda folder: save_array(folder, LATENTS[..., :2]), "expected channels=", id="npy, channels"),
        pytest.param(lambda _: LATENTS[..., :2], "expected channels=", id="channels"),
        pytest.param(lambda _: LATENTS[:, :0], "Nothing in it", id="zero-sized"),
        pytest.param(lambda _: ArraySource(LATENTS[..., :2], 2), "expected channels=", id="source, channels"),
        pytest.param(lambda _: Shaped((4, 9)), "Wrong shape", id="source, two axes"),
        pytest.param(lambda _: Shaped((4.0, 9.0, 4)), "whole numbers", id="source, fractions"),
        pytest.param(lambda _: Shaped((-4, 9, 4)), "Wrong shape", id="source, negative"),
        pytest.param(lambda _: Shaped(None), "Wrong shape", id="source, no shape"),
        pytest.param(lambda _: LATENTS[..., 0], "axes=2", id="two axes"),
        pytest.param(lambda _: np.empty((3, 4, 4), object), "Python objects|expected channels=4", id="objects"),
        pytest.param(lambda _: np.zeros((1, 2, 3, 4), np.int64)[..., :3], "Wrong number|expected", id="integers"),
        pytest.param(lambda _: [[[1.0]]], "Not an array: type=list", id="list"),
        pytest.param(lambda _: None, "Not an array: type=NoneType", id="nothing"),
        pytest.param(lambda _: sys.stdin, "Not an array", id="file object"),
        pytest.param(lambda _: Odd((3, float("nan"), 9)), "no definite shape", id="unknown shape"),
        pytest.param(lambda _: Odd((4, 4, 3), object()), "cannot read this array", id="unknown type"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, open_it, make, says):
    with pytest.raises(InputError, match=says) as caught:
        open_it(make(tmp_path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def save_text(folder, content):
    (folder / "x.npy").write_bytes(content)
    return folder / "x.npy"


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    path = save_array(tmp_path, LATENTS)
    monkeypatch.setattr(npy_source.os, "open", refuse)
    for open_path in (lambda path: open_latents(path, 4), open_image):
        with pytest.raises(InputError, match="may not be read"):
            open_path(path)


def test_a_batch_is_refused_with_what_to_do():
    with pytest.raises(InputError, match=r"batch=2.*index=0 to 1"):
        open_latents(np.zeros((2, 4, 8, 8), np.float32), 4)


def test_an_image_is_no_latents_of_16_channels(tmp_path):
    with pytest.raises(InputError, match=r"shape=\(23, 31, 4\), expected channels=16"):
        open_latents(save_image(tmp_path, PIXELS), 16)


@pytest.mark.parametrize("kind", ["jpg", "tif", "npy of bytes", "array of bytes"])
def test_images_are_no_latents(tmp_path, kind):
    if kind == "npy of bytes":
        image = save_array(tmp_path, PIXELS)
    elif kind == "array of bytes":
        image = PIXELS
    else:
        image = save_image(tmp_path, PIXELS[..., :3], f"image.{kind}")
    with pytest.raises(InputError, match=r"Not a file of latents|Wrong number type.*uint8"):
        open_latents(image, 4)


def test_a_tensor_that_can_be_trained_is_read():
    source = open_latents(make_torch("float32").requires_grad_(), 4)
    np.testing.assert_array_equal(source.read(Window.whole(HEIGHT, WIDTH)), LATENTS)


@pytest.mark.parametrize("key", ["latents", ""])
@pytest.mark.parametrize("kind", ["npy", "png"])
def test_a_key_of_a_file_of_one_array_is_refused(tmp_path, kind, key):
    path = save_array(tmp_path, LATENTS) if kind == "npy" else save_image(tmp_path, PIXELS)
    with pytest.raises(InputError, match=r"one array.*key=.*key="):
        open_latents(path, 4, key=key)


@pytest.mark.parametrize("make", [lambda folder: save_image(folder, PIXELS), lambda _: ArraySource(LATENTS, 4)])
def test_an_index_where_there_is_no_batch_is_refused(tmp_path, make):
    assert open_latents(make(tmp_path), 4, index=0).shape == (HEIGHT, WIDTH, 4)
    with pytest.raises(InputError, match="Not a batch: index=1"):
        open_latents(make(tmp_path), 4, index=1)


def test_only_the_chunks_of_a_window_are_computed():
    dask_array = pytest.importorskip("dask.array")
    computed = []

    def compute(block_info=None):
        computed.append(block_info[None]["chunk-location"])
        return np.ones((1, 4, 10, 10), np.float32)

    array = dask_array.map_blocks(
        compute, chunks=((1,), (4,), (10,) * 50, (10,) * 50), dtype=np.float32, meta=np.empty((0,) * 4, np.float32)
    )
    source = open_latents(array, 4)
    assert source.shape == (500, 500, 4)
    assert computed == []
    source.read(Window(Span(15, 25), Span(490, 500)))
    assert sorted(computed) == [(0, 0, 1, 49), (0, 0, 2, 49)]


def test_importing_the_sources_loads_none_of_what_they_may_use():
    heavy = {"PIL", "tifffile", "dask", "torch", "tensorflow", "keras"}
    program = f"import sys, tiler.sources.opening, tiler.sources.upscale; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
