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
    assert len(rows) == 8
    assert rows["taesd-tiler"]["taesd-tiler against it"] == "1.00 ×"
    for name, row in rows.items():
        assert number(row["Mpx/s"]) > 0
        assert number(row["peak MB"]) > 50
        # Below a tile of diffusers' size its tiling is exact too.
        assert number(row["max error"]) <= 1, name
        assert number(row["bytes that differ"]) < 1e-3, name


@pytest.mark.slow
def test_encoders_are_compared_with_each_other_and_with_another_checkout(run_benchmark):
    names = ["taesd-tiler", "the version before", "Keras, whole image"]
    ways = [word for name in names for word in ("--way", name)]
    (table,) = run_benchmark(
        "peers.py", "--part", "encoder", "--size", 128, "--rounds", 1, "--before", FOLDER.parents[1], *ways
    )
    assert {row[""] for row in table} == set(names)
    for row in table:
        assert number(row["max error"]) < 1e-4


@pytest.mark.slow
def test_vectors_of_avx2_give_the_same_bytes(run_benchmark):
    arguments = ["--size", 64, "--rounds", 1, "--way", "taesd-tiler"]
    ((all_of_it,),), ((avx2,),) = run_benchmark("peers.py", *arguments), run_benchmark("peers.py", *arguments, "--avx2")
    for column in ("max error", "bytes that differ"):
        assert all_of_it[column] == avx2[column]


@pytest.mark.slow
def test_more_threads_make_the_same_bytes(run_benchmark):
    (table,) = run_benchmark("scaling.py", "--megapixels", 0.1, "--threads", "1,2", "--tile-size", 128, "--rounds", 1)
    assert [(row[""], row["threads"]) for row in table] == [
        (way, n) for way in ("one tile", "own tiles") for n in ("1", "2")
    ]
    assert all(row["same bytes"] == "yes" for row in table)


@pytest.mark.slow
def test_the_way_of_the_port_gives_the_same_pixels(run_benchmark):
    names = ["taesd-tiler", "Keras, as the TensorFlow port"]
    (table,) = run_benchmark("peers.py", "--size", 128, "--rounds", 1, "--way", names[0], "--way", names[1])
    assert {row[""] for row in table} == set(names)
    for row in table:
        assert number(row["max error"]) <= 1
        assert number(row["bytes that differ"]) < 1e-3


@pytest.mark.slow
def test_one_peer_alone_can_be_measured(run_benchmark):
    (table,) = run_benchmark("peers.py", "--size", 64, "--rounds", 1, "--threads", 1, "--way", "taesd-tiler")
    assert [row[""] for row in table] == ["taesd-tiler"]


def test_operations_over_tile_size_are_counted(run_benchmark):
    (table,) = run_benchmark("overhead.py", "--rounds", 0, "--tile-size", 256, "--tile-size", 512, "--tile-size", 1024)
    halo_and_crop, valid, ours = (
        [number(row[way]) for row in table]
        for way in (
            "halo on the input, same convolutions, crop",
            "valid convolutions",
            "taesd-tiler",
        )
    )
    # (side of the window / side of the tile)²: nothing of the halo is saved.
    expected = [((size + 2 * 19 * 8) / size) ** 2 for size in (256, 512, 1024)]
    assert halo_and_crop == pytest.approx(expected, abs=1e-3)
    for counts in (halo_and_crop, valid, ours):
        assert counts == sorted(counts, reverse=True)
    for worse, better in ((halo_and_crop, valid), (valid, ours)):
        assert all(a >= b for a, b in zip(worse, better, strict=True))
    assert valid[-1] > 1 > ours[-1]


@pytest.mark.slow
def test_speed_over_tile_size_is_measured(run_benchmark):
    (table,) = run_benchmark("overhead.py", "--rounds", 1, "--tile-size", 64, "--tile-size", 128)
    assert [row["tile px"] for row in table] == ["64", "128"]
    for row in table:
        assert 0 < number(row["GFLOP/s credited"]) < number(row["executed"])
        assert number(row["peak MB"]) > 50


def test_scaling_with_the_stand_in_reaches_far_sizes(run_benchmark):
    arguments = ["--megapixels", 0.5, "--megapixels", 16, "--megapixels", 30, "--output", "nothing"]
    (table,) = run_benchmark("scaling.py", "--decoder", "stand-in", "--tile-size", 256, *arguments)
    # 704, 3,968 and 5,504 px a side.
    assert [number(row["tiles"]) for row in table] == [9, 256, 484]
    # There is no TensorFlow in it.
    assert all(number(row["peak MB"]) < 250 for row in table)


@pytest.mark.parametrize("output", ["deflate", "npy"])
def test_scaling_with_the_stand_in_writes_files_and_leaves_none(run_benchmark, tmp_path, output):
    (table,) = run_benchmark("scaling.py", "--decoder", "stand-in", "--megapixels", 1, "--output", output)
    assert number(table[0]["output MB"]) >= (3 if output == "npy" else 0)
    assert [path.name for path in tmp_path.iterdir()] == ["chart.png"]


