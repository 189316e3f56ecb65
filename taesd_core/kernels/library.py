"""The compiled functions: compiled once per user and processor, kept on disk, loaded in milliseconds after that.

The folder that keeps them is named by a hash of all that they follow from. Processes that compile the same thing at the
same time write the same file, each under another name first.
"""

import hashlib
import os
import platform
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from ctypes import CFUNCTYPE, c_void_p
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock

import llvmlite
from llvmlite import binding, ir

from taesd_core.kernels import direct, pixels, winograd
from taesd_core.kernels.product import define_multiply

FOLDER = "TAESD_TILER_CACHE"
"""The variable that names another folder for compiled functions."""
CPU_NAME, CPU_FEATURES = "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"
"""Variables that name another processor to compile for, as compilers of Python take them: ``haswell``, and
``+avx2,-avx512f,…``."""
FORGOTTEN_SECONDS = 90 * 24 * 3600
"""After how long what nobody has loaded is removed."""
_FILE = "kernels.o"
_SUM_BYTES = hashlib.sha256().digest_size
Function = Callable[..., None]
_lock = Lock()


@cache
def features() -> frozenset[str]:
    """Return what the processor can do, as the compiler names it."""
    said = os.environ.get(CPU_FEATURES)
    if said is None:
        return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)
    return frozenset(name[1:] for name in said.split(",") if name.startswith("+"))


@cache
def lanes() -> int:
    """Return how many float32 a vector of this processor holds."""
    if "avx512f" in features():
        return 16
    return 8 if {"avx2", "fma"} <= features() else 4


def find_user_folder() -> Path:
    """Return where this user's programs keep what can be made again."""
    named = os.environ.get(FOLDER)
    if named:
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or _find_home() / "AppData" / "Local") / "taesd-tiler"
    if sys.platform == "darwin":
        return _find_home() / "Library" / "Caches" / "taesd-tiler"
    return Path(os.environ.get("XDG_CACHE_HOME") or _find_home() / ".cache") / "taesd-tiler"


def _find_home() -> Path:
    """Return the user's folder, or where nothing can be kept for a user who has none."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)


@cache
def find_file() -> Path:
    """Return the file of what is compiled from these sources for this processor."""
    made_of = hashlib.sha256()
    for part in (llvmlite.__version__, platform.machine(), sys.platform, _find_cpu(), *sorted(features())):
        made_of.update(f"{part}\0".encode())
    for source in sorted(files(__package__).iterdir(), key=lambda each: each.name):
        if source.name.endswith(".py"):
            made_of.update(source.read_bytes())
    return find_user_folder() / f"kernels-{made_of.hexdigest()[:16]}" / _FILE


def needs_compiling() -> bool:
    """Say whether the functions will be compiled when they are first used, which takes seconds."""
    return _loaded is None and not find_file().exists()


def load_functions() -> dict[str, Function]:
    """Return all functions by name, compiled now where they have not been before."""
    global _loaded
    with _lock:
        if _loaded is None:
            _loaded = _load()
        return _loaded[1]


_loaded: tuple[binding.ExecutionEngine, dict[str, Function]] | None = None
"""The functions and what owns their memory."""


def _load() -> tuple[binding.ExecutionEngine, dict[str, Function]]:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    code = _read(find_file())
    if code is None:
        code = _compile()
        _keep(code, find_file())
    machine = _make_machine()
    owner = binding.parse_assembly("")
    owner.triple = machine.triple
    engine = binding.create_mcjit_compiler(owner, machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    functions: dict[str, Function] = {}
    for name, n_arguments in _ARGUMENTS.items():
        # ctypes gives the lock of the interpreter back while they run.
        functions[name] = CFUNCTYPE(None, *[c_void_p] * n_arguments)(engine.get_function_address(name))
    return engine, functions


_ARGUMENTS = {
    **dict.fromkeys(("winograd", "winograd_relu", "winograd_skip_relu", "winograd_doubled"), 8),
    **dict.fromkeys(("direct", "direct_relu", "direct_skip"), 8),
    "sum_channels": 5, "clamp": 2, "to_uint8": 3, "to_uint16": 3, "to_float32": 3,
}  # fmt: skip
"""How many arguments each function takes."""


def define_all(n_lanes: int) -> ir.Module:
    """Return a module of all functions, for vectors of so many float32."""
    module = ir.Module("kernels")
    multiply = define_multiply(module, n_lanes)
    for doubled, skip, relu in ((0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 0, 0)):
        winograd.define_winograd(module, multiply, n_lanes, doubled=bool(doubled), skip=bool(skip), relu=bool(relu))
    for skip, relu in ((0, 0), (0, 1), (1, 0)):
        direct.define_direct(module, multiply, n_lanes, skip=bool(skip), relu=bool(relu))
    direct.define_sum_channels(module, n_lanes)
    pixels.define_clamp(module, n_lanes)
    for kind in pixels.KINDS:
        pixels.define_to_pixels(module, kind, n_lanes)
    return module


def _find_cpu() -> str:
    return os.environ.get(CPU_NAME) or binding.get_host_cpu_name()


def _make_machine() -> binding.TargetMachine:
    said = os.environ.get(CPU_FEATURES)
    flags = binding.get_host_cpu_features().flatten() if said is None else said
    return binding.Target.from_default_triple().create_target_machine(_find_cpu(), flags, opt=3, jit=True)


def _compile() -> bytes:
    machine = _make_machine()
    module = binding.parse_assembly(str(define_all(lanes())))
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    module.verify()
    options = binding.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = False
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    return bytes(machine.emit_object(module))


def _read(file: Path) -> bytes | None:
    """Return what was compiled before, or None where it is not there or damaged."""
    try:
        kept = file.read_bytes()
    except OSError:
        return None
    code = kept[_SUM_BYTES:]
    if hashlib.sha256(code).digest() != kept[:_SUM_BYTES]:
        return None
    with suppress(OSError):
        os.utime(file)
    return code


def _keep(code: bytes, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=file.parent, delete=False) as new:
            new.write(hashlib.sha256(code).digest() + code)
        os.replace(new.name, file)
    except OSError as error:
        warnings.warn(
            f"Compiled functions cannot be kept: folder={file.parent} ({error.strerror}). They are compiled anew in "
            f"each process; name a folder that can be written in {FOLDER}.",
            RuntimeWarning,
            stacklevel=2,
        )
        return
    for other in file.parent.parent.glob(f"kernels-*/{_FILE}"):
        with suppress(OSError):
            if time.time() - other.stat().st_mtime > FORGOTTEN_SECONDS:
                shutil.rmtree(other.parent)
