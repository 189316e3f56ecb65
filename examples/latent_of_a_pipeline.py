"""The latent of a diffusers pipeline to a pyramidal TIFF, without the pipeline's own decoder.

Run: ``python examples/latent_of_a_pipeline.py landscape.tif [--weights NAME|FILE]`` (needs torch)

A stand-in takes the pipeline's place, so that nothing is downloaded. The real one is, with ``--weights taesd``::

    pipeline = StableDiffusionPipeline.from_pretrained("…", torch_dtype=torch.float16).to("cuda")
    latents = pipeline("a landscape", height=2048, width=3072, output_type="latent").images

This is what the sampler gives, and what TAESD decodes. What ``pipeline.vae.encode`` gives is in another space, as are
latents already divided by ``vae.config.scaling_factor``: ``save_picture(latents, …, space="vae")`` converts them.
"""

import argparse
import tempfile

import numpy as np
import torch

import tiler
from landscape import Landscape


def save_picture(latents, path, weights, *, space="diffusion"):
    """Decode a pipeline's tensor as it is: (1, channels, height, width), on any device, float32 or half."""
    # A name of published weights, such as taesd, knows its scale and shift; a file needs scale=0.18215, shift=0, …
    return tiler.decode(tiler.Latents(latents, space=space), path, weights=weights)


def stand_in_latents(height_px, width_px):
    """Return the latents of a drawn picture, in the shape and the precision of a pipeline's."""
    with tempfile.TemporaryDirectory() as folder:
        tiler.encode(Landscape(height_px, width_px), f"{folder}/latents.npy", weights="photo")
        return torch.from_numpy(np.load(f"{folder}/latents.npy")).half()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", help="the TIFF to write")
    parser.add_argument("--weights", default="photo", help="of the decoder (default: photo)")
    arguments = parser.parse_args()
    latents = stand_in_latents(512, 768)
    print(f"{tuple(latents.shape)} {latents.dtype}")
    report = save_picture(latents, arguments.picture, arguments.weights)
    print(f"{report.path}: {report.shape[0]} × {report.shape[1]} px")


if __name__ == "__main__":
    main()
