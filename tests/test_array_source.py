"""Arrays of Python, of every kind that people have."""

from tempfile import TemporaryFile

import numpy as np
import pytest

import tiler
from tiler.errors import InputError, NonFiniteError
from tiler.sources.array_source import ArraySource
from tiler.sources.opening import open_image, open_latents
from tiler.sources.ranges import Replaced, check_finite, treat_nonfinite
from tiler.sources.source import fingerprint_source
from tiler.sources.stored_numbers import IMAGE_TYPES
from tiler.window import Window

HEIGHT, WIDTH = 7, 9
LATENTS = np.random.default_rng(0).normal(size=(4, HEIGHT, WIDTH)).astype(np.float32)
EXPECTED = LATENTS.transpose(1, 2, 0)
WHOLE = Window.whole(HEIGHT, WIDTH)


def make_masked(values=LATENTS, *, at=(2, 5, 3)):
    masked = np.ma.array(values, mask=False)
    masked[at] = np.ma.masked
    return masked


def make_dask(values):
    array = pytest.importorskip("dask.array")
    return array.from_array(values, chunks=3, asarray=False)


@pytest.mark.parametrize("wrap", [lambda values: values, make_dask], ids=["numpy", "dask"])
def test_what_is_masked_is_nan_whatever_lies_under_the_mask(wrap):
    source = open_latents(wrap(make_masked()), 4)
    values = source.read(WHOLE)
    assert np.argwhere(np.isnan(values)).tolist() == [[5, 3, 2]]
    np.testing.assert_array_equal(np.nan_to_num(values, nan=7), np.where(np.isnan(values), 7, EXPECTED))
    with pytest.raises(NonFiniteError, match="value=nan at row 5, column 3, channel 2"):
        check_finite(values, WHOLE)
    replaced = Replaced()
    zeroed = treat_nonfinite(source, "zero", replaced).read(WHOLE)
    assert zeroed[5, 3, 2] == 0
    assert len(replaced) == 1


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_what_is_masked_of_an_image_is_nan_too(dtype):
    pixels = (np.arange(HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3) % 256).astype(dtype)
    values = open_image(make_masked(pixels / np.float32(255) if dtype != "uint8" else pixels, at=(6, 8, 1))).read(WHOLE)
    assert np.argwhere(np.isnan(values)).tolist() == [[6, 8, 1]]
    assert values[6, 8, 2] == pytest.approx((HEIGHT * WIDTH * 3 - 1) % 256 / 255)


def test_a_run_refuses_what_is_masked_and_reads_it_as_0_where_that_is_asked_for(tmp_path):
    with pytest.raises(NonFiniteError, match="row 5, column 3, channel 2"):
        tiler.decode(make_masked(), tmp_path / "a.npy", weights="photo")
    filled = LATENTS.copy()
    filled[2, 5, 3] = 0
    report = tiler.decode(tiler.Latents(make_masked(), nonfinite="zero"), tmp_path / "a.npy", weights="photo")
    assert report.n_replaced == 1
    tiler.decode(filled, tmp_path / "b.npy", weights="photo")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    with pytest.raises(NonFiniteError, match="row 5, column 3, channel 1"):
        tiler.encode(make_masked(np.zeros((8, 8, 3), np.uint8), at=(5, 3, 1)), tmp_path / "c.npy", weights="photo")


def test_an_array_that_can_be_masked_but_is_not_is_an_array():
    for array in (np.ma.array(LATENTS), np.ma.array(LATENTS, mask=False), make_dask(np.ma.array(LATENTS))):
        np.testing.assert_array_equal(open_latents(array, 4).read(WHOLE), EXPECTED)


def test_another_mask_is_another_input():
    sources = [make_masked(), make_masked(at=(2, 5, 4)), np.ma.array(LATENTS), LATENTS]
    assert len({fingerprint_source(open_latents(each, 4)) for each in sources}) == 4


def make_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    return LATENTS.astype(ml_dtypes.bfloat16)


