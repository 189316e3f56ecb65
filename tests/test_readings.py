"""Every shape, for every network: read as a table says that was written by hand, or asked, or refused."""

import itertools
import re

import numpy as np
import pytest
from readings_table import CHANNELS, ORDERS, SIZES, look_up

from tiler.errors import AxesError, AxesQuestion, InputError, OptionError
from tiler.sources.axes import name_axes, parse_axes
from tiler.sources.layout import Wanted, find_layout


def find(shape, channels, *, index=None, axes=None, **how):
    """Return the layout of latents."""
    return find_layout(shape, Wanted(channels, index=index, axes=axes), **how)


SAYS = {
    "ask": r"It can be read in [234] ways: x, shape=.*; or .*axes=.[A-Z]+. or axes=.[A-Z]+.",
    "no": r"Wrong number of (channels|axes): x, shape=.*The shape must be",
    "packed": r"Packed latents: x, shape=.*in NumPy: z\.reshape\(",
    "frames": r"Not a single picture: x, shape=.*T.*frames?",
}
"""What is said where an array is not read."""


def find_outcome(shape, channels, **how):
    """Return the axes that the rule finds, or in a word why it finds none."""
    try:
        layout = find(shape, channels, name="x", index=0, **how)
    except AxesError as error:
        [word] = [word for word, says in SAYS.items() if re.match(says, str(error))]
        return word if (word == "ask") == isinstance(error, AxesQuestion) else f"{word}, by {type(error)}"
    assert layout.shape == tuple(shape[layout.axes.index(letter)] for letter in "HWC")
    return layout.axes


def check_all(shapes, channels=(3, *CHANNELS)):
    wrong = [
        (shape, each, first, found, right)
        for shape in shapes
        for each in channels
        for first in ORDERS
        if (found := find_outcome(shape, each, first=first)) != (right := look_up(shape, each, first))
    ]
    assert not wrong[:10]


@pytest.mark.parametrize("n_axes", [3, 4])
def test_every_shape_is_read_as_the_table_says_or_asked_or_refused(n_axes):
    assert set(CHANNELS) <= {4, 16, 32}, "a column of the table for a network of other channels"
    check_all(itertools.product(SIZES, repeat=n_axes))


def test_no_shape_of_five_axes_is_read_unasked():
    check_all(itertools.product((1, 4, 16, 32), (3, 4, 16, 32, 128), (1, 4, 16, 32), (8, 32), SIZES))


@pytest.mark.slow
def test_no_shape_of_five_axes_is_read_unasked_all_of_them():
    check_all(itertools.product(SIZES, repeat=5))


SAID = ["CHW", "HWC", "WHC", "BCHW", "BHWC", "TCHW", "BCTHW", "BTHWC"]


@pytest.mark.parametrize("said", SAID)
def test_what_is_said_is_taken_wherever_so_many_channels_are_there(said):
    for shape in itertools.product((1, 4, 16, 32, 128), repeat=len(said)):
        sizes = dict(zip(said, shape, strict=True))
        for channels in CHANNELS:
            for how in ({"axes": said}, {"axes": said.lower().replace("h", "y"), "first": "always"}, {"named": said}):
                right = said
                if sizes["C"] != channels:
                    packed = said in ("CHW", "BCHW") and (channels, sizes["C"]) == (32, 128)
                    right = "Packed latents" if packed else "Wrong number of channels"
                elif sizes.get("T", 1) > 1:
                    right = "Not a single picture"
                try:
                    found = find(shape, channels, name="x", index=0, **how).axes
                except AxesError as error:
                    found, asked = str(error).split(":")[0], isinstance(error, AxesQuestion)
                    assert not asked
                assert found == right, (shape, channels, how)


