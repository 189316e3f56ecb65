"""Starting Keras' backend without the lines that it writes to a terminal by itself."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
