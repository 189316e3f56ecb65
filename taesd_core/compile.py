"""Compiled steps: the one file that knows the backend of Keras.

A stage is traced once per combination of borders that occurs, at most nine times for a large image, when it occurs.
On TensorFlow height and width stay free, so no further tracing happens for other sizes.
"""

from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from taesd_core.stage import Borders, StageModel

BACKENDS = ("tensorflow", "jax")
Tensor = Any
CompiledStage = Callable[..., tuple[Tensor, Tensor]]
"""``program(x, borders, *norms)``: what ``StageModel.call`` gives."""


def check_backend() -> None:
    """Refuse a backend of Keras that nothing here is compiled by.

    Raises:
        ImportError: it is one.
    """
    if (backend := keras.backend.backend()) not in BACKENDS:
        raise ImportError(f"No compiled steps for this backend: KERAS_BACKEND={backend}. Use {' or '.join(BACKENDS)}.")


def is_on_gpu() -> bool:
    """Tell whether the backend has something better than the CPU, which it then uses.

    Raises:
        ImportError: it is not installed, or nothing here is compiled by it.
    """
    check_backend()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    import jax

    return jax.default_backend() != "cpu"


def compile_stage(stage: "StageModel", channels: int, dtype: str) -> CompiledStage:
    """Return ``stage`` as a compiled function of (1, height, width, channels) maps and their borders."""
    if keras.backend.backend() == "tensorflow":
        program = _tensorflow_program(stage, channels, dtype)
    else:
        program = _jax_program(stage)
    return lambda x, borders, *norms: program(borders)(x, *norms)


def compile_window(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of maps that runs compiled stages one after another, as few programs as the backend allows.

    JAX compiles for each size of a map anyway, and so can have it all in one: what lies between two stages is no
    program of its own, and the weights are constants in the order that its convolutions want. TensorFlow's stages are
    for any size, and stay as they are.
    """
    if keras.backend.backend() == "tensorflow":
        return function
    import jax

    programs: dict[tuple[Any, ...], Any] = {}
    compiling = Lock()

    def run(*maps: Tensor) -> Any:
        shapes = tuple(each.shape for each in maps)
        # Threads that come at the same time would each compile it, and try its convolutions on the same device.
        with compiling:
            if shapes not in programs:
                programs[shapes] = jax.jit(function).lower(*maps).compile()
        return programs[shapes](*maps)

    return run


def to_host(x: Tensor) -> NDArray[Any]:
    """Return a map as NumPy has it, copied once at most."""
    # Keras would copy it once more.
    return np.asarray(x)


def compile_whole(model: keras.Model) -> Callable[[Tensor], Tensor]:
    """Return a plain model as a compiled function of (batch, height, width, channels) maps of any size.

    Keras' own ``predict`` compiles each size anew, and TensorFlow warns of that.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(model, autograph=False).get_concrete_function(tf.TensorSpec(model.input_shape))
    return model.predict_on_batch


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
