import numpy as np
import pytest

from taesd_core.moments import moments_of_sums
from taesd_core.stage import moments_of_map


def gather(values, groups, pilot=None):
    """What a pass gives for (positions, channels) values."""
    values = values.astype(np.float64)
    pilot = values[0] if pilot is None else pilot
    deviations = values - pilot
    return moments_of_sums(len(values), pilot, deviations.sum(axis=0), (deviations**2).sum(axis=0), groups)


@pytest.fixture
def values():
    """8 channels in 2 groups, with means far from zero and from each other: what cancels would show."""
    random = np.random.default_rng(0)
    return random.normal(0, 1, (5000, 8)) * [1, 2, 3, 4, 1, 1, 1, 1] + [1e5, 1e5 + 3, 1e5, 1e5, -7, 0, 5, 90]


def assert_like_numpy(moments, values, rtol=1e-10):
    groups = values.reshape(-1, 2, 4)
    np.testing.assert_allclose(moments.mean, groups.mean(axis=(0, 2)), rtol=rtol)
    np.testing.assert_allclose(moments.variance, groups.var(axis=(0, 2)), rtol=rtol)
    assert moments.count == groups.size // 2


def test_parts_of_any_size_add_up_to_the_whole(values):
    parts = [gather(each, 2) for each in np.split(values, [1, 3, 700, 4000])]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert_like_numpy(total, values)
    assert_like_numpy(parts[3] + (parts[1] + parts[0]) + (parts[4] + parts[2]), values)


def test_a_pilot_far_off_does_no_harm(values):
    assert_like_numpy(gather(values, 2, pilot=np.zeros(8)), values, rtol=1e-5)


def test_a_norm_divides_by_what_pytorch_divides_by(values):
    torch = pytest.importorskip("torch")
    values = (values[:3000] - values.mean(axis=0) + 3) * 0.01
    expected = torch.nn.functional.group_norm(torch.from_numpy(values.T[None]), 2).numpy()[0].T
    mean, deviation = (each.repeat(4) for each in gather(values, 2).norm.astype(np.float64))
    np.testing.assert_allclose((values - mean) / deviation, expected, atol=1e-6)


def test_a_map_of_float32_is_summed_as_if_it_were_float64(values):
    """100,000 values a channel with a mean of 30 times their spread: naive sums of float32 are off in the 4th digit."""
    random = np.random.default_rng(1)
    x = (random.normal(0, 1, (400, 250, 8)) + 30).astype(np.float32)
    assert_like_numpy(moments_of_map(x[None], 2), x.reshape(-1, 8).astype(np.float64), rtol=2e-7)
