"""Mutated files of every kind, some thousand of them here and more with ``-m slow``: refused, or read right.

A finding is a number; ``python tests/fuzz_run.py KIND NUMBER NUMBER+1`` has it again.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("fuzz_run.py")
LARGE_START = 1_000_000
SOME = [
    ("npy", 1200),
    ("png", 600),
    ("jpeg", 300),
    ("webp", 300),
    ("pages", 500),
    ("weights", 150),
    ("archives", 60),
    ("npz", 400),
    ("tensors", 400),
    ("tiff", 300),
]


def run(kind, start, n_inputs):
    command = [sys.executable, RUN, kind, str(start), str(start + n_inputs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    print({name: value for name, value in report.items() if name != "findings"})
    assert report["inputs"] == n_inputs
    assert not report["findings"], "\n".join(f"{kind} {number}: {what}" for number, what in report["findings"][:5])
    assert report["peak_bytes"] < 500_000_000
    # Neither of the two is the answer to everything.
    assert report["outcomes"]["right"] > 0.1 * n_inputs
    assert report["outcomes"]["refused"] > 0.3 * n_inputs


@pytest.mark.parametrize(("kind", "n_inputs"), SOME)
def test_mutated_files_are_refused_or_read_right(kind, n_inputs):
    run(kind, 0, n_inputs)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "n_inputs"), [(kind, n_inputs * 10) for kind, n_inputs in SOME])
def test_many_mutated_files_are_refused_or_read_right(kind, n_inputs):
    run(kind, LARGE_START, n_inputs)
