"""What takes long, in lines: when they come, what they say, and that every long run has them."""

import logging
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from small_job import make_job

import tiler
from tiler import phase
from tiler.jobs.job import run_job
from tiler.phase import Phase, format_seconds

ROOT = str(Path(__file__).parents[1])


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = 1000

    def __call__(self):
        return self.now


@pytest.fixture
def lines():
    """What is told, line by line."""
    told, logger, handler = [], logging.getLogger("tiler"), logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield told
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def tell(n_all, seconds, *, n_px=0, n_before=0):
    """Return the seconds at which a line came, when each step takes so long."""
    clock, told = Clock(), []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(clock.now - 1000)
    phase.LOG.addHandler(handler)
    try:
        steps = Phase("Decoding", n_all, "tiles", n_before=n_before, clock=clock)
        for _ in range(n_all - n_before):
            clock.now += seconds
            steps.count(n_px)
    finally:
        phase.LOG.removeHandler(handler)
    return told


@pytest.mark.parametrize(
    ("n_all", "seconds", "expected"),
    [
        (1000, 4, range(200, 4001, 200)),  # an hour: after each 5 %
        (100, 1, [30, 60, 90]),  # 5 % are 5 s, but never two within 30 s; the report follows the last by itself
        (29, 1, []),
        (1000, 700, range(700, 700_001, 700)),  # longer than 10 minutes each: after each
        (1200, 100, range(600, 120_001, 600)),  # 5 % are 100 minutes
        (3, 40, [40, 80, 120]),
        (7, 29, [58, 116, 174]),
    ],
    ids=["each 5 %", "30 s apart", "short", "slow tiles", "10 minutes", "few tiles", "just below 30 s"],
)
def test_lines_come_after_5_percent_or_10_minutes_and_never_two_within_30_seconds(lines, n_all, seconds, expected):
    assert tell(n_all, seconds) == list(expected)


def test_a_line_says_what_is_done_how_fast_and_how_long_it_takes(lines):
    tell(1000, 4, n_px=1_000_000)
    assert lines[0] == "Decoding: 5 %, 50 of 1,000 tiles, 0.25 Mpx/s, 63 min left"
    assert lines[18] == "Decoding: 95 %, 950 of 1,000 tiles, 0.25 Mpx/s, 3 min left"
    assert lines[19] == "Decoding: 100 %, 1,000 of 1,000 tiles, 0.25 Mpx/s, in 67 min"


def test_the_time_left_is_by_the_rate_of_this_run_and_not_of_what_was_there(lines):
    assert tell(1000, 4, n_px=1_000_000, n_before=900) == [200, 400]
    assert lines == [
        "Decoding: 95 %, 950 of 1,000 tiles, 0.25 Mpx/s, 3 min left",
        "Decoding: 100 %, 1,000 of 1,000 tiles, 0.25 Mpx/s, in 7 min",
    ]


def test_a_step_that_takes_very_long_is_waited_for_aloud(lines):
    clock = Clock()
    steps = Phase("Decoding", 40, "tiles", clock=clock)
    for clock.now in range(1060, 2261, 60):
        steps.look()
    assert lines == ["Decoding: 0 %, 0 of 40 tiles"] * 2
    steps.count()
    assert len(lines) == 2
    clock.now += 40
    steps.count()
    assert lines[2:] == ["Decoding: 5 %, 2 of 40 tiles, 6.9 h left"]


def test_what_is_told_from_many_threads_adds_up(lines, monkeypatch):
    monkeypatch.setattr(phase, "LEAST_SECONDS", 0)
    steps = Phase("Decoding", 2000, "tiles")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(steps.count, [1] * 2000))
    assert [int(line.split()[1]) for line in lines] == list(range(5, 101, 5))
    assert lines[-1].startswith("Decoding: 100 %, 2,000 of 2,000 tiles, 0.0")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (172_800, "2.0 days")],
)
def test_a_time_is_said_as_people_say_it(seconds, expected):
    assert format_seconds(seconds) == expected


