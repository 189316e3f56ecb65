"""A source needs a shape and a way to read; what is around it says what it says."""

import numpy as np
import pytest

from tiler.sources.latent_space import Converted
from tiler.sources.positions import EdgePadded, Turned, Wrapped
from tiler.sources.ranges import Checked, Finite, Replaced, WithinRange
from tiler.sources.source import Source, adopt
from tiler.sources.upscale import Upscaled
from tiler.window import Window

VALUES = np.random.default_rng(0).uniform(size=(6, 8, 4)).astype(np.float32)


class Least(Source):
    """No more than a new kind of input must have."""

    @property
    def shape(self):
        return VALUES.shape

    def read(self, window):
        return VALUES[window.slices]


class Whole(Least):
    """All that a source may say."""

    axes, space, held_bytes, spool_bytes, stored_type = "HWC", "vae", 5, 7, np.dtype(np.uint16)
    fingerprint = "the same"
    notes = ("seen",)


class Given:
    """Somebody's own, which knows nothing of ours."""

    shape = VALUES.shape

    def __init__(self, **said):
        self.__dict__.update(said)

    def read(self, window):
        return VALUES[window.slices]


AROUND = {
    "turned": lambda source: Turned(source, 6),
    "padded": lambda source: EdgePadded(source, 8),
    "wrapped": lambda source: Wrapped(source, (2, 0)),
    "upscaled": lambda source: Upscaled(source, 2),
    "finite": lambda source: Finite(source, Replaced()),
    "checked": Checked,
    "within range": WithinRange,
}


def test_what_a_source_does_not_say_has_a_default():
    source = Least()
    assert (source.axes, source.space, source.stored_type, source.notes) == (None, None, None, ())
    assert (source.held_bytes, source.spool_bytes) == (0, 0)
    assert source.fingerprint.startswith("6 × 8 × 4, sha256 of windows ")
    assert source.unscaled is source


@pytest.mark.parametrize("kind", AROUND)
def test_a_source_around_another_says_what_that_says(kind):
    around = AROUND[kind](Whole())
    for name in ("axes", "space", "held_bytes", "spool_bytes", "stored_type", "fingerprint", "notes"):
        assert getattr(around, name) == getattr(Whole(), name), name


def test_of_another_space_it_says_that_it_is_and_by_what_it_was_converted():
    around = Converted(Whole(), scale=2.0, shift=0.5, space="diffusion")
    assert around.space == "diffusion"
    assert around.fingerprint == "the same, less 0.5, times 2.0"
    assert around.axes == "HWC"


def test_what_is_enlarged_is_looked_at_before():
    source = Least()
    assert Upscaled(source, 3).unscaled is source
    wrapped = Wrapped(source, (1, 1))
    assert wrapped.unscaled is wrapped


def test_what_somebody_hands_over_becomes_a_source_and_keeps_what_it_says():
    assert adopt(Given()).fingerprint == Least().fingerprint
    adopted = adopt(Given(axes="HWC", space="vae", notes=["seen"], fingerprint="mine"))
    assert (adopted.axes, adopted.space, adopted.notes, adopted.fingerprint) == ("HWC", "vae", ("seen",), "mine")
    np.testing.assert_array_equal(adopted.read(Window.whole(6, 8)), VALUES)
    assert adopt(adopted) is adopted
    # A fingerprint that is none is not believed.
    assert adopt(Given(fingerprint=None)).fingerprint == Least().fingerprint
