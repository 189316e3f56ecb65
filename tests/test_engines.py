"""Which engine runs where, and that none is started to find out."""

import subprocess
import sys
from pathlib import Path

import pytest

from taesd_core import engines
from tiler.errors import OptionError
from tiler.models import settle_engine


@pytest.fixture(autouse=True)
def anew():
    """Nothing is remembered of what other tests were told."""
    engines.has_gpu.cache_clear()
    yield
    engines.has_gpu.cache_clear()


@pytest.mark.parametrize(
    ("gpu", "precision", "engine"),
    [
        (False, "float32", "kernels"),
        (False, "bfloat16", "keras"),
        (True, "float32", "keras"),
        (True, "float16", "keras"),
    ],
)
def test_keras_runs_where_there_is_a_gpu_or_less_precision(monkeypatch, gpu, precision, engine):
    monkeypatch.setattr(engines, "has_gpu", lambda: gpu)
    assert settle_engine(None, precision) == engine
    assert settle_engine("keras", precision) == "keras"


@pytest.mark.parametrize(
    ("gpu", "precision", "features", "told"),
    [
        (False, "float32", {"avx2"}, False),
        (False, "bfloat16", {"avx512bf16", "avx512f"}, True),
        (False, "bfloat16", {"amx-bf16", "amx-tile"}, False),
        (False, "float16", {"amx-bf16", "amx-tile"}, True),
        (True, "bfloat16", {"avx2"}, False),
    ],
)
def test_less_precision_that_gains_nothing_is_told(monkeypatch, gpu, precision, features, told):
    monkeypatch.setattr(engines, "has_gpu", lambda: gpu)
    monkeypatch.setattr(engines, "find_features", lambda: frozenset(features))
    monkeypatch.setattr(engines.platform, "machine", lambda: "x86_64")
    line = engines.tell_precision(precision)
    assert line.startswith(f"{precision} is no faster than float32") if told else line == ""


@pytest.mark.parametrize(("engine", "precision"), [("kernels", "float16"), ("torch", "float32"), (None, "float8")])
def test_what_there_is_not_is_refused(engine, precision):
    with pytest.raises(OptionError, match=f"{engine}|{precision}"):
        settle_engine(engine, precision)


@pytest.mark.parametrize("device", ["nvidiactl", "nvidia3", "dxg", "kfd", "accel0"])
@pytest.mark.skipif(sys.platform != "linux", reason="devices are files there")
def test_only_what_looks_like_a_gpu_is_asked_about(monkeypatch, tmp_path, device):
    from taesd_core import compile as compiling

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    asked = []
    monkeypatch.setattr(compiling, "is_on_gpu", lambda: asked.append(True) or True)
    monkeypatch.setattr(engines, "DEVICES", tmp_path)
    assert not engines.has_gpu()
    assert asked == []
    (tmp_path / device).touch()
    engines.has_gpu.cache_clear()
    assert engines.has_gpu()
    assert asked == [True]
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        engines.has_gpu.cache_clear()
        assert not engines.has_gpu()


SCRIPT = """
import sys
import numpy as np
import tiler
folder = sys.argv[1]
np.save(folder + "/z.npy", np.zeros((9, 9, 4), np.float32))
tiler.decode(folder + "/z.npy", folder + "/image.tif", weights="photo")
tiler.encode(np.zeros((40, 40, 3), np.uint8), folder + "/back.npy", weights="photo")
tiler.preview(folder + "/z.npy", weights="photo")
tiler.decode_lazily(folder + "/z.npy", weights="photo").compute()
assert "tiler.checks.reference" in sys.modules
started = {"tensorflow", "keras", "jax", "torch"} & set(sys.modules)
assert not started, started
"""


def test_on_a_cpu_keras_is_not_started(tmp_path):
    root = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=True, cwd=root)
