"""Compiled steps: the one file that knows the backend of Keras.

A stage is traced once per combination of borders that occurs, at most nine times for a large image, when it occurs.
On TensorFlow height and width stay free, so no further tracing happens for other sizes.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import keras

from taesd_core.network import STREAMS
from taesd_core.stage import Borders, StageModel, Tensor

CompiledStage = Callable[..., Tensor]
"""``program(x, borders, *norms)``: what ``StageModel.call`` gives."""


class Execution(NamedTuple):
    """How the pieces of a stage are run; see examples/benchmarks/README.md for the measurements."""

    streams: int
    """Pieces at a time."""
    in_pieces: bool
    """Whether a stage is cut into pieces at all."""


def choose_execution() -> Execution:
    """Return what suits the device: on a CPU pieces that fit its cache, on a GPU whole stages, which fill it best.

    On a CPU two pieces at a time keep all cores busy: while one copies or waits for its last thread, the other
    computes.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        on_cpu = not tf.config.list_logical_devices("GPU")
    else:
        import jax

        on_cpu = jax.default_backend() == "cpu"
    return Execution(streams=STREAMS if on_cpu else 1, in_pieces=on_cpu)


def compile_stage(stage: StageModel, channels: int, dtype: str) -> CompiledStage:
    """Return ``stage`` as a compiled function of (1, height, width, channels) maps and their borders."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        program = _tensorflow_program(stage, channels, dtype)
    elif backend == "jax":
        program = _jax_program(stage)
    else:
        raise ValueError(f"No compiled steps for this backend: KERAS_BACKEND={backend}. Use tensorflow or jax.")
    return lambda x, borders, *norms: program(borders)(x, *norms)


def keep_float32() -> None:
    """Make a float32 product one of float32: no 10-bit mantissas on GPUs that have them."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
    elif keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")


def _tensorflow_program(stage: StageModel, channels: int, dtype: str) -> Callable[[Borders], Any]:
    import tensorflow as tf

    keep_float32()
    shapes = [tf.TensorSpec((1, None, None, channels), dtype)]
    shapes += [tf.TensorSpec(shape, "float32") for shape in stage.norm_shapes]

    @cache
    def program(borders: Borders) -> Any:
        # The concrete function: its calls need not ask again whether they must trace.
        run = tf.function(lambda x, *norms: stage(x, norms, borders=borders), autograph=False)
        return run.get_concrete_function(*shapes)

    return program


def _jax_program(stage: StageModel) -> Callable[[Borders], Any]:
    import jax

    keep_float32()
    # It has made its variables when it was made; Keras would rather see it called once.
    stage.built = True
    variables = [variable.value for variable in stage.variables]

    @cache
    def program(borders: Borders) -> Any:
        def run(variables: list[Any], x: Tensor, norms: tuple[Tensor, ...]) -> Tensor:
            outputs, _ = stage.stateless_call(variables, [], x, norms, borders=borders)
            return outputs

        compiled = jax.jit(run)
        return lambda x, *norms: compiled(variables, x, norms)

    return program


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether a backend's error means that the device's memory did not suffice."""
    return type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error)