def test_bfloat16_is_read_and_told_apart():
    rounded = make_bfloat16()
    source = open_latents(rounded, 4)
    # The upper half of each float32, as bits: another way to the same numbers.
    bits = (rounded.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(source.read(WHOLE), bits.transpose(1, 2, 0))
    other = rounded.copy()
    other[0, 0, 0] += 1
    halves = rounded.view(np.float16)
    assert len({fingerprint_source(open_latents(each, 4)) for each in (rounded, other, halves)}) == 3


def test_bfloat16_is_decoded_as_the_numbers_that_it_is(tmp_path):
    rounded = make_bfloat16()
    for name, array in (("a", rounded), ("b", rounded.astype(np.float32))):
        tiler.decode(array, tmp_path / f"{name}.npy", weights="photo")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


class Odd:
    """An array that says one thing and does another."""

    def __init__(self, values, *, shape=None, dtype=None):
        self.values, self.shape, self.dtype = values, shape or values.shape, dtype

    def __getitem__(self, index):
        return self.values[index]


def make_xarray():
    return pytest.importorskip("xarray").DataArray(LATENTS, dims=("c", "y", "x"))


def make_torch():
    return pytest.importorskip("torch").from_numpy(LATENTS.copy()).requires_grad_()


def make_negated():
    """A view of torch that is to be negated, which only torch knows."""
    torch = pytest.importorskip("torch")
    negated = torch.complex(torch.zeros(LATENTS.shape), -torch.from_numpy(LATENTS)).conj().imag
    assert negated.is_neg()
    return negated


def make_memory_map():
    with TemporaryFile() as file:
        array = np.memmap(file, np.float32, "w+", shape=LATENTS.shape)
    array[...] = LATENTS
    return array


def make_read_only():
    array = LATENTS.copy()
    array.flags.writeable = False
    return array


TAKEN = {
    "negative strides": lambda: np.ascontiguousarray(LATENTS[::-1, ::-1, ::-1])[::-1, ::-1, ::-1],
    "Fortran's order": lambda: np.asfortranarray(LATENTS),
    "big-endian": lambda: LATENTS.astype(">f4"),
    "float64": lambda: LATENTS.astype(np.float64),
    "repeated by strides": lambda: np.broadcast_to(LATENTS, (1, *LATENTS.shape)),
    "memory map": make_memory_map,
    "read only": make_read_only,
    "a type by its name": lambda: Odd(LATENTS, dtype="float32"),
    "no type": lambda: Odd(LATENTS),
    "a type that nobody knows": lambda: Odd(LATENTS, dtype="latents"),
    "xarray": make_xarray,
    "torch": make_torch,
    "torch, negated": make_negated,
}


@pytest.mark.parametrize("make", TAKEN.values(), ids=TAKEN)
def test_arrays_of_every_kind_are_read_and_not_written_to(make):
    array = make()
    values = open_latents(array, 4).read(WHOLE)
    np.testing.assert_array_equal(values, EXPECTED)
    values[...] = 0
    np.testing.assert_array_equal(open_latents(array, 4).read(WHOLE), EXPECTED)


def make_unknown():
    array = pytest.importorskip("dask.array").from_array(LATENTS)
    return array[array[:, 0, 0] > 0]


def make_float8():
    return LATENTS.astype(pytest.importorskip("ml_dtypes").float8_e4m3fn)


REFUSED = {
    "nothing in it": (lambda: np.zeros((4, 0, 9), np.float32), "Nothing in it: array, shape="),
    "complex": (lambda: LATENTS.astype(complex), "Wrong number type: array, dtype=complex128"),
    "objects": (lambda: LATENTS.astype(object), "Python objects, not numbers"),
    "whole numbers": (lambda: LATENTS.astype(np.int32), "Wrong number type: array, dtype=int32"),
    "booleans": (lambda: LATENTS > 0, "Wrong number type: array, dtype=bool"),
    "texts": (lambda: LATENTS.astype(str), "Wrong number type: array, dtype=str"),
    "times": (lambda: LATENTS.astype("m8[s]"), "Wrong number type: array, dtype=timedelta64"),
    "fields": (
        lambda: np.zeros((4, 7, 9), [("a", "f4"), ("b", "f4")]),
        r"A structured array.*: array, dtype=.*fields=a, b",
    ),
    "bytes": (lambda: make_bfloat16().view("V2"), r"Raw bytes, not numbers: array, dtype=V2\. .*bfloat16 \(V2\)"),
    "float8": (make_float8, "Wrong number type: array, dtype=float8_e4m3fn"),
    "no axes": (lambda: np.float32(3), "Wrong number of axes: array, .*axes=0"),
    "a matrix": (lambda: LATENTS[0].view(np.matrix), "Wrong number of axes: array, .*axes=2"),
    "lists": (lambda: LATENTS.tolist(), "Not an array: type=list"),
    "bytes of a name": (lambda: b"latents.npy", "Not an array: type=bytes"),
    "nothing": (lambda: None, "Not an array: type=NoneType"),
    "sparse": (lambda: make_torch().to_sparse(), r"NumPy cannot read this array: type=Tensor.*to_dense\(\)"),
    "no values": (lambda: make_torch().to("meta"), r"NumPy cannot read this array: .*device is meta: .*no values"),
    "unknown chunks": (make_unknown, r"The array has no definite shape: .*nan.* compute_chunk_sizes"),
    "a broken size": (lambda: Odd(LATENTS, shape=(4, 7.5, 9)), "The array has no definite shape"),
}


@pytest.mark.parametrize(("make", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_array_of_latents_is_refused_for_what_it_is(make, says):
    with pytest.raises(InputError, match=says) as caught:
        open_latents(make(), 4)
    assert "\n" not in str(caught.value)


def test_an_array_that_gives_other_numbers_than_it_says_is_refused():
    source = ArraySource(Odd(np.zeros((HEIGHT, WIDTH, 3)), dtype="uint8"), 3, types=IMAGE_TYPES)
    with pytest.raises(InputError, match="gives other numbers than it says: array, dtype=uint8, given=float64"):
        source.read(WHOLE)


@pytest.mark.parametrize(("says", "gives"), [("uint16", "uint8"), ("uint8", "uint16"), ("float32", "uint16")])
def test_integers_of_another_size_than_an_array_says_are_refused(says, gives):
    source = ArraySource(Odd(np.zeros((HEIGHT, WIDTH, 3), gives), dtype=says), 3, types=IMAGE_TYPES)
    with pytest.raises(InputError, match=f"gives other numbers than it says: array, dtype={says}, given={gives}"):
        source.read(WHOLE)


def test_16_bits_are_pictures_and_no_latents():
    values = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 3), np.uint16)
    masked = np.ma.masked_array(values, np.zeros_like(values, bool))
    masked[1, 2, 0] = np.ma.masked
    expected = (values / 65535).astype(np.float32)
    np.testing.assert_array_equal(open_image(values).read(WHOLE), expected)
    np.testing.assert_array_equal(open_image(values.astype(">u2")).read(WHOLE), expected)
    expected[1, 2, 0] = np.nan
    np.testing.assert_array_equal(open_image(masked).read(WHOLE), expected)
    with pytest.raises(InputError, match="Wrong number type"):
        open_latents(np.zeros((HEIGHT, WIDTH, 4), np.uint16), 4)
