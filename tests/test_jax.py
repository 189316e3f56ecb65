"""The same model on Keras' other backend: windows against the plain whole-image model on TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from taesd_core.variants import find_weights
from tiler.checks.reference import load_reference
from tiler.sources.array_source import ArraySource

pytest.importorskip("jax")

ROOT = str(Path(__file__).parents[1])
DECODE = """
import sys
import taesd_core.window_model
import tiler
if sys.argv[3] == "several at once":
    # As on a GPU: a window is computed while others are on their way.
    taesd_core.window_model.is_on_gpu = lambda: True
tiler.decode(sys.argv[1], sys.argv[2], weights="photo", engine="keras", tile_size_px=128, workers=4)
assert "tensorflow" not in sys.modules and "jax" in sys.modules
"""


@pytest.mark.parametrize(
    ("way", "shape"), [("one at a time", (9, 28)), pytest.param("several at once", (36, 40), marks=pytest.mark.slow)]
)
def test_jax_decodes_to_the_pixels_of_the_whole_image(tmp_path, latents, way, shape):
    # Tiles with borders and without: none sees the whole.
    source = latents(*shape)
    np.save(tmp_path / "latents.npy", source)
    command = [sys.executable, "-c", DECODE, str(tmp_path / "latents.npy"), str(tmp_path / "image.npy"), way]
    environment = os.environ | {"PYTHONPATH": ROOT, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, check=True, env=environment)

    expected = np.clip(load_reference(find_weights("photo", "decoder"), ArraySource(source, 4))(source), 0, 1) * 255
    assert np.abs(np.load(tmp_path / "image.npy") - expected).max() <= 0.501
