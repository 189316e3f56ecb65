"""Photographs in memory, and the crops that a step of training sees.

The batch of a step depends on the seed and the number of the step alone, so that a run that goes on sees what it
would have seen.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tiler.sources.upscale import SHARPNESS

LONG_SIDE_PX = 1024
"""What larger photographs are made, so that their detail is as sharp as that of small ones."""
REDUCTIONS = (1.0, 0.7, 0.5)
LATENT_STEP = 6 / 255
"""Between two values of a latent in 8 bits."""

Batch = dict[str, NDArray[np.float32]]
Picture = NDArray[np.uint8]


def read_photographs(
    folders: Sequence[str | Path], held_out: Sequence[str]
) -> tuple[list[Picture], dict[str, Picture]]:
    """Return the photographs to train on, each in several sizes, and those held out, by name."""
    train, kept = [], {}
    for folder in folders:
        for path in sorted(Path(folder).iterdir()):
            if path.suffix.lower() not in {".png", ".jpg", ".jpeg", ".webp"}:
                continue
            image = Image.open(path).convert("RGB")
            if path.stem in held_out:
                kept[path.stem] = np.asarray(image)
                continue
            image.thumbnail((LONG_SIDE_PX, LONG_SIDE_PX), Image.Resampling.LANCZOS)
            for factor in REDUCTIONS:
                size = round(image.width * factor), round(image.height * factor)
                train.append(np.asarray(image if factor == 1 else image.resize(size, Image.Resampling.LANCZOS)))
    if missing := set(held_out) - kept.keys():
        raise ValueError(f"No such photograph to hold out: name={min(missing)}. Give its name without the ending.")
    return train, kept


class Batches:
    """Crops of photographs, turned, mirrored, recoloured; large photographs are taken more often.

    Args:
        photographs: (height, width, 3) uint8 each.
        seed: of everything random.
    """

    def __init__(self, photographs: Sequence[Picture], seed: int = 0) -> None:
        self._photographs = photographs
        self._seed = seed

    def make(self, step: int, size_px: int, n_plain: int, n_small: int) -> Batch:
        """Return a batch: "plain" crops, "small" copies of crops twice as large, and the middles of those, "large".

        "noise" is what rounding to 8 bits does to the latents of plain and of upscaled ones.
        """
        random = np.random.default_rng((self._seed, step))
        plain = self._crop(random, n_plain, size_px)
        twice = self._crop(random, n_small, 2 * size_px)
        small = twice.reshape(n_small, size_px, 2, size_px, 2, 3).mean((2, 4))
        middle = slice(size_px // 2, size_px // 2 + size_px)
        side = size_px // 8
        noise = random.uniform(-0.5, 0.5, (n_plain + n_small, side, side, 4)) * LATENT_STEP
        # Middles of the upscaled latents, too.
        bicubic = bicubic_matrix(side)[side // 2 : side // 2 + side]
        large = np.ascontiguousarray(twice[:, middle, middle])
        return {
            "plain": plain, "small": small, "large": large,
            "noise": noise.astype(np.float32), "bicubic": bicubic,
        }  # fmt: skip

    def _crop(self, random: np.random.Generator, count: int, size_px: int) -> NDArray[np.float32]:
        fitting = [each for each in self._photographs if min(each.shape[:2]) >= size_px]
        if not fitting:
            raise ValueError(f"No photograph is large enough: crop={size_px} px. Add photographs of that size or more.")
        sizes = np.array([each.shape[0] * each.shape[1] for each in fitting], np.float64)
        crops = np.empty((count, size_px, size_px, 3), np.float32)
        for number, which in enumerate(random.choice(len(fitting), count, p=sizes / sizes.sum())):
            top, left = (random.integers(length - size_px + 1) for length in fitting[which].shape[:2])
            crop = fitting[which][top : top + size_px, left : left + size_px]
            crop = np.rot90(crop, random.integers(4))[:, :: random.choice((-1, 1))].astype(np.float32) / 255
            if random.random() < 0.25:
                crop = crop[..., random.permutation(3)]
            if random.random() < 0.3:
                crop = np.clip(crop * random.uniform(0.7, 1.2) + random.uniform(-0.1, 0.1), 0, 1)
            crops[number] = crop
        return crops


def bicubic_matrix(length: int) -> NDArray[np.float32]:
    """Return the (2 length, length) matrix that upscales a row of ``length`` values by two, as ``tiler`` does."""
    matrix = np.zeros((2 * length, length), np.float32)
    for output in range(2 * length):
        position = (output + 0.5) / 2 - 0.5
        base = int(np.floor(position))
        for tap in range(base - 1, base + 3):
            matrix[output, np.clip(tap, 0, length - 1)] += _cubic(abs(position - tap))
    return matrix


def _cubic(distance: float) -> float:
    """Return the weight of a tap so far away. Source: Keys 1981, its equation 4, with the parameter a."""
    a = SHARPNESS
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return a * (distance**3 - 5 * distance**2 + 8 * distance - 4) if distance < 2 else 0.0
