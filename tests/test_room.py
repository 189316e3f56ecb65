"""Too little disk or memory is found before any work, with both numbers, and `force` goes ahead."""

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from small_job import KINDS, CountingModel, make_job, read_result

from tiler import memory
from tiler.errors import RefusedError, TileError
from tiler.formats.encoded_sink import EncodedSink
from tiler.jobs import room
from tiler.jobs.job import run_job
from tiler.jobs.journal_file import find_journal

ROOT = Path(__file__).parents[1]
every_kind = pytest.mark.parametrize("kind", KINDS)
Usage = namedtuple("Usage", "total used free")


def set_free(monkeypatch, n_bytes):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**12, 10**12 - n_bytes, n_bytes))


@every_kind
def test_a_disk_that_may_be_too_small_is_refused_with_both_numbers(tmp_path, monkeypatch, kind):
    job = make_job(tmp_path, kind)
    set_free(monkeypatch, job.output.most_bytes - 1)
    with pytest.raises(RefusedError, match=r"needed=\d+ kB at most, free=\d+ kB.*force=True") as caught:
        run_job(job)
    assert caught.value.exit_code == 5
    assert not list(tmp_path.iterdir())
    run_job(make_job(tmp_path, kind, force=True))
    job.output.path.unlink()
    set_free(monkeypatch, job.output.most_bytes)
    run_job(job)


@every_kind
def test_no_file_is_larger_than_predicted(tmp_path, kind):
    """Noise, which nothing compresses; a prediction of twice as much would refuse what fits."""

    class NoiseModel(CountingModel):
        def __call__(self, window, *place):
            pixels = super().__call__(window, *place)
            return np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)

    job = make_job(tmp_path, kind, NoiseModel(), height=64, width=64)
    run_job(job)
    most = job.output.most_bytes
    assert 0.5 * most < job.output.path.stat().st_size <= most


@every_kind
def test_what_is_finished_needs_no_space_again(tmp_path, monkeypatch, kind):
    def fail(number):
        if number == 9:
            raise ZeroDivisionError

    with pytest.raises(TileError):
        run_job(make_job(tmp_path, kind, CountingModel(fail)))
    job = make_job(tmp_path, kind, resume=True)
    # A .npy file has all of its space from the start, but what is reckoned for its header.
    needed = 1000 if kind == "npy" else job.output.most_bytes // 4
    if kind != "npy":
        set_free(monkeypatch, needed - 1)
        with pytest.raises(RefusedError):
            run_job(job)
        assert find_journal(job.output.path).exists()
    set_free(monkeypatch, needed)
    assert run_job(job).n_resumed == 9


@pytest.mark.parametrize("n_left", [0, 1])
@pytest.mark.parametrize("kind", ["png", "latents"])
def test_what_is_encoded_at_the_end_needs_space_however_few_tiles_are_left(tmp_path, monkeypatch, kind, n_left):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(EncodedSink, "complete", fail)
        n_tiles = make_job(tmp_path, kind).plan.n_tiles
        model = CountingModel(lambda number: number < n_tiles - n_left or fail())
        with pytest.raises((OSError, TileError)) as caught:
            run_job(make_job(tmp_path, kind, model))
    assert caught.value.__notes__ == [f"{n_tiles - n_left} of {n_tiles} tiles are finished and kept."]
    job = make_job(tmp_path, kind, resume=True)
    # The array has all of its space from the start, and the encoded file has as many bytes.
    array_bytes = job.output.path.with_name(job.output.path.name + ".part").stat().st_size
    set_free(monkeypatch, array_bytes - 1)
    with pytest.raises(RefusedError):
        run_job(job)
    set_free(monkeypatch, int(1.1 * array_bytes) + 21_000)
    assert run_job(job).n_resumed == n_tiles - n_left


@every_kind
def test_starting_over_counts_what_it_gives_back(tmp_path, monkeypatch, kind):
    def fail(number):
        if number == 11:
            raise ZeroDivisionError

    with pytest.raises(TileError):
        run_job(make_job(tmp_path, kind, CountingModel(fail)))
    job = make_job(tmp_path, kind, overwrite=True)
    part = job.output.path.with_name(job.output.path.name + ".part")
    set_free(monkeypatch, max(0, job.output.most_bytes - part.stat().st_blocks * 512))
    run_job(job)


def test_refused_before_starting_over_the_half_done_job_is_intact(tmp_path, monkeypatch):
    def fail(number):
        if number == 9:
            raise ZeroDivisionError

    with pytest.raises(TileError):
        run_job(make_job(tmp_path, "deflate", CountingModel(fail)))
    set_free(monkeypatch, 0)
    with pytest.raises(RefusedError):
        run_job(make_job(tmp_path, "deflate", overwrite=True))
    monkeypatch.undo()
    assert run_job(make_job(tmp_path, "deflate", resume=True)).n_resumed == 9


def test_a_file_system_without_a_size_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, 0))
    run_job(make_job(tmp_path, "npy"))


def test_too_little_memory_is_refused_with_both_numbers(tmp_path, monkeypatch):
    job = make_job(tmp_path, "npy")
    monkeypatch.setattr(room, "find_memory", lambda: job.plan.peak_bytes - 1)
    with pytest.raises(
        RefusedError, match=r"needed=\S+ [MG]B as predicted, available=\S+ [MG]B.*tile_size_px=.*force=True"
    ):
        run_job(job)
    assert not list(tmp_path.iterdir())
    run_job(make_job(tmp_path, "npy", force=True))


