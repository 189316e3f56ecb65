"""The kernels in every size, tile and region against a plain network of PyTorch; and the memory they take."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from reference_networks import NETWORKS, build_torch, run_torch
from test_kernels import WHOLE, gather, make_network, run_arguments

import tiler
from taesd_core.checkpoint import load_checkpoint
from taesd_core.kernels.model import KernelModel
from taesd_core.tensors import ConvolutionTensors, NormTensors
from taesd_core.variants import find_weights
from tiler.plan import Plan
from tiler.window import Span, Window

pytestmark = pytest.mark.slow
LONG = [(1, 150), (150, 1), (3, 101), (97, 2)]


def tensors_of(state):
    """Return the weights of a state_dict of a model of PyTorch as our tensors."""
    found = []
    # A block has its pool in front.
    names = sorted(state, key=lambda name: (int(name.partition(".")[0]), ".conv." in name))
    for number, name in enumerate(names):
        values = state[name].numpy()
        if values.ndim == 4:
            norm = names[number + 1 : number + 3] if ".pool.0." in name else []
            bias = name.replace("weight", "bias")
            found.append(
                ConvolutionTensors(
                    np.ascontiguousarray(values.transpose(2, 3, 1, 0)),
                    state[bias].numpy() if bias in state else None,
                    NormTensors(*(state[each].numpy() for each in norm)) if norm else None,
                )
            )
    return tuple(found)


def list_sizes(variant, part):
    random = np.random.default_rng(0)
    if (variant, part) == ("taesd", "decoder"):
        sizes = [(height, width) for height in range(1, 41) for width in range(1, 41)]
        return [*random.permutation(sizes), *LONG]
    largest = 7 if variant == "taesana" else 25
    return [*random.integers(1, largest, (96, 2)), *(LONG if variant != "taesana" else [(1, 40), (40, 1)])]


@pytest.mark.parametrize(("variant", "part"), list(NETWORKS), ids=str)
def test_every_size_equals_the_plain_network(latents, variant, part):
    import torch

    network = make_network(variant, part)
    plain = build_torch(NETWORKS[variant, part])
    tensors = tensors_of(plain.state_dict())
    model = KernelModel(network, tensors)
    exact = build_torch(NETWORKS[variant, part]).to(torch.float64)
    scale = network.scale_in
    source = latents(150 * scale, 150 * scale, network.channels_in)
    apart = samples = 0
    largest = errors = plain_errors = 0.0
    sizes = list_sizes(variant, part)[: int(os.environ.get("MOST_SIZES", "100000"))]
    for number, (height, width) in enumerate(sizes):
        x = source[: height * scale, : width * scale]
        found = gather(model, x)(x, WHOLE)
        with_norms = bool(network.passes)
        # A group norm of a few values is not exact enough in float32 to compare with.
        expected = run_torch(exact if with_norms else plain, x.astype(np.float64) if with_norms else x)
        size = max(np.ptp(expected), 1.0)
        difference = np.abs(found - expected).max() / size
        largest = max(largest, difference)
        bytes_ = (np.rint(np.clip(each, 0, 1) * 255).astype(int) for each in (found, expected))
        steps = np.abs(next(bytes_) - next(bytes_))
        assert steps.max() <= 1, (height, width)
        apart, samples = apart + np.count_nonzero(steps), samples + steps.size
        if with_norms or number % 16 == 0:
            truth = expected if with_norms else run_torch(exact, x.astype(np.float64))
            errors = max(errors, np.abs(found - truth).max() / size)
            plain_errors = max(plain_errors, np.abs(expected - truth).max() / size)
            assert errors <= 5e-6, (height, width)
    print(f"\n{variant} {part}: {len(sizes)} sizes, {apart} of {samples} apart, from float32 {largest:.2g}, "
          f"from float64 {errors:.2g} (PyTorch {plain_errors:.2g})")  # fmt: skip
    assert apart <= 1e-4 * samples + 2
    assert largest <= 1e-5


def test_tiles_and_regions_are_at_most_a_step_apart(latents):
    checkpoint = load_checkpoint(find_weights("photo", "decoder", ()), "decoder")
    model = KernelModel(checkpoint.network, checkpoint.tensors, output="uint8")
    height, width = 100, 132
    source = latents(height, width, 4)
    whole = model(source, WHOLE).astype(int)
    random = np.random.default_rng(1)
    plans = [Plan(model.network, height, width, core) for core in (16, 31, 64, 90)]
    for _ in range(40):
        (top, bottom), (left, right) = (sorted(random.choice(n * 8, 2, replace=False)) for n in (height, width))
        plans.append(Plan(model.network, height, width, 64, region=Window(Span(top, bottom), Span(left, right))))
    apart = samples = 0
    for plan in plans:
        made = plan.made
        for tile in plan.tiles():
            found = model(*run_arguments(tile, source, 1))
            steps = np.abs(found - whole[made.slices][tile.write.slices])
            assert steps.max() <= 1, plan
            apart, samples = apart + np.count_nonzero(steps), samples + steps.size
    print(f"\n{len(plans)} plans: {apart} of {samples} samples apart")
    assert 0 < apart <= 1e-4 * samples


MEASURE = """
import json, sys, numpy as np
from taesd_core.families import FAMILIES
from taesd_core.kernels.memory import RUNTIME_BYTES, peak_bytes
from taesd_core.kernels.model import KernelModel
from taesd_core.layers import convolutions
from taesd_core.network import Network
from taesd_core.tensors import ConvolutionTensors
family, part, channels, height, width, n_threads = json.loads(sys.argv[1])
network = Network(getattr(FAMILIES[family], part)(channels))
tensors = []
for _, _, each in convolutions(network.layers):
    kernel = np.full((each.kernel, each.kernel, each.n_in, each.n_out), 1e-3, np.float32)
    tensors.append(ConvolutionTensors(kernel, None))
