import numpy as np
import pytest

from tiler.errors import InputError
from tiler.sources.layout import Layout, Wanted, find_layout
from tiler.sources.stored_numbers import IMAGE_TYPES, LATENT_TYPES, check_type
from tiler.window import Span, Window


def find(shape, channels, *, index=None, axes=None, **how):
    """Return the layout of latents."""
    return find_layout(shape, Wanted(channels, index=index, axes=axes), **how)


@pytest.mark.parametrize(
    ("shape", "map_shape", "axes"),
    [
        pytest.param((1, 4, 7, 9), (7, 9, 4), "BCHW", id="batch, channels first"),
        pytest.param((4, 7, 9), (7, 9, 4), "CHW", id="channels first"),
        pytest.param((7, 9, 4), (7, 9, 4), "HWC", id="channels last"),
        pytest.param((1, 7, 9, 4), (7, 9, 4), "BHWC", id="batch, channels last"),
        pytest.param((7, 4, 4), (7, 4, 4), "HWC", id="four wide, channels last"),
        pytest.param((1, 1, 4), (1, 1, 4), "HWC", id="one pixel"),
        pytest.param((1, 9, 4), (1, 9, 4), "HWC", id="one row is no batch"),
    ],
)
def test_height_width_and_channels_are_found(shape, map_shape, axes):
    layout = find(shape, 4, name="array")
    assert layout.shape == map_shape
    assert layout.axes == axes


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        pytest.param((), r"Wrong number of axes: array, shape=\(\), axes=0", id="scalar"),
        pytest.param((7, 9), "axes=2", id="two axes"),
        pytest.param((1, 4, 1, 7, 9), "axes=5", id="video"),
        pytest.param((1,) * 5000, "axes=5000", id="very many axes"),
        pytest.param((0, 4, 7, 9), r"Nothing in it: array, shape=\(0, 4, 7, 9\)", id="empty batch"),
        pytest.param((4, 0, 9), "Nothing in it", id="no rows"),
        pytest.param((4, 7, -9), "Nothing in it", id="negative"),
        pytest.param((2, 4, 7, 9), "batch=2.*index=0 to 1", id="batch"),
        pytest.param((2, 7, 9, 4), "batch=2.*index=0 to 1", id="batch, channels last"),
        pytest.param((16, 7, 9), r"shape=\(16, 7, 9\), expected channels=4", id="other channels"),
        pytest.param((7, 4, 9), "expected channels=4", id="channels in the middle"),
        pytest.param((4, 7, 9, 2), "expected channels=4", id="channels where the batch is"),
    ],
)
def test_shapes_that_are_no_map_are_refused_in_one_line(shape, says):
    with pytest.raises(InputError, match=says) as caught:
        find(shape, 4, name="array")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 320


def test_an_impossible_layout_does_not_exist():
    with pytest.raises(ValueError, match="Not the layout of one map"):
        Layout((4, 7, 9), "CHH")
    with pytest.raises(ValueError, match="Not the layout of one map"):
        Layout((4, 2, 7, 9), "CTHW")
    for index in (None, 2, -1):
        with pytest.raises(ValueError, match="Not the layout of one map"):
            Layout((2, 4, 7, 9), "BCHW", index)


@pytest.mark.parametrize("shape", [(3, 4, 7, 9), (3, 7, 9, 4)], ids=["channels first", "channels last"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_one_of_a_batch_is_chosen_by_its_index(shape, index):
    layout = find(shape, 4, name="array", index=index)
    assert layout.shape == (7, 9, 4)
    batch = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    expected = np.moveaxis(batch[index], 0, 2) if shape[1] == 4 else batch[index]
    part = batch[tuple(span.slice for span in layout.find_spans(Window(Span(2, 5), Span(1, 8))))]
    np.testing.assert_array_equal(layout.to_map(part), expected[2:5, 1:8])


@pytest.mark.parametrize(("shape", "index"), [((3, 4, 7, 9), 3), ((3, 4, 7, 9), -1), ((4, 7, 9), 1), ((1, 4, 7, 9), 1)])
def test_an_index_outside_of_the_batch_is_refused_in_one_line(shape, index):
    with pytest.raises(
        InputError, match=rf"Not in the batch: x, index={index}.*index=0 to {shape[0] - 1 if len(shape) == 4 else 0}"
    ):
        find(shape, 4, name="x", index=index)


def test_a_window_beyond_the_array_is_our_own_mistake():
    layout = find((4, 7, 9), 4, name="array")
    assert layout.find_spans(Window(Span(6, 7), Span(2, 9))) == [Span(0, 4), Span(6, 7), Span(2, 9)]
    with pytest.raises(AssertionError):
        layout.find_spans(Window(Span(6, 7), Span(2, 10)))
    with pytest.raises(AssertionError):
        layout.find_spans(Window(Span(6, 8), Span(2, 9)))


def test_bytes_become_0_to_1():
    layout = find((1, 256, 1), 1, name="array", axes="HWC")
    values = layout.to_map(np.arange(256, dtype=np.uint8).reshape(1, 256, 1))
    assert values.dtype == np.float32
    expected = [np.float32(byte / 255) for byte in range(256)]
    assert values.ravel().tolist() == expected


def test_float64_beyond_float32_becomes_infinite_without_a_warning():
    values = find((1, 1, 3), 3, name="array").to_map(np.array([[[1e300, -1e300, np.nan]]]))
    np.testing.assert_array_equal(values, np.array([[[np.inf, -np.inf, np.nan]]], np.float32))


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
def test_floats_are_accepted_in_both_byte_orders(dtype):
    check_type(np.dtype(dtype), LATENT_TYPES, name="array")


@pytest.mark.parametrize(
    "dtype",
    [
        "u1",
        "u2",
        "i4",
        "bool",
        "c8",
        "U3",
        "V2",
        "M8[s]",
        np.longdouble,
        [("a", "<f4")],
        ("<f4", (2,)),
        "O",
        [("a", "O")],
    ],
    ids=str,
)
def test_other_numbers_are_refused_in_one_line(dtype):
    with pytest.raises(InputError, match="array, dtype=") as caught:
        check_type(np.dtype(dtype), LATENT_TYPES, name="array")
    assert "\n" not in str(caught.value)


def test_bytes_are_images_and_not_latents():
    check_type(np.dtype("u1"), IMAGE_TYPES, name="array")
    check_type(np.dtype(">u2"), IMAGE_TYPES, name="array")
    with pytest.raises(InputError, match="uint8, uint16, float16, float32, float64"):
        check_type(np.dtype("i2"), IMAGE_TYPES, name="array")
