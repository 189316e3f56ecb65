"""What is lost on the way from pictures to latents and back: PSNR of each picture in a folder, and of all.

Run: ``python examples/round_trip.py FOLDER [--encoder NAME|FILE] [--decoder NAME|FILE]``

The last column is the same with latents kept as an 8-bit PNG.
"""

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np

import tiler
from tiler.sources.opening import open_image

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encoder", default="photo", help="weights of the encoder (default: photo)")
    parser.add_argument("--decoder", default="photo", help="weights of the decoder (default: photo)")
    arguments = parser.parse_args()
    pictures = sorted(path for path in arguments.folder.iterdir() if path.suffix.lower() in ENDINGS)
    if not pictures:
        parser.error(f"no pictures: folder={arguments.folder}, endings={', '.join(ENDINGS)}")
    print(f"{'picture':<32} {'px':>13} {'PSNR':>8} {'8 bits':>8}")
    errors = []
    for picture in pictures:
        errors.append([measure(picture, kind, arguments) for kind in (".safetensors", ".png")])
        height, width = errors[-1][0][1]
        decibels = [f"{to_decibels(error):>5.2f} dB" for error, _ in errors[-1]]
        print(f"{picture.name:<32} {height:>6}×{width:<6} {' '.join(decibels)}", flush=True)
    means = [np.mean([to_decibels(each[kind][0]) for each in errors]) for kind in (0, 1)]
    print(f"{'mean of ' + str(len(pictures)):<32} {'':>13} {means[0]:>5.2f} dB {means[1]:>5.2f} dB")


def measure(picture, kind, arguments):
    """Encode and decode a picture; return the mean squared error, and its (height, width)."""
    with tempfile.TemporaryDirectory() as folder:
        latents, again = Path(folder) / f"latents{kind}", Path(folder) / "again.npy"
        tiler.encode(picture, latents, weights=arguments.encoder)
        tiler.decode(latents, again, weights=arguments.decoder)
        image = open_image(picture)
        height, width, _ = image.shape
        # The image was continued to whole latents; what was added does not count.
        decoded = np.load(again)[:height, :width]
        original = image.read(tiler.Window.whole(height, width))
        return float(np.square(decoded / 255.0 - original).mean()), (height, width)


def to_decibels(error):
    return 10 * math.log10(1 / error) if error else math.inf


if __name__ == "__main__":
    main()