model = KernelModel(network, tuple(tensors), output="uint8" if part == "decoder" else "float32", n_threads=n_threads)
window = np.zeros((height * network.scale_in, width * network.scale_in, network.channels_in), np.float32)
borders = (True, False), (False, False)
image = model(window, borders, origin=(0, 3))
held = window.nbytes + image.nbytes
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if "VmHWM" in line)
axes = (height, *borders[0]), (width, *borders[1])
passes = [each.layers for each in network.passes]
predicted = RUNTIME_BYTES + held + peak_bytes(network.layers, passes, *axes, n_threads)
print(json.dumps([peak, predicted]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    "case",
    [
        ("taesd", "decoder", 4, 60, 60, 1), ("taesd", "decoder", 16, 170, 300, 2), ("taesd", "decoder", 4, 60, 400, 4),
        ("taesd", "decoder", 4, 400, 60, 2), ("taesd", "encoder", 4, 60, 60, 1), ("taesd", "encoder", 4, 100, 290, 2),
        ("taesana", "decoder", 32, 50, 70, 2), ("taesana", "encoder", 32, 60, 80, 2),
    ],
    ids=str,
)  # fmt: skip
def test_no_more_memory_is_taken_than_predicted(case):
    run = subprocess.run([sys.executable, "-c", MEASURE, json.dumps(case)], capture_output=True, text=True, check=True)
    peak, predicted = json.loads(run.stdout)
    print(f"\n{case}: {peak / 1e6:.0f} MB, predicted {predicted / 1e6:.0f} MB")
    assert peak <= predicted
    assert peak >= 0.6 * (predicted - 40e6)


def test_a_file_is_the_same_in_every_way_of_making_it(tmp_path, latents):
    """Threads, tiles after others, two at once and another process: one hash of the pixels."""
    source = latents(100, 132).transpose(2, 0, 1)[None]
    np.save(tmp_path / "z.npy", source)
    options = {"weights": "photo", "engine": "kernels", "tile_size_px": 256}
    tiler.decode(source, tmp_path / "a.npy", **options)
    program = (
        "import sys, tiler\n"
        "tiler.decode(sys.argv[1], sys.argv[2], weights='photo', engine='kernels', tile_size_px=256)\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "z.npy", tmp_path / "b.npy"], check=True)
    first, second = (np.load(tmp_path / name) for name in ("a.npy", "b.npy"))
    np.testing.assert_array_equal(first, second)
