import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiler.errors import OptionError
from tiler.sources.array_source import ArraySource
from tiler.sources.positions import EdgePadded
from tiler.window import Span, Window


@pytest.mark.parametrize("multiple", [1, 2, 8, 32])
@pytest.mark.parametrize("size", [(1, 1), (8, 16), (7, 17), (33, 5)], ids=str)
def test_edges_are_repeated_up_to_a_multiple(size, multiple):
    values = np.random.default_rng(0).standard_normal((*size, 3)).astype(np.float32)
    more = [next(n for n in range(multiple) if (length + n) % multiple == 0) for length in size]
    whole = np.pad(values, ((0, more[0]), (0, more[1]), (0, 0)), mode="edge")
    padded = EdgePadded(ArraySource(values, 3), multiple)
    assert padded.shape == whole.shape

    @settings(max_examples=40, deadline=None, database=None)
    @given(st.data())
    def check(data):
        top, left = (data.draw(st.integers(0, length - 1)) for length in whole.shape[:2])
        bottom, right = (
            data.draw(st.integers(top + 1, whole.shape[0])),
            data.draw(st.integers(left + 1, whole.shape[1])),
        )
        window = Window(Span(top, bottom), Span(left, right))
        read = padded.read(window)
        np.testing.assert_array_equal(read, whole[window.slices])
        assert read.flags.c_contiguous

    check()


def test_edges_are_repeated_only_to_a_multiple_of_1_or_more():
    with pytest.raises(OptionError, match="multiple=0 px"):
        EdgePadded(ArraySource(np.zeros((4, 4, 3), np.float32), 3), 0)
