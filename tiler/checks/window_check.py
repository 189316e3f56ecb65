"""A window of a written image, decoded again in another way.

The plain whole-image model runs on the window and more than enough around it; what its group norms must know of all
latents is gathered by plain models before. The file holds the number nearest to what the model gives, so a rule
suffices. What belongs into a JPEG goes through the same compression first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiler.checks.sampling import ALIGNMENT, cover
from tiler.dtypes import UNITS
from tiler.formats.written import DamagedImageError, WrittenImage
from tiler.model import Network
from tiler.phase import Phase
from tiler.sources.ranges import check_finite
from tiler.sources.source import Source
from tiler.window import Window

Reference = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""The plain model: (height, width, channels) latents to pixels, about [0, 1], as if the window were the image."""

Statistics = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Mean and variance of each group of channels."""

GATHER_SIDE = 96
"""Side of the windows that statistics are gathered in, latent px."""
SPARE = 4
"""Latent px around a window beyond the halo."""
FARTHEST = 0.02
"""Farthest that a pixel may be from the model's value, of 255, but for rounding: ten times what sums of float32 were
measured to differ by."""
JPEG_MEAN = 0.25
"""Largest mean |Δ| after the same compression. With ±1 in 2 of 10⁴ samples 0.025 was the most measured."""


@dataclass(frozen=True, slots=True)
class WindowCheck:
    """What decoding a window again has shown."""

    window: Window
    """The place, px of the image."""
    max_difference: float
    """Largest |Δ| between the file and the pixels, of 255 whatever the numbers; both rounded to bytes in a file of
    bytes."""
    n_different: int
    """Samples that differ, rounded to bytes."""
    n_samples: int
    """Samples compared: pixels × channels."""
    ok: bool
    """Whether rounding, and compression, explain the differences."""
    problem: str = ""
    """Why the window could not be read, if so."""

    def __str__(self) -> str:
        if self.problem:
            return f"window {self.window}: {self.problem}"
        share = self.n_different / self.n_samples
        return f"window {self.window}: max |Δ| {self.max_difference:.3g}, {share:.2g} of the samples differ"


def check_window(
    image: WrittenImage, source: Source, network: Network, reference: Reference, window: Window, place: Window
) -> WindowCheck:
    """Decode a window again and compare it with the file.

    Args:
        image: the file.
        source: the latents.
        network: the geometry of the decoder.
        reference: the plain model.
        window: a window of the file, px; it begins at multiples of ``ALIGNMENT``.
        place: where the image of the file lies in what the latents decode to, px.

    Raises:
        InputError: the latents hold NaN or Inf.
    """
    scale = network.scale_out
    # A compression sees neighbours, so a little more than the window goes through it.
    near = window.grow(ALIGNMENT, *place.shape)
    decoded = near + place
    read = decoded.cover(scale).grow(network.halo + SPARE, *source.shape[:2])
    values = reference(_read(source, read))[(decoded - read * scale).slices] * np.float32(255)
    if image.dtype.kind == "u":
        values = values.clip(0, 255)
    inner = (window - near).slices
    rounded, values = np.rint(values), values[inner]
    n_samples = values.size
    try:
        found = image.read(0, window)
    except DamagedImageError as error:
        return WindowCheck(window, 255, n_samples, n_samples, ok=False, problem=str(error))
    unit = UNITS[image.dtype.name]
    pixels = found.astype(np.float64) * unit
    if image.dtype == np.uint8:
        rounded = image.recompress(near, rounded.astype(np.uint8)).astype(np.float64)
    difference = np.abs(np.rint(pixels) - rounded[inner])
    n_different = int(np.count_nonzero(difference))
    if image.quantization is None:
        farthest = float(np.abs(pixels - values).max())
        largest = float(difference.max()) if image.dtype == np.uint8 else farthest
        ok = farthest <= FARTHEST + (unit / 2 if image.dtype.kind == "u" else 0)
    else:
        largest = float(difference.max())
        # A pixel that rounds the other way may tip a coefficient over: by a step, in one block, in few blocks.
        step = max(map(max, image.quantization))
        ok = bool(largest <= 8 + step / 2 and difference.mean() <= JPEG_MEAN + 400 * (8 + step) / n_samples)
    return WindowCheck(window, largest, n_different, n_samples, ok)


def gather_plainly(
    source: Source, network: Network, reference: Reference, groups: int, margins: tuple[int, int]
) -> Statistics:
    """Return mean and variance of what the plain model of a pass gives for all latents, by groups of channels.

    Args:
        source: the latents.
        network: the geometry of the pass.
        reference: its plain model.
        groups: groups of neighbouring channels of equal size.
        margins: rows and columns at each end that do not count, because they are there already; see ``positions.py``.

    Raises:
        InputError: the latents hold NaN or Inf.
    """
    height, width, _ = source.shape
    n_values, sums, squares = 0, np.zeros(groups), np.zeros(groups)
    windows = cover(height - 2 * margins[0], width - 2 * margins[1], GATHER_SIDE)
    phase = Phase("Gathering statistics", len(windows), "windows")
    for window in windows:
        window = Window(window.rows + margins[0], window.columns + margins[1])
        read = window.grow(network.halo + SPARE, height, width)
        values = reference(_read(source, read))[(window - read).slices].astype(np.float64)
        values = values.reshape(-1, groups, values.shape[2] // groups)
        n_values += len(values) * values.shape[2]
        sums += values.sum(axis=(0, 2))
        squares += np.square(values).sum(axis=(0, 2))
        phase.count()
    mean = sums / n_values
    return mean, squares / n_values - mean**2


def _read(source: Source, window: Window) -> NDArray[np.float32]:
    latents = source.read(window)
    check_finite(latents, window)
    return latents
