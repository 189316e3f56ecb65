"""The kernels for CPUs against a plain whole-image network in NumPy, in float64, which shares nothing with them."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import random_tensors
from reference_networks import NETWORKS, convolve_plainly, run_plainly

import tiler
from taesd_core.families import FAMILIES
from taesd_core.kernels import run, winograd
from taesd_core.kernels.maps import new_memory
from taesd_core.kernels.model import KernelModel
from taesd_core.kernels.pixels import clamp
from taesd_core.kernels.transforms import find_sum, transform_kernel
from taesd_core.network import Network
from tiler.errors import InputError, OptionError
from tiler.plan import Plan

WHOLE = ((True, True), (True, True))
FAMILY_OF = {"taesd": ("taesd", 4), "taesd3": ("taesd", 16), "taef2": ("taef2", 32), "taesana": ("taesana", 32)}


def make_network(variant, part):
    family, channels = FAMILY_OF[variant]
    return Network(getattr(FAMILIES[family], part)(channels))


def run_arguments(tile, source, scale_in):
    """Return what a model takes of a tile."""
    window = tile.read
    origin = window.rows.start // scale_in, window.columns.start // scale_in
    return source[window.slices], tile.borders, tile.crop.slices, origin


def gather(model, source, plan=None):
    """Return the model with the statistics of the source, gathered by the tiles of a plan."""
    statistics = []
    for each in plan.passes if plan else model.network.passes:
        known = model.with_statistics(statistics)
        if plan is None:
            statistics.append(known.gather(source, WHOLE))
            continue
        total = None
        for tile in each.tiles():
            part = known.gather(*run_arguments(tile, source, plan.network.scale_in))
            total = part if total is None else total + part
        statistics.append(total)
    return model.with_statistics(statistics) if statistics else model


@pytest.fixture(scope="module")
def models():
    made = {}

    def make(variant, part):
        if (variant, part) not in made:
            network = make_network(variant, part)
            tensors = random_tensors(network)
            made[variant, part] = KernelModel(network, tensors), tensors
        return made[variant, part]

    return make


def assert_near(found, expected):
    assert found.shape == expected.shape
    assert np.ptp(expected) > 0.5
    assert np.abs(found - expected).max() <= 5e-6 * np.ptp(expected)


CASES = [(variant, part, size) for variant, part in NETWORKS for size in ((9, 14), (4, 1))]


@pytest.mark.parametrize(("variant", "part", "size"), CASES, ids=str)
def test_every_network_equals_the_plain_one(models, latents, variant, part, size):
    model, tensors = models(variant, part)
    height, width = (length * model.network.scale_in for length in size)
    source = latents(height, width, model.network.channels_in) * (2 if part == "decoder" else 1)
    expected = run_plainly(NETWORKS[variant, part], tensors, source)
    assert_near(gather(model, source)(source, WHOLE), expected)


@pytest.mark.parametrize(
    ("variant", "part", "size", "core"),
    [("taesd", "decoder", (14, 41), 20), ("taesd", "encoder", (11, 41), 20), ("taef2", "decoder", (21, 14), 16)],
)
def test_tiles_equal_the_plain_network(models, latents, monkeypatch, variant, part, size, core):
    monkeypatch.setattr(run, "BAND_BYTES", 1_000_000)
    model, tensors = models(variant, part)
    height, width = (length * model.network.scale_in for length in size)
    source = latents(height, width, model.network.channels_in)
    plan = Plan(model.network, *size, core)
    expected = run_plainly(NETWORKS[variant, part], tensors, source)
    model = gather(model, source, plan)
    found = np.full_like(expected, np.nan)
    for tile in plan.tiles():
        found[tile.write.slices] = model(*run_arguments(tile, source, model.network.scale_in))
    assert_near(found, expected)


@pytest.mark.parametrize("crop", [(11, 12, 130, 131), (64, 71, 3, 90), (0, 96, 181, 184)], ids=str)
def test_a_part_of_a_window_is_computed_alone(models, latents, crop):
    model, tensors = models("taesd", "decoder")
    top, bottom, left, right = crop
    source = latents(12, 23, 4)
    expected = run_plainly(NETWORKS["taesd", "decoder"], tensors, source)
    part = model(source, WHOLE, (slice(top, bottom), slice(left, right)))
    assert part.shape == (bottom - top, right - left, 3)
    assert np.abs(part - expected[top:bottom, left:right]).max() <= 5e-6 * np.ptp(expected)


def test_of_nothing_nothing_can_be_kept(models, latents):
    model, _ = models("taesd", "decoder")
    with pytest.raises(ValueError, match="Nothing is kept"):
        model(latents(9, 9, 4), WHOLE, (slice(5, 5), slice(None)))
    with pytest.raises(ValueError, match="Nothing is kept"):
        model(latents(9, 9, 4), ((False, True), (True, True)))


@pytest.mark.parametrize(("variant", "part"), [("taesd", "decoder"), ("taesd", "encoder")])
def test_tiles_of_four_lie_on_the_image(models, latents, variant, part):
    """Far from their ends, windows that begin anywhere give the same bits."""
    model, _ = models(variant, part)
    scale_in, scale_out, width = model.network.scale_in, model.network.scale_out, 124
    source = latents(3 * scale_in, width * scale_in, model.network.channels_in)
    whole = model(source, WHOLE)
    inner = slice(56 * scale_out, 68 * scale_out)
    for start, stop in ((3, 124), (1, 122), (0, 121), (2, 123)):
        borders = ((True, True), (start == 0, stop == width))
        found = model(source[:, start * scale_in : stop * scale_in], borders, origin=(0, start))
        first = (start + model.network.halo if start else 0) * scale_out
        np.testing.assert_array_equal(
            found[:, inner.start - first : inner.stop - first], whole[:, inner], err_msg=f"{start}"
        )


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_pixels_are_rounded_and_clipped_values(latents, kind):
    network = make_network("taesd", "decoder")
    source, tensors = latents(7, 9) * 2, random_tensors(network)
    tensors[-1].kernel[...] *= 4
    values = run_plainly(NETWORKS["taesd", "decoder"], tensors, source)
    largest = np.iinfo(kind).max
    pixels = KernelModel(network, tensors, output=kind)(source, WHOLE)
    assert pixels.dtype == kind
    assert values.min() < -0.1
    assert values.max() > 1.1
    assert np.abs(pixels - np.clip(values, 0, 1) * largest).max() <= 0.5 + 2e-5 * largest


def run_in_all_ways(model, source, borders):
    """Yield what a window gives in ways that must not matter."""
    yield model(source, borders)
    with np.errstate(invalid="ignore"), pytest.raises(OverflowError):
        model(np.full_like(source, np.nan), borders)
    yield model(source, borders)
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(lambda _: model(source, borders), range(2))


@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_the_same_window_gives_the_same_bits(latents, part):
    network = make_network("taesd", part)
    tensors, height = random_tensors(network), 44 * network.scale_in
    source, borders = latents(height, height + 8, network.channels_in), ((True, False), (False, False))
    results = [
        each for n in (1, 2, 3) for each in run_in_all_ways(KernelModel(network, tensors, n_threads=n), source, borders)
    ]
    for each in results[1:]:
        np.testing.assert_array_equal(each, results[0])


@pytest.mark.slow  # compiles everything once for another processor
def test_vectors_of_any_length_give_the_same_bits(tmp_path, latents):
    np.save(tmp_path / "z.npy", latents(30, 26, 32))
    program = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import hashlib, numpy as np, test_kernels as t\n"
        "from taesd_core.kernels.vectors import lanes\n"
        f"z = np.load({str(tmp_path / 'z.npy')!r})\n"
        "for variant, part in t.NETWORKS:\n"
        "    network = t.make_network(variant, part)\n"
        "    x = z if part == 'decoder' else np.kron(z[:8, :8, :3], np.ones((32, 32, 1), 'f4'))\n"
        "    model = t.KernelModel(network, t.random_tensors(network))\n"
        "    x = np.ascontiguousarray(x[..., : network.channels_in])\n"
        "    print(lanes(), hashlib.sha256(t.gather(model, x)(x, t.WHOLE).tobytes()).hexdigest())\n"
    )
    from llvmlite import binding

    host = {name for name, there in binding.get_host_cpu_features().items() if there}
    found = []
    for without in ("", "avx512"):
        kept = [
            f"+{name}" if name in host and not (without and name.startswith(without)) else f"-{name}"
            for name in binding.get_host_cpu_features()
        ]
        environment = os.environ | {
            "NUMBA_CPU_NAME": "haswell" if without else binding.get_host_cpu_name(),
            "NUMBA_CPU_FEATURES": ",".join(kept),
        }
        lines = subprocess.run(
            [sys.executable, "-c", program], env=environment, text=True, check=True, capture_output=True
        ).stdout.splitlines()
        found.append([line.split() for line in lines])
    assert {line[0] for line in found[1]} == {"8"}
    assert [line[1] for line in found[0]] == [line[1] for line in found[1]]
    assert len({line[1] for line in found[0]}) == len(NETWORKS)


@pytest.mark.parametrize("spot", [0, 20, -1])
def test_values_too_large_are_found_though_a_relu_hides_them(latents, spot):
    """An infinite sum below zero, in one convolution, becomes 0 behind its ReLU."""
    network = make_network("taesd", "decoder")
    tensors = list(random_tensors(network))
    tensors[spot].kernel[..., 0] = -3e38
    source = np.abs(latents(5, 5)) + 1
    with pytest.raises(OverflowError):
        KernelModel(network, tuple(tensors), output="uint8")(source, WHOLE)


def test_clamp_is_tanh():
    values = np.concatenate([np.linspace(-80, 80, 100_001), [0, 1e-30, -1e-7, 3e38, -3e38]]).astype(np.float32)
    clamped = values.copy()
    clamp(clamped)
    expected = np.tanh(values.astype(np.float64) / 3) * 3
    # One unit in the last place at most.
    assert np.abs(clamped - expected).max() <= 2.4e-7
    np.testing.assert_array_equal(np.isnan(nan := np.array([np.nan], np.float32)), [True])
    clamp(nan)
    assert np.isnan(nan[0])


@pytest.mark.parametrize("doubled", [False, True])
def test_products_of_sums_are_a_convolution(doubled):
    random = np.random.default_rng(0)
    x, kernel = random.normal(size=(6, 10, 16)), random.normal(size=(3, 3, 16, 16)).astype(np.float32)
    large = x.repeat(2, 0).repeat(2, 1) if doubled else x
    rows, columns = (-(-length // 4) * 4 for length in large.shape[:2])
    source, out = new_memory(40 * 40 * 16), new_memory((rows + 2) * (columns + 2) * 16)
    source[:] = 0
    ring = source[: (rows + 2) * (columns + 2) * 16].reshape(rows + 2, columns + 2, 16)
    ring[1 : 1 + x.shape[0], 1 : 1 + x.shape[1]] = x
    row = (columns + 2) * 16
    function = winograd.convolve_doubled if doubled else winograd.convolve
    scratch = new_memory(winograd.scratch_size(doubled, 16, 16))
    zeros = np.zeros(16, np.float32)
    function(source, 0, row, 16, winograd.pack_winograd(kernel, doubled), zeros, source, 0, 0, out, row + 16, row, 16,
             columns // 4, 0, rows // 4, scratch, np.zeros(16, np.float32))  # fmt: skip
    found = out.reshape(rows + 2, columns + 2, 16)[1 : 1 + large.shape[0], 1 : 1 + large.shape[1]]
    expected = convolve_plainly(large, kernel, None)
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
    assert len(find_sum(doubled)) == len(transform_kernel(kernel, doubled)) == (25 if doubled else 36)


def test_a_file_of_the_kernels_is_that_of_keras_but_for_roundings(tmp_path, latents):
    source = latents(40, 50).transpose(2, 0, 1)[None]
    for engine in ("keras", "kernels"):
        tiler.decode(source, tmp_path / f"{engine}.npy", weights="photo", engine=engine, tile_size_px=256)
    keras, kernels = (np.load(tmp_path / f"{engine}.npy") for engine in ("keras", "kernels"))
    difference = np.abs(keras.astype(int) - kernels)
    assert np.ptp(keras) > 200
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 2e-4


def test_the_kernels_need_no_tensorflow(tmp_path, latents):
    np.save(tmp_path / "z.npy", latents(12, 12).transpose(2, 0, 1)[None])
    program = (
        "import sys, tiler\n"
        "tiler.decode(sys.argv[1], sys.argv[2], weights='photo', engine='kernels')\n"
        "tiler.encode(sys.argv[2], sys.argv[1].replace('z', 'back'), weights='photo', engine='kernels')\n"
        "sys.exit(bool({'tensorflow', 'keras', 'jax'} & set(sys.modules)))\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "z.npy", tmp_path / "image.tif"], check=True)
    assert np.load(tmp_path / "back.npy").shape == (1, 4, 12, 12)


def test_another_engine_is_another_job(tmp_path, latents):
    source = latents(40, 50).transpose(2, 0, 1)[None]

    def stop(n_done, n_tiles, n_px):
        if n_done:
            raise KeyboardInterrupt

    options = {"weights": "photo", "tile_size_px": 128}
    with pytest.raises(KeyboardInterrupt):
        tiler.decode(source, tmp_path / "z.npy", engine="kernels", progress=stop, **options)
    with pytest.raises(InputError, match="engine"):
        tiler.decode(source, tmp_path / "z.npy", engine="keras", resume=True, **options)
    tiler.decode(source, tmp_path / "z.npy", engine="kernels", resume=True, **options)
    tiler.decode(source, tmp_path / "whole.npy", engine="kernels", **options)
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), np.load(tmp_path / "whole.npy"))


def test_the_kernels_have_one_precision(tmp_path, latents):
    with pytest.raises(OptionError, match="precision=float16"):
        tiler.decode(latents(4, 5), tmp_path / "z.npy", weights="photo", engine="kernels", precision="float16")
