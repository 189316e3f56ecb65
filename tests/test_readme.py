"""What the README says to type is typed here, as it stands."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from taesd_core.variants import find_weights
from tiler.command.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text() + (ROOT / "tiler" / "README.md").read_text()
ELSEWHERE = ("--scheduler", "weights fetch", "weights export", "…")
"""What needs a cluster, a network, or the published weights."""
NAMES = {"FILE": "taesd_decoder.safetensors", "IN": "taesd_decoder.safetensors"}
"""What stands for a file."""


def find_blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


LINES = [line.partition("  #")[0].strip() for block in find_blocks("sh") for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("tiler ") and not any(each in line for each in ELSEWHERE)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the README's files are, the weights being this project's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TAESD_TILER_WEIGHTS", raising=False)
    random = np.random.default_rng(0)
    np.save("latents.npy", random.normal(size=(1, 4, 16, 24)).astype(np.float32))
    Image.fromarray(random.integers(0, 256, (64, 72, 3), np.uint8)).save("photo.png")
    for part in ("decoder", "encoder"):
        shutil.copy(find_weights("photo", part), f"taesd_{part}.safetensors")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_does_what_it_says(folder, command):
    words = [NAMES.get(word, word) for word in shlex.split(command)[1:]]
    if "--region" in words:
        # Large enough for the region, of which alone something is decoded.
        x, y, width, height = map(int, words[words.index("--region") + 1].split(","))
        np.save("latents.npy", np.zeros((1, 4, (y + height) // 8 + 1, (x + width) // 8 + 1), np.float32))
    if words[0] == "verify":
        CliRunner().invoke(main, ["decode", words[2], words[1], *words[3:]])
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    if words[0] in ("decode", "encode", "preview"):
        assert (folder / words[2]).exists()


def test_there_are_commands_and_each_is_another():
    assert len(set(COMMANDS)) == len(COMMANDS) >= 5


@pytest.mark.parametrize("block", find_blocks("python"))
def test_the_library_does_what_the_readme_says(folder, block):
    np.save("latents.npy", np.zeros((1, 4, 72, 72), np.float32))
    exec(block, {})
    assert (folder / "image.tif").exists()
    assert (folder / "large.tif").exists() == ("large" in block)


def test_ci_runs_the_tests_as_the_readme_does_and_the_demo():
    script = (ROOT / ".ci" / "run").read_text()
    (tests,) = [line for line in LINES if "pytest" in line]
    assert tests.split(" && ")[-1] in script.splitlines()
    (demo,) = [line for line in LINES if "tiler demo" in line]
    assert demo.split("/")[-1] == "tiler demo"
    assert "venv/bin/tiler demo" in script


def test_the_front_page_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 120
