"""Compiled functions on disk: found again, made anew when anything changed, whole whoever writes them."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from ctypes import c_int64
from pathlib import Path

import numpy as np
import pytest

import taesd_core
from taesd_core.kernels import library

CLAMP = (
    "import hashlib, numpy as np\n"
    "from ctypes import c_int64\n"
    "from taesd_core.kernels.library import find_file, load_functions\n"
    "x = np.linspace(-9, 9, 64).astype('f4')\n"
    "load_functions()['clamp'](x.ctypes.data, (c_int64 * 2)(0, x.size))\n"
    "print(hashlib.sha256(x.tobytes()).hexdigest(), find_file())\n"
)


def clamp():
    x = np.linspace(-9, 9, 64).astype("f4")
    library.load_functions()["clamp"](x.ctypes.data, (c_int64 * 2)(0, x.size))
    return hashlib.sha256(x.tobytes()).hexdigest()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return an empty folder for compiled functions, as a process finds it that has loaded none."""
    monkeypatch.setenv(library.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(library, "_loaded", None)
    library.find_file.cache_clear()
    yield tmp_path / "cache"
    library.find_file.cache_clear()


def start(folder):
    environment = os.environ | {library.FOLDER: str(folder)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CLAMP], env=environment, stdout=subprocess.PIPE, text=True, cwd=folder
    )


def test_functions_are_compiled_once(folder, monkeypatch):
    assert library.needs_compiling()
    first = clamp()
    assert not library.needs_compiling()
    monkeypatch.setattr(library, "_loaded", None)
    assert not library.needs_compiling()
    monkeypatch.setattr(library, "_compile", lambda: pytest.fail("They were compiled before."))
    assert clamp() == first
    assert [path.relative_to(folder).parts[1:] for path in folder.rglob("*") if path.is_file()] == [("kernels.o",)]


def test_what_is_damaged_is_compiled_again(folder, monkeypatch):
    first = clamp()
    kept = library.find_file().read_bytes()
    for damaged in (kept[:-1], kept[:100], b"", kept[:-9] + bytes(9)):
        library.find_file().write_bytes(damaged)
        monkeypatch.setattr(library, "_loaded", None)
        monkeypatch.setattr(library, "_compile", lambda: kept[library._SUM_BYTES :])
        assert clamp() == first
        assert library.find_file().read_bytes() == kept


def test_a_folder_that_cannot_be_written_costs_a_line(folder, tmp_path):
    folder.write_text("no folder")
    with pytest.warns(RuntimeWarning, match=f"cannot be kept: folder={folder}.*{library.FOLDER}") as warned:
        digest = clamp()
    assert len(warned) == 1
    assert folder.read_text() == "no folder"
    assert clamp() == digest


def test_a_user_without_a_folder_costs_a_line_too(folder, monkeypatch):
    monkeypatch.delenv(library.FOLDER)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home.")))
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        clamp()


def test_what_nobody_has_loaded_for_long_is_removed(folder):
    now = time.time()
    for name, days in (("kernels-old", 91), ("kernels-new", 89)):
        (folder / name).mkdir(parents=True)
        (folder / name / "kernels.o").write_bytes(b"")
        os.utime(folder / name / "kernels.o", (now - days * 86400,) * 2)
    clamp()
    assert sorted(each.name for each in folder.iterdir()) == sorted(["kernels-new", library.find_file().parent.name])


@pytest.mark.parametrize("name", ["transforms.py", "product.py"])
def test_a_function_that_changed_in_any_file_is_compiled_again(tmp_path, name):
    root = tmp_path / "changed"
    shutil.copytree(Path(taesd_core.__file__).parent, root / "taesd_core", ignore=shutil.ignore_patterns("weights"))
    program = "from taesd_core.kernels import library; print(library.find_file())"

    def find():
        environment = os.environ | {"PYTHONPATH": str(root)}
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    first = find()
    assert find() == first
    with (root / "taesd_core" / "kernels" / name).open("a") as source:
        source.write("\n")
    assert find() != first


@pytest.mark.slow  # compiles ten times
def test_ten_processes_that_start_together_find_the_same_functions(tmp_path):
    started = [start(tmp_path) for _ in range(10)]
    found = [each.communicate()[0] for each in started]
    assert [each.returncode for each in started] == [0] * 10
    assert len(set(found)) == 1
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["kernels.o"]
    digest, _ = found[0].split()
    assert start(tmp_path).communicate()[0].split()[0] == digest == clamp()
