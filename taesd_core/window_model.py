"""The exact model: a window and its borders go in, the pixels that the window determines come out."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Semaphore
from typing import Any, NamedTuple

import numpy as np
from keras import ops
from numpy.typing import NDArray

from taesd_core.bounds import LARGEST, USE_OTHERS, choose_looks, look_everywhere
from taesd_core.compile import CompiledStage, compile_stage, compile_window, is_out_of_memory, to_host
from taesd_core.costs import axis_spans
from taesd_core.engines import DeviceMemoryError
from taesd_core.layers import convolutions
from taesd_core.moments import Moments
from taesd_core.network import Network
from taesd_core.receptive_field import Stage
from taesd_core.stage import Borders, Ends, Output, StageModel, Tensor, moments_of_map
from taesd_core.tensors import Tensors

Crop = tuple[slice, slice]
WHOLE = slice(None), slice(None)


class Program(NamedTuple):
    """A compiled stage, and what it takes besides a map."""

    run: CompiledStage
    n_norms: int
    """Group norms in it, each of which wants its statistics."""
    channels_out: int
    """Channels of what it gives."""


class WindowModel:
    """A decoder or an encoder for windows of an image, exact to the last pixel that a window determines.

    One with group norms needs the statistics of the whole input first. ``gather`` gives those of a window; the sum over
    all windows of a pass goes into ``with_statistics``, and so on until ``network.passes`` are through.

    Args:
        network: the layers.
        tensors: its weights, in order of execution.
        output: "uint8" or "uint16" for the pixels of a decoder, "float32" for values as they are.
        dtype: of weights and maps: "float32", "float16" or "bfloat16".
        everywhere: look at every map whether it is finite, where the few looks of ``bounds.py`` do not suffice.
    """

    def __init__(
        self,
        network: Network,
        tensors: Tensors,
        *,
        output: Output = "float32",
        dtype: str = "float32",
        everywhere: bool = False,
    ) -> None:
        self.at_once = 1
        """Windows that may be under way at a time: in computation, and to and from the device. Three are 1.6 times as
        fast on a GPU, tile by tile; whole jobs have not been seen to end with them, so it is one until they are."""
        self.network = network
        self.dtype = dtype
        self._statistics: tuple[Moments, ...] = ()
        self._norms: list[Tensor] = []
        compiled: dict[tuple[int, Stage], Program] = {}
        compile_all = partial(_compile, tensors=tensors, dtype=dtype, everywhere=everywhere, compiled=compiled)
        self._programs = compile_all(network, output=output)
        self._pass_programs = [compile_all(each, output=None) for each in network.passes]
        self._like = partial(WindowModel, network, tensors, output=output)
        self._looking_everywhere = everywhere
        self._others: dict[str, WindowModel] = {}
        self._windows: dict[tuple[int | None, Borders], Callable[..., tuple[Tensor, Tensor]]] = {}
        # A device computes one while the next one is made ready; it has one memory, so no more than these two. On a CPU
        # all cores work on a window.
        self._turns = Semaphore(min(self.at_once, 2))

    def __call__(
        self,
        window: NDArray[np.float32],
        borders: tuple[Ends, Ends],
        crop: Crop = WHOLE,
        origin: tuple[int, int] = (0, 0),
    ) -> NDArray[Any]:
        """Return exactly the pixels that ``window`` determines, or a part of them.

        Args:
            window: (height, width, channels) float32: latents, about [-3, 3], or pixels in [0, 1].
            borders: which of its sides are borders of the image.
            crop: the rows and columns to return of what it determines, output px.
            origin: where it begins in the image; nothing depends on it here.

        Raises:
            DeviceMemoryError: the device's memory does not suffice.
            OverflowError: a map of the network is not finite.

        Returns:
            Of the pixels of the window less the network's halo on every side that is no border, what ``crop`` takes:
            (height', width', channels') of the type of ``output``.
        """
        with self._device(window):
            x = self._run_checked(None, window, borders)
        # Others are computed while this one travels.
        return to_host(x)[(0, *crop)]

    def with_statistics(self, statistics: Sequence[Moments]) -> "WindowModel":
        """Return the same model with the statistics of the first passes given; it shares programs and memory.

        Args:
            statistics: for each pass the sum of what ``gather`` gave over the whole input.
        """
        model = copy.copy(self)
        model._statistics = tuple(statistics)
        model._norms = [ops.convert_to_tensor(each.norm) for each in statistics]
        return model

    def gather(
        self,
        window: NDArray[np.float32],
        borders: tuple[Ends, Ends],
        crop: Crop = WHOLE,
        origin: tuple[int, int] = (0, 0),
    ) -> Moments:
        """Return what a window adds to the statistics of the next pass.

        Args:
            window: as for a call, with the halo of the pass instead of the network's.
            borders: which of its sides are borders of the image.
            crop: the rows and columns to count of what the window determines, latent px.
            origin: as for a call.

        Raises:
            DeviceMemoryError: the device's memory does not suffice.
            OverflowError: a map of the network is not finite, or the squares of its values are not.
        """
        number = len(self._statistics)
        groups = list(convolutions(self.network.passes[number].layers))[-1].convolution.norm_groups
        with self._device(window):
            x = self._run_checked(number, window, borders)
            with np.errstate(over="ignore", invalid="ignore"):
                moments = moments_of_map(x[:, crop[0], crop[1]], groups)
        if not moments.finite:
            raise OverflowError(f"What a group norm must square is beyond {LARGEST['float32']:.3g}. {USE_OTHERS}")
        return moments

    @contextmanager
    def _device(self, window: NDArray[np.float32]) -> Iterator[None]:
        try:
            with self._turns:
                yield
        except Exception as error:
            if is_out_of_memory(error):
                raise DeviceMemoryError(f"The device cannot hold this tile: {window.shape[:2]} px.") from error
            raise

    def _run_checked(self, number: int | None, window: NDArray[np.float32], borders: tuple[Ends, Ends]) -> Tensor:
        """Return the last map, in which nothing comes from what is not finite.

        Args:
            number: of the pass whose network is run; None for the network itself.
            window: as for a call.
            borders: as for a call.
        """
        x, within = self._run(number, window, borders)
        if within:
            return x
        if not self._looking_everywhere:
            return self._other(self.dtype)._run_checked(number, window, borders)
        beyond = f"The network's values go beyond what {self.dtype} holds: largest={LARGEST[self.dtype]:.5g}"
        if self.dtype == "float16":
            # Its own error, if it is no better there.
            self._other("float32")._run_checked(number, window, borders)
            raise OverflowError(f"{beyond}. float32 holds them. Use the precision float32 or bfloat16, and start over.")
        raise OverflowError(f"{beyond}, input's={np.abs(window).max():.3g}. {USE_OTHERS}")

    def _other(self, dtype: str) -> "WindowModel":
        """Return the same model, statistics included, that looks everywhere."""
        if dtype not in self._others:
            self._others[dtype] = self._like(dtype=dtype, everywhere=True)
        return self._others[dtype].with_statistics(self._statistics)

    def _run(
        self, number_of_pass: int | None, window: NDArray[np.float32], borders: tuple[Ends, Ends]
    ) -> tuple[Tensor, bool]:
        """Return the last map, and whether all that was looked at is within its bound."""
        network, programs = self.network, self._programs
        if number_of_pass is not None:
            network, programs = self.network.passes[number_of_pass], self._pass_programs[number_of_pass]
        n_norms = sum(program.n_norms for program in programs)
        assert n_norms <= len(self._norms), f"{n_norms} norms, but the statistics of {len(self._norms)} passes"
        key = number_of_pass, Borders(*borders)
        run = self._windows.get(key) or self._windows.setdefault(
            key, compile_window(partial(_run_stages, network, programs, key[1]))
        )
        x, within = run(ops.convert_to_tensor(window[None], self.dtype), *self._norms[:n_norms])
        # Asked once, when all is under way: a device that waits for an answer stands still.
        return x, bool(to_host(within))


def _run_stages(
    network: Network, programs: Sequence[Program], borders: Borders, x: Tensor, *norms: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the last map of a window, and whether all that was looked at is within its bound."""
    spans = [
        axis_spans(network.layers, (length // network.scale_in, *ends))
        for length, ends in zip(x.shape[1:3], borders, strict=True)
    ]
    rest, all_within = iter(norms), []
    for program, row, column in zip(programs, *spans, strict=True):
        given = [next(rest) for _ in range(program.n_norms)]
        x, within = program.run(x[:, row.read, column.read], borders, *given)
        x = x[:, row.crop, column.crop]
        all_within.append(within)
    return x, ops.all(ops.stack(all_within))


def _compile(
    network: Network,
    tensors: Tensors,
    output: Output | None,
    dtype: str,
    everywhere: bool,
    compiled: dict[tuple[int, Stage], Program],
) -> list[Program]:
    """Return the programs of the stages of a network; those that are in ``compiled`` already are the same ones."""
    channels, programs = network.channels_in, []
    for number, (stage, own) in enumerate(zip(network.stages, network.tensors_of_stages(tensors), strict=True)):
        last = number == len(network.stages) - 1
        program = compiled.get((number, stage))
        if program is None or last:
            looks = look_everywhere(len(own), dtype) if everywhere else choose_looks(stage, own, dtype)
            model = StageModel(stage, own, looks, output=output if last else None, dtype=dtype)
            program = Program(compile_stage(model, channels, dtype), len(model.norm_shapes), model.channels_out)
            compiled[number, stage] = program
        channels = program.channels_out
        programs.append(program)
    return programs
