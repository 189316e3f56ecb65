"""The engines that can run a network, which of them suits this machine, and what each takes of its memory.

``kernels`` compute in float32 on a CPU, the same bits on any (``taesd_core.kernels``). ``keras`` runs on what its
backend finds, a GPU where there is one, in any precision (``taesd_core.window_model``). Nothing here starts either,
but for the question whether there is a GPU, and only where something looks like one.
"""

import os
import platform
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Union

from taesd_core.checkpoint import Checkpoint
from taesd_core.quiet_start import quiet_start

if TYPE_CHECKING:
    from taesd_core.kernels.model import KernelModel
    from taesd_core.stage import Output
    from taesd_core.window_model import WindowModel

Engine = Literal["kernels", "keras"]
NAMES: dict[Engine, str] = {"kernels": "kernels for CPUs", "keras": "Keras"}
DEVICES = Path("/dev")
ACCELERATORS = ("nvidia*", "dxg", "kfd", "accel*", "vfio/[0-9]*")
"""What drivers leave there on Linux: NVIDIA's, that of Linux inside Windows, AMD's, TPUs' older and newer ones."""
AMX = frozenset(("amx-bf16",))
"""What multiplies bfloat16 faster than float32: 0.80 against 0.66 Mpx/s, measured on one core that has it. A processor
with AVX512_BF16 alone took 0.77 where the kernels take 0.84; float16 is converted to and fro on any."""
HIDDEN = ("", "-1", "NoDevFiles")
"""What ``CUDA_VISIBLE_DEVICES`` is where somebody wants none to be seen."""


class DeviceMemoryError(MemoryError):
    """The memory of a GPU does not suffice for a window; it may for a smaller one."""


def choose_engine(precision: str) -> Engine:
    """Return the engine that runs a network here in a precision, unless somebody asks for another one."""
    return "keras" if precision != "float32" or has_gpu() else "kernels"


@cache
def has_gpu() -> bool:
    """Tell whether Keras' backend has a GPU. Where there is clearly none, the backend is not asked: it takes seconds.

    Where the backend cannot be started, there is none for it.
    """
    if not may_have_gpu():
        return False
    from taesd_core.quiet_start import quiet_start

    try:
        with quiet_start():
            from taesd_core.compile import is_on_gpu

            return is_on_gpu()
    except ImportError:
        return False


def may_have_gpu() -> bool:
    """Tell whether anything on this machine looks like a GPU that a backend of Keras could use."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in HIDDEN:
        return False
    if sys.platform == "darwin":
        return any(find_spec(name) for name in ("tensorflow-plugins", "tensorflow_metal", "jax_metal", "jax_plugins"))
    if sys.platform == "win32":
        # TensorFlow has had no GPUs there since 2.11.
        return False
    return any(any(DEVICES.glob(name)) for name in ACCELERATORS)


def load_engine(
    engine: Engine, checkpoint: Checkpoint, *, output: "Output" = "float32", precision: str = "float32"
) -> Union["KernelModel", "WindowModel"]:
    """Return an engine for some weights.

    Args:
        engine: which; ``kernels`` compute in float32 whatever ``precision`` is.
        checkpoint: network and weights.
        output: "uint8" or "uint16" for the pixels of a decoder, "float32" for values as they are.
        precision: of weights and maps: "float32", "float16" or "bfloat16".

    Raises:
        ImportError: what it stands on is not installed.
    """
    if engine == "kernels":
        from taesd_core.kernels.model import KernelModel

        return KernelModel(checkpoint.network, checkpoint.tensors, output=output)
    with quiet_start():
        from taesd_core.window_model import WindowModel
    return WindowModel(checkpoint.network, checkpoint.tensors, output=output, dtype=precision)


def tell_precision(precision: str) -> str:
    """Return a line where less precision than float32 makes nothing faster here; none where it does, or may."""
    if precision == "float32" or platform.machine().lower() not in ("x86_64", "amd64") or has_gpu():
        return ""
    if precision == "bfloat16" and find_features() & AMX:
        return ""
    return (
        f"{precision} is no faster than float32 on this processor, where kernels compute float32 exactly; leave "
        "the precision out."
    )


def find_features() -> frozenset[str]:
    """Return what the processor can do, as LLVM names it."""
    from llvmlite import binding

    return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)
