"""One plan, one file: whoever runs it, on whatever threads and vectors, stopped or not, on one machine or several."""

import hashlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import random_tensors
from safetensors.numpy import save_file
from small_cluster import SmallCluster

import tiler
from taesd_core.checkpoint import Checkpoint, name_tensors
from taesd_core.families import FAMILIES
from taesd_core.network import Network

ROOT = str(Path(__file__).parents[1])
NETWORKS = {
    "taesd": ("taesd", 4, (200, 264), 512),
    "taesd3": ("taesd", 16, (200, 264), 512),
    "taef2": ("taef2", 32, (200, 264), 512),
    "taesana": ("taesana", 32, (72, 88), 1024),
}
DECODE = """
import sys, tiler
latents, weights, tile_px, *outputs = sys.argv[1:]
for output in outputs:
    tiler.decode(latents, output, weights=weights, tile_size_px=int(tile_px), engine="kernels", resume=True)
"""

KILLED = """
import os, signal, sys, tiler
from tiler.jobs import notes
notes.SYNC_SECONDS = 0
latents, weights, tile_px, output = sys.argv[1:]
def stop(n_done, *_):
    if n_done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
tiler.decode(latents, output, weights=weights, tile_size_px=int(tile_px), engine="kernels", progress=stop)
"""


def hash_levels(path):
    """Return one hash of the pixels of every level."""
    found = hashlib.sha256()
    with tifffile.TiffFile(path) as tiff:
        for level in tiff.series[0].levels:
            found.update(repr(level.shape).encode() + level.asarray().tobytes())
    path.unlink()
    return found.hexdigest()


def list_features(without):
    """Return what the processor can do, for the compiler, without some of it."""
    binding = pytest.importorskip("llvmlite.binding")
    there = {name for name, has in binding.get_host_cpu_features().items() if has}
    kept = {name for name in there if not name.startswith(without)}
    return ",".join(f"{'+' if name in kept else '-'}{name}" for name in binding.get_host_cpu_features())


@pytest.mark.slow
@pytest.mark.parametrize("variant", NETWORKS)
def test_one_plan_gives_one_file(tmp_path, variant):
    family, channels, shape, tile_px = NETWORKS[variant]
    network = Network(FAMILIES[family].decoder(channels))
    weights, source = tmp_path / "weights.safetensors", tmp_path / "z.npy"
    checkpoint = Checkpoint(network, random_tensors(network), "upstream", "", family, "decoder")
    save_file(name_tensors(checkpoint, "upstream"), weights)
    np.save(source, np.random.default_rng(1).normal(size=(1, channels, *shape)).astype(np.float32))
    options = {"weights": weights, "tile_size_px": tile_px, "engine": "kernels"}

    def decode(name, **more):
        tiler.decode(source, tmp_path / name, **options, **more)
        return hash_levels(tmp_path / name)

    def decode_elsewhere(name, command=(), **environment):
        words = [*command, sys.executable, "-c", DECODE, source, weights, str(tile_px), tmp_path / name]
        subprocess.run(list(map(str, words)), check=True, cwd=ROOT, env=os.environ | environment)
        return hash_levels(tmp_path / name)

    def kill_and_go_on(name):
        words = [sys.executable, "-c", KILLED, source, weights, str(tile_px), tmp_path / name]
        assert subprocess.run(list(map(str, words)), check=False, cwd=ROOT).returncode == -signal.SIGKILL
        assert not (tmp_path / name).exists()
        return decode(name, resume=True)

    with ThreadPoolExecutor(2) as pool:
        at_once = list(pool.map(decode, ["c.tif", "d.tif"]))
    found = {
        "at once": decode("a.tif"),
        "again": decode("b.tif", workers=1),
        "two at once": at_once[0],
        "the other": at_once[1],
        "in another process": decode_elsewhere("e.tif"),
        "killed and resumed": kill_and_go_on("f.tif"),
    }
    if sys.platform == "linux":
        found["on one core"] = decode_elsewhere("g.tif", ["taskset", "-c", "0"])
    if os.uname().machine == "x86_64":
        features = list_features(("avx512", "amx"))
        found["with AVX2"] = decode_elsewhere("h.tif", NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES=features)
    pytest.importorskip("distributed")
    cluster = SmallCluster(tmp_path)
    try:
        with cluster.connect() as client:
            found["on a cluster"] = decode("i.tif", client=client)
    finally:
        cluster.stop()
    with tiler.open(source, **options) as image:
        image.write(tmp_path / "j.tif")
        with tifffile.TiffFile(tmp_path / "j.tif") as tiff:
            np.testing.assert_array_equal(
                image[500:1100, 300:900], tiff.series[0].levels[0].asarray()[500:1100, 300:900]
            )
        found["opened"] = hash_levels(tmp_path / "j.tif")
    assert set(found.values()) == {found["at once"]}, found
