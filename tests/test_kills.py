"""Killed at random moments and run again, a job ends as if nothing had happened, and loses little."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_job import read_result

from tiler.jobs.journal_file import find_journal
from tiler.jobs.journal_lines import parse

ROOT = Path(__file__).parents[1]

JOB = """
import os, sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from conftest import RepeatModel
from tiler import models
from tiler.command import cli
from tiler.jobs import notes
notes.SYNC_SECONDS = {sync_seconds}
calls = os.open({calls!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

class SlowModel(RepeatModel):
    def __call__(self, window, *place):
        os.write(calls, b".")
        time.sleep({seconds})
        return super().__call__(window, *place)

models.load_model = lambda *_: SlowModel()
cli.main(sys.argv[1:])
"""


class SlowJob:
    """A command line with a stand-in decoder that takes its time, and counts the tiles that it begins."""

    def __init__(self, folder, output, *options, n_rows=8, n_columns=8, seconds=0.01, sync_seconds=0.1):
        self.folder, self.output, self.n_tiles = folder, folder / output, n_rows * n_columns
        self.calls = folder / "calls"
        self.calls.touch()
        latents = np.random.default_rng(0).normal(size=(n_rows * 8 - 3, n_columns * 8 - 5, 4)).astype(np.float32)
        np.save(folder / "latents.npy", latents)
        words = [folder / "latents.npy", self.output, "--weights", "photo", "--tile-size", "64", "--workers", "4"]
        self.words = ["decode", *map(str, words), *options]
        self.script = JOB.format(
            root=str(ROOT), tests=str(ROOT / "tests"), calls=str(self.calls), seconds=seconds, sync_seconds=sync_seconds
        )

    def start(self, *options):
        command = [sys.executable, "-c", self.script, *self.words, *options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder)

    @property
    def n_calls(self):
        return self.calls.stat().st_size

    @property
    def n_noted(self):
        """Tiles that the journal says are finished."""
        journal = find_journal(self.output)
        return sum(each[0] == 0 for each in parse(journal.read_bytes())[1]) if journal.exists() else 0

    def run(self, *options):
        with self.start(*options) as process:
            out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out

    def wait_for_calls(self, n_calls, process):
        """Wait until it has begun so many more tiles, or has ended."""
        goal = self.n_calls + n_calls
        while self.n_calls < goal and process.poll() is None:
            time.sleep(0.002)


OPTIONS = ["--file-tile", "32"]
CASES = {
    "npy": ("image.npy", []),
    "deflate": ("image.tif", OPTIONS),
    "none": ("image.tif", [*OPTIONS, "--compression", "none"]),
    "jpeg": ("image.tif", [*OPTIONS, "--compression", "jpeg"]),
    "zarr": ("image.zarr", OPTIONS),
}


def kill_and_resume(tmp_path, kind, n_kills, seed, **sizes):
    """Kill a job so many times; return what it cost in tiles, and in seconds."""
    name, options = CASES[kind]
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    never_killed = SlowJob(tmp_path / "whole", name, *options, **(sizes | {"seconds": 0}))
    never_killed.run()
    whole = read_result(never_killed.output)
    assert never_killed.n_calls == never_killed.n_tiles

    job = SlowJob(tmp_path / "killed", name, *options, **sizes)
    chance = random.Random(seed)
    n_done = lost = 0
    n_killed = 0
    while n_killed < n_kills:
        before = job.n_calls
        with job.start("--resume") as process:
            # At any moment: as the first tile begins, in between two, and while files are opened and lines written.
            job.wait_for_calls(chance.randrange(job.n_tiles // n_kills), process)
            time.sleep(chance.random() * 0.03)
            process.send_signal(signal.SIGKILL)
            process.wait()
        if process.returncode != -signal.SIGKILL:
            raise AssertionError(f"It was complete before the kill {n_killed}: {process.stderr.read()}")
        n_killed += 1
        assert not job.output.exists()
        # What the journal told of is never lost; what this run began and did not note is.
        assert job.n_noted >= n_done
        lost += job.n_calls - before - (job.n_noted - n_done)
        n_done = job.n_noted
    assert f"{n_done} of them finished before" in job.run("--resume")
    assert read_result(job.output) == whole
    assert sorted(path.name for path in job.folder.iterdir()) == sorted(["calls", "latents.npy", name])
    assert job.n_calls == job.n_tiles + lost
    return job, lost


@pytest.mark.parametrize("kind", [pytest.param("npy", marks=pytest.mark.slow), "deflate", "jpeg"])
def test_killed_and_resumed_it_is_what_it_would_have_been(tmp_path, kind):
    # Each kill costs what is in flight (4 workers, 1 decoded and 3 before or behind that) and what came after the last
    # sync: 0.1 s, of 30 ms a tile, and the tile at which that is seen.
    n_kills = 4
    _, lost = kill_and_resume(tmp_path, kind, n_kills, seed=1, n_rows=5, n_columns=7, seconds=0.03)
    assert lost <= n_kills * (4 + 0.1 / 0.03 + 4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_killed_thirty_times_it_is_what_it_would_have_been(tmp_path, kind, capsys):
    n_kills = 30
    started = time.monotonic()
    job, lost = kill_and_resume(tmp_path, kind, n_kills, seed=2, n_rows=16, n_columns=16, seconds=0.03)
    assert lost <= n_kills * (4 + 0.1 / 0.03 + 4)
    with capsys.disabled():
        print(
            f"\n{kind}: {n_kills} kills, {job.n_tiles} tiles, {job.n_calls} decoded: {lost / n_kills:.1f} lost a kill; "
            f"{time.monotonic() - started:.0f} s"
        )


# -- stopped


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_stops_in_order_and_says_how_to_go_on(tmp_path, number):
    job = SlowJob(tmp_path, "image.tif", "--file-tile", "32", seconds=0.4, sync_seconds=60, n_rows=3)
    with job.start() as process:
        job.wait_for_calls(3, process)
        started = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    # One tile is in the decoder, three wait for it, and what waits is not begun.
    assert time.monotonic() - started < 1.2
    assert (process.returncode, out) == (130, "")
    assert job.n_calls <= 4
    begun, *lines = [line for line in err.splitlines() if line]
    assert begun.startswith("Decoding to ")
    assert lines[0] == "Stopping when the tiles in flight are finished; once more stops at once."
    assert lines[1].startswith(
        f"tiler: interrupted. {job.n_calls} of 24 tiles are finished and kept. Go on with: tiler "
    )
    assert lines[1].endswith(" --resume")
    assert len(lines) == 2
    # All that it began it finished and noted, though no sync was due.
    assert job.n_noted == job.n_calls
    assert "24 tiles, " in job.run("--resume")
    assert job.n_calls == job.n_tiles


def test_what_was_damaged_meanwhile_is_made_again_and_said(tmp_path):
    """Four bytes, as in the report: they were other pixels, and exit code 0."""
    for folder in ("whole", "stopped"):
        (tmp_path / folder).mkdir()
    whole = SlowJob(tmp_path / "whole", "image.tif", "--file-tile", "32", seconds=0, n_rows=2, n_columns=4)
    whole.run()
    job = SlowJob(tmp_path / "stopped", "image.tif", "--file-tile", "32", seconds=0.2, n_rows=2, n_columns=4)
    with job.start() as process:
        job.wait_for_calls(4, process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    n_noted = job.n_noted
    tile = next(each for each in parse(find_journal(job.output).read_bytes())[1] if each[0] == 0)
    with open(f"{job.output}.part", "r+b") as file:
        file.seek(tile[3][1] + 40)
        file.write(b"four")
    out = job.run("--resume")
    assert f"8 tiles, {n_noted - 1} of them finished before," in out
    assert "\nFound damaged in what was half done, and made again: 1 tile\n" in out
    assert read_result(job.output) == read_result(whole.output)


def test_a_second_signal_stops_at_once_and_the_job_still_goes_on(tmp_path):
    job = SlowJob(tmp_path, "image.npy", seconds=0.5, sync_seconds=0, n_rows=1, n_columns=6)
    with job.start() as process:
        job.wait_for_calls(3, process)
        process.send_signal(signal.SIGINT)
        # Behind what is begun, and the end of a line that may have been under way.
        assert "Stopping" in "".join(process.stderr.readline() for _ in range(3))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.strip().endswith("--resume")
    # The third tile was in flight, and is not waited for; a busy machine may not have noted the second yet.
    n_noted = job.n_noted
    assert 1 <= n_noted <= 2
    job.run("--resume")
    assert job.n_calls == job.n_tiles + 3 - n_noted


def test_a_stop_before_the_first_tile_leaves_nothing(tmp_path):
    job = SlowJob(tmp_path, "image.npy", seconds=30)
    with job.start() as process:
        while not find_journal(job.output).exists():
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)  # where a tile had begun, for that takes long
        process.communicate(timeout=20)
    assert process.returncode == 130
    assert not job.output.exists()
    assert job.n_noted == 0


# -- with the decoder itself


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "jpeg"])
def test_the_decoder_itself_killed_and_resumed(tmp_path, kind, capsys):
    name, options = CASES[kind]
    np.save(tmp_path / "latents.npy", np.random.default_rng(0).normal(size=(240, 240, 4)).astype(np.float32))
    words = [
        sys.executable,
        "-m",
        "tiler",
        "decode",
        "latents.npy",
        "image",
        "--weights",
        "photo",
        "--tile-size",
        "128",
    ]
    words += options
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    whole, killed = tmp_path / f"whole-{name}", tmp_path / f"killed-{name}"
    words[5] = str(whole)
    subprocess.run(words, cwd=tmp_path, env=environment, check=True, capture_output=True)
    words[5] = str(killed)
    resumed = []
    for n_lines in (2, 14, 30):
        with subprocess.Popen(
            [*words, "--resume"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
        ) as process:
            journal = find_journal(killed)
            while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < n_lines):
                time.sleep(0.01)
            process.kill()
        resumed.append(sum(each[0] == 0 for each in parse(journal.read_bytes())[1]))
    subprocess.run([*words, "--resume"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert read_result(killed) == read_result(whole)
    assert resumed == sorted(resumed)
    with capsys.disabled():
        print(f"\n{kind}: 225 tiles, of which {resumed} were finished at the three kills")
