"""Which windows are looked at: inside the image, where mistakes like to be, and spread out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiler.checks.sampling import ALIGNMENT, choose_windows, cover

SIDE, SEAM = 256, 512


@given(height=st.integers(1, 3200), width=st.integers(1, 3200), n=st.integers(0, 20), seed=st.integers(0, 99))
def test_windows_lie_inside_the_image_and_are_aligned_and_of_the_size_asked_for(height, width, n, seed):
    windows = choose_windows(height, width, SIDE, n, seam=SEAM, seed=seed)
    assert min(n, 1) <= len(windows) <= n
    assert len(set(windows)) == len(windows)
    for window in windows:
        for span, size in ((window.rows, height), (window.columns, width)):
            assert span.start % ALIGNMENT == 0
            assert span.stop <= size
            assert len(span) == size or SIDE <= len(span) < SIDE + ALIGNMENT
            # The last row or column belongs to whatever comes next to it: it is never left over.
            assert size - span.stop == 0 or size - span.stop >= ALIGNMENT or span.start == 0


@pytest.mark.parametrize("seed", range(20))
def test_corners_borders_and_crossings_of_seams_are_always_among_eight(seed):
    height, width = 8008, 16_024
    windows = choose_windows(height, width, SIDE, 8, seam=SEAM, seed=seed)
    assert len(windows) == 8
    ends = [(w.rows.start == 0, w.rows.stop == height, w.columns.start == 0, w.columns.stop == width) for w in windows]
    corners = [(top, left) for top, bottom, left, right in ends if (top or bottom) and (left or right)]
    assert len(corners) >= 2
    assert len(set(corners)) >= 2
    assert sum(any(end) for end in ends) >= 4
    crossings = [w for w in windows if all(s.start % SEAM == SEAM - SIDE // 2 for s in (w.rows, w.columns))]
    assert len(crossings) >= 2


def test_every_corner_and_side_is_visited_by_some_of_few_seeds():
    height, width = 8000, 16_000
    corners, sides = set(), set()
    for seed in range(10):
        for w in choose_windows(height, width, SIDE, 8, seam=SEAM, seed=seed):
            ends = (w.rows.start == 0, w.rows.stop == height, w.columns.start == 0, w.columns.stop == width)
            if sum(ends) == 2:
                corners.add(ends)
            elif sum(ends) == 1:
                sides.add(ends)
    assert (len(corners), len(sides)) == (4, 4)


def test_windows_are_spread_over_the_image():
    n = 40
    windows = choose_windows(80_000, 160_000, SIDE, n, seam=SEAM, seed=1)
    assert len(windows) == n
    free = windows[1::4] + windows[2::4]
    for spans, size in (([w.rows for w in free], 80_000), ([w.columns for w in free], 160_000)):
        strips = [span.start * n // size for span in spans]
        # Random places leave about 14 of 40 strips to the 20 windows; a Latin square gives each its own.
        assert len(set(strips)) >= 18


def test_another_seed_gives_other_windows_and_the_same_seed_the_same():
    first, again, other = (choose_windows(7995, 7991, SIDE, 8, seam=SEAM, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert len(set(first) - set(other)) >= 5


@given(height=st.integers(1, 1600), width=st.integers(1, 1600))
def test_all_windows_cover_the_image_once(height, width):
    count = np.zeros((height, width), int)
    for window in cover(height, width, SIDE):
        assert max(window.shape) <= SIDE
        assert window.rows.start % ALIGNMENT == window.columns.start % ALIGNMENT == 0
        count[window.slices] += 1
    assert (count == 1).all()