# ------------------------------------------------------------------------------------------------ every long run


def test_decoding_and_encoding_tell_their_tiles(tmp_path, lines, monkeypatch):
    monkeypatch.setattr(phase, "LEAST_SECONDS", 0)
    run_job(make_job(tmp_path, "png"))
    start, *tiles = [line for line in lines if line.startswith("Decoding")]
    height, width = 240, 176
    assert re.fullmatch(
        rf"Decoding to {tmp_path}/image\.png: 12 tiles, {height * width / 1e6:.1f} megapixels, "
        r"by kernels for CPUs, about \d+ MB of memory at the peak",
        start,
    )
    assert [line.split(",")[1] for line in tiles] == [f" {n} of 12 tiles" for n in range(1, 13)]
    assert re.fullmatch(r"Completing \S+/image\.png: 100 %, 1 of 1 strips, [\d.]+ Mpx/s, in 0 s", lines[-1])
    lines.clear()
    (tmp_path / "image.png").unlink()
    run_job(make_job(tmp_path, "latents"))
    assert lines[0].startswith(f"Encoding to {tmp_path}/image.png: 12 tiles, 0.0 megapixels")
    assert re.match(r"Encoding: 100 %, 12 of 12 tiles, ", lines[12])


def test_a_run_that_goes_on_tells_what_was_there(tmp_path, lines, monkeypatch):
    monkeypatch.setattr(phase, "LEAST_SECONDS", 0)

    def stop(n_done, *_):
        if n_done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(make_job(tmp_path, "npy"), stop)
    lines.clear()
    done = run_job(make_job(tmp_path, "npy", resume=True))
    tiles = [line for line in lines if "Decoding" in line]
    assert f": 12 tiles, {done.n_resumed} of them finished before, 0.0 megapixels" in tiles[0]
    assert f" {done.n_resumed + 1} of 12 tiles" in tiles[1]


def test_a_user_of_the_library_hears_nothing_unless_asked_for(tmp_path, latents):
    np.save(tmp_path / "latents.npy", latents(6, 9).transpose(2, 0, 1))
    script = """
import logging
import tiler
tiler.decode("latents.npy", "silent.npy", weights="photo")
logging.basicConfig(format="%(name)s %(levelname)s %(message)s")
logging.getLogger("tiler").setLevel(logging.INFO)
tiler.decode("latents.npy", "asked.npy", weights="photo")
"""
    environment = os.environ | {"PYTHONPATH": ROOT, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    assert "silent" not in done.stderr
    start, report = done.stderr.splitlines()[-2:]
    assert start.startswith("tiler.progress INFO Decoding to asked.npy: 1 tile, 0.0 megapixels, ")
    assert re.search(r" about \d+ [MG]B of memory at the peak$", start)
    assert report.startswith("tiler.report INFO asked.npy: 48 × 72 × 3, ")


def test_a_verification_and_a_preview_tell_theirs(tmp_path, lines, latents, monkeypatch):
    monkeypatch.setattr(phase, "LEAST_SECONDS", 0)
    source = latents(40, 70)
    report = tiler.decode(source, tiler.Tiff(tmp_path / "a.tif", file_tile_px=128), weights="photo", verify=2)
    assert report.verification.ok
    n_tiles = 2 * 3 + 1 * 2 + 1
    begun = f"0.2 megapixels, {n_tiles} tiles of reduced levels, 2 windows decoded again"
    assert f"Verifying {tmp_path}/a.tif: {begun}" in lines
    assert any(line.startswith(f"Comparing levels: 100 %, {n_tiles} of {n_tiles} tiles") for line in lines)
    assert any(line.startswith("Decoding again: 100 %, 2 of 2 windows") for line in lines)
    assert lines[-1] == report.verification.verdict
    lines.clear()
    tiler.preview(source, weights="photo", size_px=64)
    assert lines == ["Averaging: 100 %, 1 of 1 strips, in 0 s"]