MEMINFO = "MemTotal: 64000000 kB\nMemFree: 5 kB\nMemAvailable:   2000000 kB\n"


@pytest.mark.parametrize(
    ("limit", "current", "inactive", "expected"),
    [("max", 0, 0, 2_048_000_000), (10**9, 4 * 10**8, 10**8, 7 * 10**8), (10**12, 0, 0, 2_048_000_000)],
    ids=["no limit", "a smaller limit", "a larger limit"],
)
def test_memory_is_the_least_of_the_machine_s_and_the_container_s(monkeypatch, limit, current, inactive, expected):
    texts = {
        "/proc/meminfo": MEMINFO,
        "/sys/fs/cgroup/memory.max": f"{limit}\n",
        "/sys/fs/cgroup/memory.current": f"{current}\n",
        "/sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {inactive}\n",
        "/proc/self/statm": "0 0 0",
    }
    monkeypatch.setattr(Path, "read_text", lambda path: texts[str(path)])
    assert memory.find_memory() == expected


def test_a_system_that_tells_nothing_refuses_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError

    monkeypatch.setattr(Path, "read_text", fail)
    monkeypatch.setattr(os, "sysconf", fail)
    assert memory.find_memory() is None
    room.check_memory(2**60)


# -- a disk that is full all the same

SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from conftest import RepeatModel
from tiler import models
from tiler.command import cli
from tiler.jobs import notes
notes.SYNC_SECONDS = 0
models.load_model = lambda *_: RepeatModel()
cli.main(sys.argv[1:])
"""


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of so many bytes; where none may be mounted, skip."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root mounts file systems")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def run_command(folder, words, limit_bytes=None):
    def limit():
        # Python ignores SIGXFSZ, so a write beyond it fails, as on a full disk.
        if limit_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))

    script = SCRIPT.format(root=str(ROOT), tests=str(ROOT / "tests"))
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, preexec_fn=limit)


@pytest.mark.parametrize(
    "compression", [*(pytest.param(each, marks=pytest.mark.slow) for each in ("deflate", "none")), "jpeg"]
)
@pytest.mark.parametrize("how", ["a full disk", "a limit"])
def test_a_full_disk_on_the_way_is_exit_code_6_and_the_job_goes_on_after_freeing(tmp_path, compression, how):
    noise = np.random.default_rng(0).normal(size=(64, 64, 4)).astype(np.float32)
    np.save(tmp_path / "latents.npy", noise)
    disk = tmp_path / "disk"
    options = ["--weights", "photo", "--tile-size", "64", "--compression", compression]
    (tmp_path / "whole").mkdir()
    assert run_command(tmp_path, ["decode", "latents.npy", "whole/image.tif", *options]).returncode == 0
    whole = read_result(tmp_path / "whole" / "image.tif")
    size = (tmp_path / "whole" / "image.tif").stat().st_size
    with contextlib.ExitStack() as stack:
        if how == "a full disk":
            # Half of it is taken by something else.
            stack.enter_context(small_disk(disk, 2 * size + 400_000))
            (disk / "other").write_bytes(bytes(int(1.5 * size) + 400_000))
        else:
            disk.mkdir()
        words = ["decode", "latents.npy", disk / "image.tif", *options]
        if how == "a full disk":
            refused = run_command(tmp_path, words)
            assert (refused.returncode, os.listdir(disk)) == (5, ["other"])
        failed = run_command(tmp_path, [*words, "--force"], None if how == "a full disk" else size // 2)
        assert (failed.returncode, failed.stdout) == (6, "")
        begun, line = failed.stderr.splitlines()
        assert begun.startswith("Decoding to ")
        assert ("No space left on device" if how == "a full disk" else "File too large") in line
        n_kept = int(
            line.split(" of 64 tiles are finished and kept. Go on with: tiler decode latents.npy")[0].split()[-1]
        )
        assert line.endswith("--force --resume")
        assert 10 < n_kept < 60
        assert not (disk / "image.tif").exists()
        if how == "a full disk":
            again = run_command(tmp_path, [*words, "--force", "--resume"])
            assert again.returncode == 6  # still full, and still nothing is lost
            (disk / "other").unlink()
        done = run_command(tmp_path, [*words, "--force", "--resume"])
        assert done.returncode == 0, done.stderr
        assert f"64 tiles, {n_kept}" in done.stdout or how == "a full disk"
        assert read_result(disk / "image.tif") == whole
        assert os.listdir(disk) == ["image.tif"]


def test_a_npy_file_finds_the_full_disk_when_it_is_opened(tmp_path):
    noise = np.zeros((64, 64, 4), np.float32)
    np.save(tmp_path / "latents.npy", noise)
    words = ["decode", "latents.npy", "disk/image.npy", "--weights", "photo", "--force"]
    with small_disk(tmp_path / "disk", 500_000):
        failed = run_command(tmp_path, words)
        assert failed.returncode == 6
        assert "No space left on device: path=disk/image.npy.part" in failed.stderr
        assert not os.listdir(tmp_path / "disk")
