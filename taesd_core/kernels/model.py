"""The exact model in kernels for CPUs: a window and its borders go in, the pixels that it determines come out."""

import copy
from collections.abc import Callable, Sequence
from ctypes import c_int64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taesd_core.bounds import LARGEST, USE_OTHERS
from taesd_core.kernels.geometry import Ends
from taesd_core.kernels.library import load_functions
from taesd_core.kernels.maps import Map, Memories
from taesd_core.kernels.memory import count_cores
from taesd_core.kernels.pixels import KINDS
from taesd_core.kernels.run import Run, Spans, Threads
from taesd_core.kernels.steps import make_steps
from taesd_core.layers import Clamp
from taesd_core.moments import Moments, moments_of_sums
from taesd_core.network import Network
from taesd_core.tensors import Tensors


class KernelModel:
    """A decoder or an encoder for windows of an image, exact to the last pixel that a window determines.

    The same window gives the same bits on any number of threads, whatever ran before, with vectors of any length.

    Args:
        network: the layers.
        tensors: its weights, in order of execution.
        output: "uint8" or "uint16" for the pixels of a decoder, "float32" for values as they are.
        n_threads: by default one a core.
    """

    def __init__(
        self, network: Network, tensors: Tensors, *, output: str = "float32", n_threads: int | None = None
    ) -> None:
        self.network, self._tensors, self._output = network, tensors, output
        self._to_pixels = load_functions()[f"to_{output}"]
        self._threads, self._memories = Threads(n_threads or count_cores()), Memories()
        self._norms: list[NDArray[np.float32]] = []
        self._build()

    def _build(self) -> None:
        """Make the steps of the network, or of the first of its passes whose statistics are not known."""
        n = len(self._norms)
        passes = self.network.passes
        layers = passes[n].layers if n < len(passes) else self.network.layers
        self._clamped = isinstance(layers[0], Clamp)
        self._steps = make_steps(layers, iter(self._tensors), iter(self._norms))

    def with_statistics(self, statistics: Sequence[Moments]) -> "KernelModel":
        """Return the same model with the statistics of the first passes given; it shares threads and memory."""
        model = copy.copy(self)
        model._norms = [each.norm for each in statistics]
        model._build()
        return model

    def __call__(
        self, window: NDArray[np.float32], borders: tuple[Ends, Ends], crop: tuple[slice, slice] | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> NDArray[Any]:  # fmt: skip
        """Return pixels that ``window`` determines: of it less the halo on each side that is no border.

        Args:
            window: (height, width, channels) float32: latents, about [-3, 3], or pixels in [0, 1].
            borders: which of its sides are borders of the image.
            crop: which part of what it determines, output px; all of it without. Only that is computed.
            origin: where the window begins in the image, latent px. All tiles of 4 × 4 lie on the image, so that
                windows that begin at different places differ in no more than roundings near their margins.

        Raises:
            OverflowError: a map of the network is not finite.
        """
        spans, kept = self._place(self.network, window, borders, crop, origin)
        (top, bottom), (left, right) = kept
        image = np.empty((bottom - top, right - left, self.network.channels_out), KINDS[self._output])
        self._run(window, spans, borders, kept, image)
        return image

    def gather(
        self, window: NDArray[np.float32], borders: tuple[Ends, Ends], crop: tuple[slice, slice] | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> Moments:  # fmt: skip
        """Return what a part of what a window determines adds to the statistics of the next pass; see ``__call__``."""
        each = self.network.passes[len(self._norms)]
        groups = each.layers[-1].norm_groups  # type: ignore[union-attr]
        spans, kept = self._place(each, window, borders, crop, origin)
        (top, bottom), (left, right) = kept
        zeros, pilot, sums, squares = np.zeros((4, each.channels_out))
        add = load_functions()["sum_channels"]

        def look(x: Map) -> None:
            numbers = (c_int64 * 5)(0, bottom - top, right - left, x.channels, x.row)
            at = x.at(left) + x.slot(top) * x.row * 4
            add(at, zeros.ctypes.data, pilot.ctypes.data, squares.ctypes.data, numbers)
            pilot[:] /= n
            squares[:] = 0
            add(at, pilot.ctypes.data, sums.ctypes.data, squares.ctypes.data, numbers)

        n = (bottom - top) * (right - left)
        self._run(window, spans, borders, kept, look=look)
        moments = moments_of_sums(n, pilot, sums, squares, groups)
        if not moments.finite:
            raise OverflowError(f"What a group norm must square is beyond {LARGEST['float32']:.3g}. {USE_OTHERS}")
        return moments

    @staticmethod
    def _place(
        network: Network, window: NDArray[np.float32], borders: tuple[Ends, Ends], crop: tuple[slice, slice] | None,
        origin: tuple[int, int],
    ) -> tuple[Spans, Spans]:  # fmt: skip
        """Return where the window and what is kept of the output lie, px of input and output from the image's corner.

        Raises:
            ValueError: nothing is kept.
        """
        spans, kept = [], []
        for length, (low, high), start, part in zip(
            window.shape, borders, origin, crop or (slice(None), slice(None)), strict=False
        ):
            spans.append((start * network.scale_in, start * network.scale_in + length))
            first = 0 if low else network.halo
            size = length // network.scale_in - first - (0 if high else network.halo)
            begin, end, step = part.indices(max(size, 0) * network.scale_out)
            if begin >= end or step != 1:
                raise ValueError(f"Nothing is kept of a window: length={length} px, borders={low, high}, crop={part}.")
            offset = (start + first) * network.scale_out
            kept.append((offset + begin, offset + end))
        return (spans[0], spans[1]), (kept[0], kept[1])

    def _run(
        self, window: NDArray[np.float32], spans: Spans, borders: tuple[Ends, Ends], kept: Spans,
        image: NDArray[Any] | None = None, look: Callable[[Map], None] | None = None,
    ) -> None:  # fmt: skip
        """Run all steps; fill an image, or look at the last map."""
        with self._memories.borrow() as memory:
            run = Run(
                self._steps, self._clamped, window, spans, borders, kept, self._threads, memory, image, self._to_pixels
            )
            last = run.run()
            if look is not None:
                look(last)
        if not run.finite:
            beyond = f"The network's values go beyond what float32 holds: largest={LARGEST['float32']:.5g}"
            raise OverflowError(f"{beyond}, input's={np.abs(window).max():.3g}. {USE_OTHERS}")
