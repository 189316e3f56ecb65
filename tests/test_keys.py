import numpy as np
import pytest

from tiler.errors import InputError
from tiler.sources.layout import choose_key
from tiler.sources.opening import open_latents

MAP, OTHER = (1, 4, 7, 9), (5,)


@pytest.mark.parametrize(
    ("shapes", "key", "chosen"),
    [
        pytest.param({"anything": MAP}, None, "anything", id="the only one"),
        pytest.param({"x": MAP, "steps": OTHER, "version": (0, 4, 1)}, None, "x", id="the only map"),
        pytest.param({"noise": MAP, "latents": MAP}, None, "latents", id="a usual name"),
        pytest.param({"latents": OTHER, "noise": MAP}, None, "noise", id="a usual name that is no map"),
        pytest.param({"latents": MAP, "latent_tensor": MAP}, None, "latent_tensor", id="two usual names"),
        pytest.param({"out.latents": MAP, "out.noise": MAP}, None, "out.latents", id="a usual name inside"),
        pytest.param({"a.latents": MAP, "b.latents": MAP, "latents": MAP}, None, "latents", id="inside and not"),
        pytest.param({"noise": MAP, "latents": MAP}, "noise", "noise", id="asked for"),
        pytest.param({"noise": OTHER, "latents": MAP}, "noise", "noise", id="asked for, though no map"),
        pytest.param(
            {"clip": (1, 4, 1, 7, 9), "steps": OTHER}, None, "clip", id="of five axes, where there is no other"
        ),
        pytest.param({"latents": (1, 4, 1, 7, 9), "noise": MAP}, None, "latents", id="of five axes, by its name"),
        pytest.param({"clip": (1, 4, 1, 7, 9), "x": MAP}, None, "x", id="of four axes, though there is one of five"),
    ],
)
def test_the_key_of_the_latents_is_found(shapes, key, chosen):
    assert choose_key(shapes, key, name="file") == chosen


@pytest.mark.parametrize(
    ("shapes", "key", "says"),
    [
        pytest.param({"a": MAP, "b": MAP}, None, r"Several arrays: file.*a \(1, 4, 7, 9\), b .*key=", id="several"),
        pytest.param({"a.latents": MAP, "b.latents": MAP}, None, "Several arrays: file", id="a usual name twice"),
        pytest.param({"1.weight": MAP, "3.weight": MAP, "3.bias": OTHER}, None, "Weights, not latents", id="weights"),
        pytest.param({"a": MAP}, "b", r"No such array: file, key=b. There is a .*key=", id="not there"),
        pytest.param({"a": OTHER}, None, r"No latents: file.*a \(5,\)", id="no map"),
        pytest.param({}, None, "No latents: file.*nothing", id="nothing"),
        pytest.param({"a\n" * 99: (1,) * 999} | {f"{n}": OTHER for n in range(99)}, None, r"a\\na.*92 more", id="wild"),
    ],
)
def test_what_cannot_be_told_is_refused_in_one_line_with_what_there_is(shapes, key, says):
    with pytest.raises(InputError, match=says) as caught:
        choose_key(shapes, key, name="file")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_an_array_has_no_keys():
    with pytest.raises(InputError, match=r"Not a file of several arrays: key=a\."):
        open_latents(np.zeros((4, 5, 6), np.float32), 4, key="a")
