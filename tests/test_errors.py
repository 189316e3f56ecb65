"""What a message says of options: arguments for people of Python, flags for those of the command line."""

import io
import pickle
import re
import tokenize
from pathlib import Path

import numpy as np
import pytest

import tiler
from tiler.command.cli import main
from tiler.errors import Message, NonFiniteError, Option, OutputExistsError, TilerError
from tiler.jobs import room
from tiler.latents import Latents
from tiler.models import find_network
from tiler.sources.opening import open_image, open_latents
from tiler.sources.ranges import check_finite
from tiler.window import Window

ROOT = Path(__file__).parents[1]


def too_full(folder):
    room.check_disk(folder, 2**62)


def exists(folder):
    (folder / "image.tif").touch()
    np.save(folder / "a.npy", np.zeros((1, 4, 9, 9), np.float32))
    tiler.decode(folder / "a.npy", folder / "image.tif", weights="photo")


def several_pages(folder):
    import tifffile

    with tifffile.TiffWriter(folder / "a.tif") as tiff:
        for _ in range(2):
            tiff.write(np.zeros((16, 16, 3), np.uint8), photometric="rgb")
    open_image(folder / "a.tif")


CASES = {
    "a batch": (lambda _: open_latents(np.zeros((3, 4, 9, 9), np.float32), 4), "index=0 to 2", "--index 0 to 2"),
    "axes": (
        lambda _: open_latents(np.zeros((4, 9, 4), np.float32), 4),
        'axes="CHW" or axes="HWC"',
        "--axes CHW or --axes HWC",
    ),
    "NaN": (
        lambda _: check_finite(np.full((1, 1, 4), np.nan, np.float32), Window.whole(1, 1)),
        'nonfinite="zero"',
        "--nonfinite zero",
    ),
    "VAE space": (
        lambda _: Latents(np.zeros((1, 4, 9, 9), np.float32), space="vae").open(find_network(None, "decoder", 4)),
        'scale= and shift= .* space="diffusion"',
        "--latent-scale and --latent-shift .* --latent-space diffusion",
    ),
    "a full disk": (
        too_full,
        "use force=True to try.* with resume=True",
        "use --force to try.* with --resume",
    ),
    "an output": (exists, "Use overwrite=True to replace it", "Use --overwrite to replace it"),
    "pages": (several_pages, "Choose one with page=", "Choose one with --page"),
    "no weights": (
        lambda _: tiler.decode(np.zeros((1, 4, 9, 9), np.float32), "x.tif"),
        'weights="NAME" or weights="FILE" .*; for a trial, weights="photo" ',
        "--weights NAME or --weights FILE .*; for a trial, --weights photo ",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_option_is_an_argument_in_python_and_a_flag_on_the_command_line(case, tmp_path, monkeypatch):
    monkeypatch.delenv("TAESD_TILER_WEIGHTS", raising=False)
    call, in_python, on_command_line = CASES[case]
    with pytest.raises(TilerError) as caught:
        call(tmp_path)
    (message,) = caught.value.args
    said = str(caught.value)
    assert re.search(in_python, said), said
    assert "--" not in said
    line = main.say(message)
    assert re.search(on_command_line, line), line
    assert message.word(str) == said


def test_a_switch_is_named_by_what_turns_it_off():
    assert main.say(Message(f"Use {Option('pyramid', False)}.")) == "Use --no-pyramid."
    assert main.say(Message(f"Leave {Option('tile_size_px')} out.")) == "Leave --tile-size out."
    assert str(Message(f"Use {Option('tile_size_px', 512)}.")) == "Use tile_size_px=512."


def test_a_message_in_a_message_and_one_that_has_travelled_keep_their_options():
    advice = f"Use {Option('overwrite', True)}."
    error = OutputExistsError(f"It is there. {advice}")
    assert main.say(Message("It is there. ", Message(advice))) == "It is there. Use --overwrite."
    assert isinstance(error, FileExistsError)
    for each in (error, pickle.loads(pickle.dumps(error)), OutputExistsError(*error.args)):
        assert str(each) == "It is there. Use overwrite=True."
        assert main.say(*each.args) == "It is there. Use --overwrite."
    assert main.say(Message("the words ", Option("force", True)).capitalised) == "The words --force"
    assert NonFiniteError.remedy == Option("nonfinite", "zero")


@pytest.mark.parametrize("path", sorted(ROOT.glob("t[ia]*_core/**/*.py")) + sorted(ROOT.glob("tiler/**/*.py")), ids=str)
def test_no_message_outside_of_the_command_line_names_a_flag(path):
    if path.is_relative_to(ROOT / "tiler/command"):
        return
    words = [
        each.string
        for each in tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
        if each.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1))
    ]
    named = [each for each in words if re.search(r"(?<![-\w`])--[a-z]", each) and not each.startswith('"""')]
    assert not named, named
