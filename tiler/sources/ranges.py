"""Do values have the range that the model takes? Others give garbage, without an error.

Images are to lie in [0, 1].

What a sampler gives, and TAESD takes, has a root mean square of about 1; pictures of one colour, black and white
included, come to 2. Latents as the VAE encodes them, not yet multiplied by the model's scaling factor, have 5 (SD 1
and 2), 8 (SDXL) or 3 (FLUX.1), and the decoder clamps at 3. Those of SD3 differ too little to be told apart, and small
values may be a picture with little in it, so nothing is said of them.
"""

import math
import warnings
from contextlib import suppress

import numpy as np

from tiler.errors import InputWarning, NonFiniteError
from tiler.sources.fingerprint import spread
from tiler.sources.source import Source
from tiler.window import Window

N_WINDOWS, WINDOW_PX = 4, 32
"""Windows are looked at along each axis, from corner to corner, so large."""
LARGEST = 2.5
"""Largest root mean square that is not strange: between the 2 of pictures and the 3 of FLUX.1's VAE."""
FARTHEST = 5.5
"""Values of the VAE go far beyond this. 8-bit latents end at 3, and at 5 when enlarged, where they jump from end to
end."""


FARTHEST_COLOUR = 1.5
"""Values of an image in [0, 1] may go a little beyond."""


def check_colours(source: Source) -> None:
    """Warn of images whose values are not in [0, 1]; a few windows are read.

    Warns:
        InputWarning: they go far beyond.
    """
    height, width, _ = source.shape
    low, high = 0.0, 1.0
    for rows in spread(height, N_WINDOWS, WINDOW_PX):
        for columns in spread(width, N_WINDOWS, WINDOW_PX):
            with suppress(NonFiniteError):
                values = source.read(Window(rows, columns))
                values = values[np.isfinite(values)]
                low, high = min(low, float(values.min(initial=0))), max(high, float(values.max(initial=0)))
    if low < 1 - FARTHEST_COLOUR or high > FARTHEST_COLOUR:
        warnings.warn(
            f"The image is not in [0, 1]: values from {low:.3g} to {high:.3g}. Divide floats up to 255 by 255; of what "
            "is in [-1, 1], take x / 2 + 0.5.",
            InputWarning,
            stacklevel=3,
        )


def check_range(source: Source) -> None:
    """Warn of latents that look like those of another space; a few windows are read.

    Warns:
        InputWarning: they do.
    """
    height, width, _ = source.shape
    n_values, squares, largest = 0, 0.0, 0.0
    for rows in spread(height, N_WINDOWS, WINDOW_PX):
        for columns in spread(width, N_WINDOWS, WINDOW_PX):
            try:
                values = source.read(Window(rows, columns)).astype(np.float64)
            except NonFiniteError:
                continue  # Perhaps in no tile of the job; where it is in one, that will say so.
            values = values[np.isfinite(values)]
            n_values, squares = n_values + values.size, squares + float(values @ values)
            largest = max(largest, float(np.abs(values).max(initial=0)))
    mean = math.sqrt(squares / max(n_values, 1))
    if mean > LARGEST and largest > FARTHEST:
        warnings.warn(
            f"The latents look like VAE space: root mean square={mean:.3g}, expected about 1. The decoder takes what "
            "the sampler gives: use --latent-space vae, or multiply them by the model's scaling factor, 0.18215 for "
            "SD 1 and 2, 0.13025 for SDXL.",
            InputWarning,
            stacklevel=3,
        )
