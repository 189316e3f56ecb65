"""Against diffusers, which builds the network and reads the weights by code of its own."""

import numpy as np
import pytest

from taesd_core.checkpoint import load_checkpoint
from taesd_core.window_model import WindowModel
from tiler.plan import Plan

from conftest import run_serially  # isort: skip

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def autoencoder():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.AutoencoderTiny()
    with torch.no_grad():
        for values in model.parameters():
            # torch's own initial weights fade out over 36 layers.
            values.mul_(1.7 if values.ndim > 1 else 1.0)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint_path(autoencoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoder")
    autoencoder.save_pretrained(folder)
    return folder / "diffusion_pytorch_model.safetensors"


def to_torch(values):
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)[None]))


@pytest.mark.parametrize(("tile_px", "height", "width"), [(128, 21, 50), (256, 64, 48)])
def test_decoded_tiles_are_its_whole_image(autoencoder, checkpoint_path, latents, tile_px, height, width):
    checkpoint = load_checkpoint(checkpoint_path, "decoder")
    source = latents(height, width) * 2
    with torch.no_grad():
        whole = autoencoder.decode(to_torch(source)).sample[0].numpy().transpose(1, 2, 0) / 2 + 0.5
    model = WindowModel(checkpoint.network, checkpoint.tensors)
    tiled = run_serially(Plan(checkpoint.network, height, width, tile_px // 8), model, source)
    assert np.ptp(whole) > 0.1
    assert np.abs(tiled - whole).max() <= 2e-5 * np.ptp(whole)


def test_encoded_tiles_are_its_whole_image(autoencoder, checkpoint_path, latents):
    checkpoint = load_checkpoint(checkpoint_path, "encoder")
    source = latents(30 * 8, 41 * 8, 3)
    with torch.no_grad():
        whole = autoencoder.encode(to_torch(source * 2 - 1)).latents[0].numpy().transpose(1, 2, 0)
    model = WindowModel(checkpoint.network, checkpoint.tensors)
    tiled = run_serially(Plan(checkpoint.network, 30, 41, 24), model, source)
    assert np.ptp(whole) > 0.1
    assert np.abs(tiled - whole).max() <= 2e-5 * np.ptp(whole)