@pytest.mark.parametrize(
    ("shape", "named", "right"),
    [
        pytest.param((4, 9, 4), "?HW", "CHW", id="rows and columns leave one axis"),
        pytest.param((4, 9, 4), "HW?", "HWC", id="likewise"),
        pytest.param((4, 9, 4), "C??", "CHW", id="channels"),
        pytest.param((4, 9, 4), "??C", "HWC", id="channels last"),
        pytest.param((1, 4, 9, 4), "??HW", "BCHW", id="rows and columns of four"),
        pytest.param((1, 4, 9, 4), "T?HW", "TCHW", id="a single time"),
        pytest.param((1, 4, 9, 4), "?HWC", "BHWC", id="an unknown axis is a batch"),
        pytest.param((1, 1, 4, 9, 4), "??CHW", "B?CHW", id="five axes, two unknown"),
        pytest.param((4, 9, 4), "???", None, id="nothing"),
    ],
)
def test_the_file_is_asked_as_far_as_it_names_its_axes(shape, named, right):
    if right is None:
        with pytest.raises(AxesQuestion):
            find(shape, 4, name="x", named=named)
    else:
        assert find(shape, 4, name="x", named=named).axes == right


@pytest.mark.parametrize(
    ("shape", "how", "says"),
    [
        ((4, 9, 4), {"axes": "HWC", "named": "CHW"}, r"The file names other axes: x, .*axes=CHW, said=HWC\. Leave"),
        ((4, 9, 4), {"axes": "CHW", "named": "HW?"}, "The file names other axes"),
        ((4, 9, 4), {"axes": "BCHW"}, r"axes=3, said=BCHW, which are 4"),
        ((72, 9, 4), {"named": "?HW"}, "as the file names its axes, axes=CHW, channels=72, expected channels=4"),
        ((4, 2, 2, 9, 9), {"named": "CB?HW"}, "one is unknown"),
        ((5, 4, 9, 9), {"named": "TCHW"}, "5 frames of 9 × 9"),
        ((1, 16, 9, 4), {"first": "always"}, r"weights for 16 channels, or say axes=.BHWC."),
        ((1, 16, 9, 5), {"first": "always"}, r"weights for 16 channels\."),
        ((1, 4, 1, 9, 9), {}, r"BCTHW, one frame of 9 × 9. If it is one, say axes=.BCTHW."),
        ((2, 4, 9, 9), {"axes": "BCHW"}, "batch=2.*index=0 to 1"),
        ((1, 64, 64), {"axes": "BSC"}, "expected channels=4"),
    ],
    ids=str,
)
def test_what_contradicts_the_array_is_refused_in_one_line(shape, how, says):
    with pytest.raises(InputError, match=says) as caught:
        find(shape, 4, name="x", **how)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("axes", ["", "CH", "HW", "CHWC", "BCHWX?", "BCSHW", "SHW", "C H W", "CHWQ", 7, None, "四"])
def test_what_are_no_axes_is_refused_with_what_are(axes):
    with pytest.raises(OptionError, match="BCHW, CHW, HWC"):
        parse_axes(axes)


def test_axes_are_known_by_other_letters_and_names():
    assert [parse_axes(each) for each in ("NCHW", "yxc", "bsc", "BCTYX")] == ["BCHW", "HWC", "BSC", "BCTHW"]
    assert name_axes(("batch", "Channel", "y", "x")) == "BCHW"
    assert name_axes(("time", "height", "width", "latent")) == "THW?"
    assert name_axes(("x", "x", "c")) == "??C"
    assert name_axes((None, "dim_1", 3)) is None
    assert name_axes(None) is None


def pack(latents):
    """Pack as pipelines do: (batch, channels, 2 h, 2 w) to (batch, channels * 4, h, w)."""
    batch, channels, height, width = latents.shape
    packed = np.empty((batch, 4 * channels, height // 2, width // 2), latents.dtype)
    for channel, down, right in itertools.product(range(channels), range(2), range(2)):
        packed[:, channel * 4 + down * 2 + right] = latents[:, channel, down::2, right::2]
    return packed


@pytest.mark.parametrize(("channels", "kind"), [(16, "sequence"), (32, "sequence"), (32, "map")])
def test_the_way_to_unpack_that_is_said_is_right(channels, kind):
    latents = np.random.default_rng(0).normal(size=(1, channels, 6, 10))
    z = pack(latents)
    if kind == "sequence":
        z = z.reshape(1, 4 * channels, 15).transpose(0, 2, 1)
    with pytest.raises(AxesError, match="Packed latents") as caught:
        find(z.shape, channels, name="x")
    said = re.search(r"in NumPy: (z\..*?\))(,|\.$)", str(caught.value))[1]
    np.testing.assert_array_equal(eval(said, {"z": z, "h": 6, "w": 10}), latents)
