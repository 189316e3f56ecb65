"""The benchmarks run, tiny: each prints a table that makes sense and writes its chart."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "benchmarks"


def read_tables(text):
    """Return every table of a script's output: a list of rows, each a dict by column."""
    tables, lines = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            lines.append([cell.strip() for cell in line.strip("|").split("|")])
        elif lines:
            headers, _, *rows = lines
            tables.append([dict(zip(headers, row, strict=True)) for row in rows])
            lines = []
    return tables


def number(cell):
    """Return the first number of a cell."""
    return float(re.search(r"-?[\d.]+(e-?\d+)?", cell.replace(",", ""))[0])


@pytest.fixture
def run_benchmark(tmp_path):
    """Run a script on two cores at most, and return its tables once its chart is there."""
    pytest.importorskip("matplotlib")

    def run(script, *arguments, chart=True):
        path = tmp_path / "chart.png"
        python_path = os.pathsep.join([str(FOLDER.parents[1]), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, FOLDER / script, *map(str, arguments), "--chart", path],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": python_path},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert path.read_bytes().startswith(b"\x89PNG")
        tables = read_tables(done.stdout)
        assert tables, done.stdout
        return tables

    return run


@pytest.mark.slow
def test_peers_are_compared_with_the_same_pixels(run_benchmark):
    for package in ("diffusers", "torch", "onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    (table,) = run_benchmark("peers.py", "--size", 128, "--rounds", 2)
    rows = {row[""]: row for row in table}
    assert len(rows) == 7
    assert rows["taesd-tiler"]["taesd-tiler against it"] == "1.00 ×"
    for name, row in rows.items():
        assert number(row["Mpx/s"]) > 0
        assert number(row["peak MB"]) > 50
        # Below a tile of diffusers' size its tiling is exact too.
        assert number(row["max error"]) <= 1, name
        assert number(row["bytes that differ"]) < 1e-3, name


@pytest.mark.slow
def test_one_peer_alone_can_be_measured(run_benchmark):
    (table,) = run_benchmark("peers.py", "--size", 64, "--rounds", 1, "--threads", 1, "--way", "taesd-tiler")
    assert [row[""] for row in table] == ["taesd-tiler"]
