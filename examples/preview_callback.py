"""Watch a sampler work: a preview of its latents every few steps, each in a fraction of a second.

Run: ``python examples/preview_callback.py FOLDER [--weights NAME|FILE] [--every N]``

With diffusers it is ``pipeline(prompt, callback_on_step_end=Preview(folder, weights, every=5))``. Here a stand-in takes
the pipeline's place, so that nothing is downloaded: it goes from noise to the latents of a drawn picture.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import tiler
from landscape import Landscape


class Preview:
    """A callback of a diffusion pipeline: writes ``step-NNN.png`` each nth step."""

    def __init__(self, folder, weights, *, every=5, size_px=512):
        self.folder, self.weights, self.every, self.size_px = Path(folder), weights, every, size_px

    def __call__(self, pipeline, step, timestep, callback_kwargs):
        """Do what diffusers asks of a callback: take what a step has made, and hand it back."""
        if step % self.every == 0:
            # (batch, channels, h, w), a tensor on whatever device or an array; the first of the batch is shown.
            latents = tiler.Latents(callback_kwargs["latents"], index=0)
            picture = tiler.preview(latents, weights=self.weights, size_px=self.size_px)
            Image.fromarray(picture).save(self.folder / f"step-{step:03}.png")
        return callback_kwargs


class StandInPipeline:
    """Goes from noise to given latents in as many steps as it is asked for, as a sampler does."""

    def __init__(self, target):
        self.target = target

    def __call__(self, *, num_inference_steps, callback_on_step_end):
        """Take the steps, and call back after each."""
        noise = np.random.default_rng(0).normal(size=self.target.shape).astype(np.float32)
        for step in range(num_inference_steps):
            left = 1 - (step + 1) / num_inference_steps
            latents = (1 - left) * self.target + left * noise
            callback_on_step_end(self, step, int(1000 * left), {"latents": latents})
        return latents


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", default="photo", help="of the decoder (default: photo)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--size", type=int, default=512, help="longest side of a preview, px")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tiler.encode(Landscape(512, 768), f"{folder}/target.npy", weights="photo")
        target = np.load(f"{folder}/target.npy")
    preview = Preview(arguments.folder, arguments.weights, every=arguments.every, size_px=arguments.size)
    StandInPipeline(target)(num_inference_steps=arguments.steps, callback_on_step_end=preview)
    print(f"Previews of every {arguments.every} steps are in {arguments.folder}.")


if __name__ == "__main__":
    main()
