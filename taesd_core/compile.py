"""Compiled steps: the one file that knows the backend of Keras.

A stage is traced once per combination of borders that occurs, at most nine times for a large image, when it occurs.
On TensorFlow height and width stay free, so no further tracing happens for other sizes.
"""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import keras

from taesd_core.network import STREAMS

if TYPE_CHECKING:
    from taesd_core.fixed_stage import FixedStageModel
    from taesd_core.stage import Borders, StageModel

BACKENDS = ("tensorflow", "jax")
Tensor = Any
CompiledStage = Callable[..., tuple[Tensor, Tensor]]
"""``program(x, borders, *norms)``: what ``StageModel.call`` gives."""
CompiledFixedStage = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""``program(x, lengths)``: what ``FixedStageModel.call`` gives."""


class Execution(NamedTuple):
    """How the pieces of a stage are run; see examples/benchmarks/README.md for the measurements."""

    streams: int
    """Pieces at a time."""
    in_pieces: bool
    """Whether a stage is cut into pieces at all, and programs of fixed size are worth compiling."""


def choose_execution() -> Execution:
    """Return what suits the device: on a CPU pieces that fit its cache, on a GPU whole stages, which fill it best.

    On a CPU two pieces at a time keep all cores busy: while one copies or waits for its last thread, the other
    computes.
    """
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise ImportError(f"No compiled steps for this backend: KERAS_BACKEND={backend}. Use {' or '.join(BACKENDS)}.")
    if backend == "tensorflow":
        import tensorflow as tf

        on_cpu = not tf.config.list_logical_devices("GPU")
    else:
        import jax

        on_cpu = jax.default_backend() == "cpu"
    return Execution(streams=STREAMS if on_cpu else 1, in_pieces=on_cpu)


def compile_stage(stage: "StageModel", channels: int, dtype: str) -> CompiledStage:
    """Return ``stage`` as a compiled function of (1, height, width, channels) maps and their borders."""
    if keras.backend.backend() == "tensorflow":
        program = _tensorflow_program(stage, channels, dtype)
    else:
        program = _jax_program(stage)
    return lambda x, borders, *norms: program(borders)(x, *norms)


def compile_fixed_stage(stage: "FixedStageModel", shape: tuple[int, int, int]) -> CompiledFixedStage:
    """Return ``stage`` as a compiled function of (1, *shape) maps and (2,) int32 lengths."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        keep_float32()
        run = tf.function(lambda x, lengths: stage(x, lengths), autograph=False)
        return run.get_concrete_function(tf.TensorSpec((1, *shape)), tf.TensorSpec((2,), "int32"))
    return _jax_function(stage)


def compile_whole(model: keras.Model) -> Callable[[Tensor], Tensor]:
    """Return a plain model as a compiled function of (batch, height, width, channels) maps of any size.

    Keras' own ``predict`` compiles each size anew, and TensorFlow warns of that.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(model, autograph=False).get_concrete_function(tf.TensorSpec(model.input_shape))
    return model.predict_on_batch


def fuse(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile what lies between two convolutions into loops, one after another, that keep what they can in registers.

    The convolutions stay out of it: TensorFlow's own are faster than those that its compiler makes.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True, autograph=False)
    return function


def keep_float32() -> None:
    """Make a float32 product one of float32: no 10-bit mantissas on GPUs that have them."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
    elif keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")


def _tensorflow_program(stage: "StageModel", channels: int, dtype: str) -> Callable[["Borders"], Any]:
    import tensorflow as tf

    keep_float32()
    shapes = [tf.TensorSpec((1, None, None, channels), dtype)]
    shapes += [tf.TensorSpec(shape, "float32") for shape in stage.norm_shapes]

    @cache
    def program(borders: "Borders") -> Any:
        # The concrete function: its calls need not ask again whether they must trace.
        run = tf.function(lambda x, *norms: stage(x, norms, borders=borders), autograph=False)
        return run.get_concrete_function(*shapes)

    return program


def _jax_program(stage: "StageModel") -> Callable[["Borders"], Any]:
    @cache
    def program(borders: "Borders") -> Any:
        run = _jax_function(stage, borders=borders)
        return lambda x, *norms: run(x, norms)

    return program


def _jax_function(stage: keras.layers.Layer, **constants: Any) -> Callable[..., Any]:
    import jax

    keep_float32()
    # It has made its variables when it was made; Keras would rather see it called once.
    stage.built = True
    variables = [variable.value for variable in stage.variables]

    def run(variables: list[Any], *arguments: Any) -> Tensor:
        outputs, _ = stage.stateless_call(variables, [], *arguments, **constants)
        return outputs

    compiled = jax.jit(run)
    return lambda *arguments: compiled(variables, *arguments)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether a backend's error means that the device's memory did not suffice."""
    return type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error)