@pytest.mark.slow
@pytest.mark.parametrize("output", ["jpeg", "npy"])
def test_scaling_with_the_real_decoder(run_benchmark, output):
    (table,) = run_benchmark("scaling.py", "--megapixels", 0.02, "--output", output)
    assert number(table[0]["peak MB"]) > 250
    assert number(table[0]["seconds"]) > 0


def test_planning_and_scheduling_are_measured(run_benchmark):
    arguments = ["--part", "planning", "--gigapixels", 1, "--part", "scheduling", "--tiles", 300]
    planning, scheduling = run_benchmark("stages.py", *arguments)
    assert [row[""] for row in planning] == ["plan and summary", "every tile once", "graph with pyramid"]
    assert [number(row["tiles"]) for row in scheduling] == [18 * 18] * 2
    assert all(0 < number(row["ms/tile"]) < 1000 for row in scheduling)


def test_planning_100_gigapixels_takes_little_memory(run_benchmark):
    (table,) = run_benchmark("stages.py", "--part", "planning", "--gigapixels", 100)
    assert all(5 < number(row["peak MB so far"]) < 300 for row in table)


@pytest.mark.slow
def test_outputs_are_compared_with_decoding_alone(run_benchmark):
    (table,) = run_benchmark("stages.py", "--part", "outputs", "--size", 128, "--rounds", 2)
    rows = {row[""]: row for row in table}
    assert list(rows) == ["decoding alone", "pyramidal TIFF, deflate", "pyramidal TIFF, JPEG", ".npy"]
    assert rows["decoding alone"]["over decoding alone"] == "+0.0%"
    assert all(number(row["seconds"]) >= 0 for row in table)


@pytest.mark.slow
def test_the_start_of_commands_is_taken_apart(run_benchmark):
    arguments = ["--part", "start-up", "--rounds", 1, "--before", FOLDER.parents[1]]
    commands, decode = run_benchmark("stages.py", *arguments)
    assert [row[""] for row in commands] == ["--help", "plan", "preview", "decode"]
    assert all(number(row[way]) > 0 for row in commands for way in ("warm", "cold", "before"))
    assert sum(number(row["seconds"]) for row in decode) == pytest.approx(number(commands[-1]["warm"]), abs=0.02)
    assert {"tiler", "numpy"} <= {row[""] for row in decode}


@pytest.mark.slow
def test_precisions_lie_as_far_from_float32_as_their_mantissas_are_short(run_benchmark):
    (table,) = run_benchmark("precision.py", "--size", 128, "--rounds", 1)
    rows = {row[""]: row for row in table}
    errors = [number(rows[name]["max error"]) for name in ("float32", "float16", "bfloat16")]
    assert errors[0] < 0.01 < errors[1] < errors[2] < 64
    decibels = [number(rows[name]["PSNR dB"]) for name in ("float32", "float16", "bfloat16")]
    assert decibels == sorted(decibels, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_the_gpu_script_runs_without_a_gpu(run_benchmark, monkeypatch, tmp_path, backend):
    pytest.importorskip(backend)
    for package in ("torch", "diffusers"):
        pytest.importorskip(package)
    monkeypatch.setenv("KERAS_BACKEND", backend)
    notes = tmp_path / "notes"
    notes.mkdir()
    arguments = ["--precision", "float32", "--rounds", 1, "--tile-size", 64, "--peak-tflops", "float32", 1]
    files = ["--file-size", 1024, "--file-tile-size", 512, "--compression", "zstd", "--folder", notes]
    ways = ["--way", "diffusers, eager", "--results", notes / "results"]
    tables = run_benchmark("gpu.py", *arguments, *files, *ways)
    ceiling, exactness, (tile,), (other,), (file,) = tables
    assert ceiling == [{"precision": "float32", "tflops": "1.0"}]
    for row in exactness:
        assert 0 < number(row["largest"]) < (5e-6 if "float64" in row["what"] else 2), row
    assert (tile["way"], other["way"]) == ("taesd-tiler", "diffusers, eager")
    assert number(file["megabytes"]) > 0.5
    assert number(file["model_share"]) <= 1
    # As many lines as measurements, kept as soon as they were known; the image is gone.
    assert len((notes / "results").read_text().splitlines()) == sum(map(len, tables))
    assert [path.name for path in notes.iterdir()] == ["results"]


@pytest.mark.slow
def test_a_large_image_is_written_and_read_back(run_benchmark):
    (table,) = run_benchmark("gigapixels.py", "--gigapixels", 0.01, "--samples", 2)
    (row,) = table
    assert (number(row["tiles"]), number(row["levels"])) == (9, 4)
    assert number(row["file MB"]) < 2


@pytest.mark.slow
def test_the_cost_of_many_tiles_is_measured(run_benchmark):
    (table,) = run_benchmark("very_large.py", "--tiles", 100, "--tiles", 400, "--gigapixels", 0.1)
    assert [number(row["tiles"]) for row in table] == [100, 400]
    for row in table:
        assert number(row["peak MB"]) > 30
