"""The kernels for CPUs against a plain whole-image network in NumPy, in float64, which shares nothing with them."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_int64

import numpy as np
import pytest
from conftest import random_tensors
from reference_networks import NETWORKS, convolve_plainly, run_plainly

import tiler
from taesd_core.families import FAMILIES
from taesd_core.kernels import memory
from taesd_core.kernels.geometry import Reach, Shape, find_edges, find_reaches, find_touched, list_shapes
from taesd_core.kernels.library import load_functions
from taesd_core.kernels.maps import Map, new_memory
from taesd_core.kernels.memory import lay_out, peak_bytes, weight_bytes
from taesd_core.kernels.model import KernelModel
from taesd_core.kernels.steps import Step, Work
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
    monkeypatch.setattr(memory, "TURN_PX", 2_000)
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
        "from taesd_core.kernels.library import lanes\n"
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


@pytest.mark.parametrize(("variant", "part"), [("taesd", "decoder"), ("taef2", "decoder"), ("taesana", "encoder")])
def test_values_too_large_are_found_though_a_relu_hides_them(latents, variant, part):
    """An infinite sum below zero, in one convolution of any kind, becomes 0 behind its ReLU."""
    network = make_network(variant, part)
    source = np.abs(latents(network.scale_in, 3 * network.scale_in, network.channels_in)) + 1
    tensors = random_tensors(network)
    for spot in {0, 1, 2, *range(3, len(tensors), 5), len(tensors) - 1}:
        changed = [each._replace(kernel=each.kernel.copy()) for each in tensors]
        changed[spot].kernel[..., 0] = -3e38
        with pytest.raises(OverflowError):
            gather(KernelModel(network, tuple(changed), output="uint8" if part == "decoder" else "float32"), source)(
                source, WHOLE
            )


@pytest.mark.parametrize("size", [1e30, np.inf, np.nan], ids=str)
def test_weights_too_large_are_found(latents, size):
    network = make_network("taesd", "decoder")
    tensors = [each._replace(kernel=each.kernel.copy()) for each in random_tensors(network)]
    for each in tensors if size == 1e30 else tensors[-1:]:
        each.kernel[...] *= size
    with np.errstate(invalid="ignore"), pytest.raises(OverflowError):
        KernelModel(network, tuple(tensors), output="uint8")(latents(3, 3), WHOLE)


@pytest.mark.parametrize(("variant", "part"), [("taesd", "decoder"), ("taesd", "encoder")])
def test_an_edited_value_changes_nothing_beyond_the_reach_of_sums(models, latents, variant, part):
    model, _ = models(variant, part)
    network, width, edited = model.network, 140, 70
    source = latents(2 * network.scale_in, width * network.scale_in, network.channels_in)
    other = source.copy()
    other[0, edited * network.scale_in, 0] += 1
    change = np.abs(model(other, WHOLE) - model(source, WHOLE)).max(axis=(0, 2))
    shapes, at = list_shapes(network.layers), edited * network.scale_in
    touched = np.array(
        [span[0] <= at < span[1] for span in (find_touched(shapes, n, n + 1)[0] for n in range(change.size))]
    )
    sees = np.zeros_like(touched)
    halo = network.halo * network.scale_out
    sees[edited * network.scale_out - halo : (edited + 1) * network.scale_out + halo] = True
    assert (change[~touched] == 0).all()
    assert change[touched & ~sees].max() > 0
    assert change[~sees].max() < 2e-6
    assert change[sees].max() > 1e-3
    # As far as computed, or nearly so.
    assert np.count_nonzero(change) > 0.5 * np.count_nonzero(touched)


def test_clamp_is_tanh():
    values = np.concatenate([np.linspace(-80, 80, 99_992), [0, 1e-30, -1e-7, 3e38, -3e38, 0, 0, np.nan]])
    clamped = new_memory(values.size)
    clamped[:] = values
    load_functions()["clamp"](clamped.ctypes.data, (c_int64 * 2)(0, clamped.size))
    expected = np.tanh(values.astype(np.float32).astype(np.float64) / 3) * 3
    # One unit in the last place at most; NaN stays NaN.
    np.testing.assert_allclose(clamped, expected, rtol=0, atol=2.4e-7)


@pytest.mark.parametrize("doubled", [False, True])
def test_products_of_sums_are_a_convolution(doubled):
    random = np.random.default_rng(0)
    x, kernel = random.normal(size=(6, 10, 16)), random.normal(size=(3, 3, 16, 16)).astype(np.float32)
    large = x.repeat(2, 0).repeat(2, 1) if doubled else x
    shape = Shape(16, 16, (2, 1) if doubled else (1, 1))

    def make_map(height, width):
        rows, columns = (Reach(0, -(-length // 4) * 4, 0, length) for length in (height, width))
        return Map(new_memory(4 * (rows.length + 2) * (columns.length + 2) * 16), rows, columns, 16, rows.length)

    source, out = make_map(*x.shape[:2]), make_map(*large.shape[:2])
    source.array[:] = 0
    source.array[: x.shape[0], 1 : 1 + x.shape[1]] = x
    job = Step(shape, kernel, None).make_job(source, out, source, 0, out.rows.stop)
    scratch, flags = new_memory(shape.scratch), np.zeros(16, np.float32)
    job(Work(scratch.ctypes.data, flags.ctypes.data))
    found = out.array[: large.shape[0], 1 : 1 + large.shape[1]]
    expected = convolve_plainly(large, kernel, None)
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
    assert len(find_sum(doubled)) == len(transform_kernel(kernel, doubled)) == shape.n_products
    assert max(find_sum(doubled)) + 1 == shape.n_sums


@pytest.mark.parametrize(("variant", "part"), list(NETWORKS), ids=str)
def test_rows_are_made_once_in_any_order_of_turns(models, latents, monkeypatch, variant, part):
    """However many rows are made at a time, by any number of threads, the bits are the same."""
    model, _ = models(variant, part)
    scale = model.network.scale_in
    source = latents(22 * scale, 7 * scale, model.network.channels_in)
    model = gather(model, source)
    found = []
    for n_px in (1, 3_000, 10**9):
        monkeypatch.setattr(memory, "TURN_PX", n_px)
        found.append(model(source, WHOLE))
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


@pytest.mark.parametrize(("variant", "part"), list(NETWORKS), ids=str)
def test_no_map_is_larger_than_predicted(variant, part):
    network = make_network(variant, part)
    shapes = list_shapes(network.layers)
    random = np.random.default_rng(0)
    for _ in range(12):
        lengths, ends = random.integers(2 * network.halo + 1, 180, 2), random.integers(0, 2, (2, 2)).astype(bool)
        axes = [(int(length), *map(bool, each)) for length, each in zip(lengths, ends, strict=True)]
        reaches = []
        for length, low, high in axes:
            start = 0 if low else int(random.integers(0, 99))
            kept = start + network.halo * (not low), start + length - network.halo * (not high)
            edges = find_edges(shapes, (start * network.scale_in, (start + length) * network.scale_in), (low, high))
            reaches.append(find_reaches(shapes, edges, (kept[0] * network.scale_out, kept[1] * network.scale_out)))
        size = lay_out(shapes, *reaches, 2, keeps_last=False).size * 4
        predicted = peak_bytes(network.layers, [each.layers for each in network.passes], *axes, 2) - weight_bytes(
            network.layers
        )
        assert size <= predicted, axes
        if not network.passes:
            assert predicted <= 1.3 * size, axes


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
