"""Loading a model: the weights, then Keras, then the two together."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from taesd_core.checkpoint import Part, load_checkpoint

if TYPE_CHECKING:
    from taesd_core.stage import Output
    from taesd_core.window_model import WindowModel


def load_window_model(
    path: str | os.PathLike[str], part: Part, *, output: "Output" = "float32", dtype: str = "float32"
) -> "WindowModel":
    """Load the exact model of a checkpoint.

    Args:
        path: a ``.safetensors`` file.
        part: "decoder" or "encoder".
        output: what it gives: "uint8" or "uint16" pixels, or "float32" values as they are.
        dtype: of weights and maps, "float32", "float16" or "bfloat16".

    Raises:
        CheckpointError: the file does not hold such weights.
        OSError: the file cannot be read.
    """
    checkpoint = load_checkpoint(path, part)
    with quiet_start():
        from taesd_core.window_model import WindowModel
    return WindowModel(checkpoint.network, checkpoint.tensors, output=output, dtype=dtype)


@contextmanager
def quiet_start() -> Iterator[None]:
    """Keep off the terminal what TensorFlow tells of CPUs and missing GPUs when it starts.

    It writes to file descriptor 2 before it has read any setting, so the descriptor itself is turned away meanwhile.
    Whoever sets TF_CPP_MIN_LOG_LEVEL wants to read it, and does. Errors come as exceptions all the same.
    """
    # Without standard error, descriptor 2 may be any file.
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ or "tensorflow" in sys.modules or sys.stderr is None:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
