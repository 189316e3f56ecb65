"""Opens mutated files as the command line would, and judges what comes of it.

Run with a kind, the first number and the number after the last: ``python tests/fuzz_run.py npy 0 1000``. The number
of an input is the seed that makes it, so that a finding can be had again. What is found is printed as JSON.
"""

import json
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from types import FrameType
from unittest import mock

import numpy as np
from click.testing import CliRunner

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import fuzz_latents
import fuzz_npy
import fuzz_pictures
import fuzz_png
import fuzz_weights
from fuzz_bytes import UnreadableError

from taesd_core.checkpoint import CheckpointError, load_checkpoint
from tiler import models
from tiler.command.cli import main
from tiler.errors import InputError
from tiler.sources.opening import open_image, open_latents
from tiler.window import Span, Window

LIMIT_SECONDS = 2.0
LIMIT_BYTES = 500_000_000


LARGE_PX = 50_000
SHARE_OF_COMMANDS = 0.03
SHARE_OF_ENCODINGS = 0.01


class LargeError(Exception):
    """An image was accepted that is too large to be compared."""


class HangError(BaseException):
    """An input takes too long; no ``except Exception`` catches it."""


def read_windows(random: Random, source) -> np.ndarray:
    """Return the whole, after comparing it with some of its windows."""
    height, width, _ = source.shape
    if height * width > LARGE_PX:
        # What a bomb inflates to, all of it alike.
        corner = source.read(Window(Span(max(height - 50, 0), height), Span(max(width - 50, 0), width)))
        assert len(np.unique(corner.reshape(-1, corner.shape[2]), axis=0)) == 1
        raise LargeError
    whole = source.read(Window.whole(height, width))
    for _ in range(3):
        rows, columns = (sorted(random.sample(range(size + 1), 2)) for size in (height, width))
        window = Window(Span(*rows), Span(*columns))
        np.testing.assert_array_equal(source.read(window), whole[window.slices])
    assert whole.dtype == np.float32
    return whole


def judge_npy(random: Random, path: Path) -> str:
    channels = random.choice((3, 4))
    content, done = fuzz_npy.make_npy(random, channels)
    path.write_bytes(content)
    open_it = open_image if channels == 3 else lambda path: open_latents(path, 4)
    words = ["encode" if channels == 3 else "decode", str(path), "out.npy", "--weights", "photo"]
    outcome = judge(
        done, path, lambda: read_windows(random, open_it(path)), lambda: fuzz_npy.read_npy(content, channels)
    )
    check_command_line(random, outcome, words)
    return outcome


def judge_png(random: Random, path: Path) -> str:
    latents = random.random() < 0.4
    content, done = fuzz_png.make_png(random, latents)
    path.write_bytes(content)

    def read() -> np.ndarray:
        samples = fuzz_png.read_png(content, taken_as_they_are=latents)
        if not latents:
            return fuzz_png.to_rgb(samples)
        if samples.shape[2] != 4 or samples.dtype != np.uint8:
            raise ValueError("no latents")
        return ((samples / 255 - 0.5) * 6).astype(np.float32)

    open_it = (lambda path: open_latents(path, 4)) if latents else open_image
    # Where something shows through, a level is rounded.
    tolerance = 0 if latents else 1.01 / 255
    outcome = judge(done, path, lambda: read_windows(random, open_it(path)), read, tolerance)
    if latents:
        check_command_line(random, outcome, ["decode", str(path), "out.npy", "--weights", "photo"])
    else:
        check_encoding(random, outcome, path)
    return outcome


def judge_picture(random: Random, path: Path, kind: str) -> str:
    content, done = fuzz_pictures.make_picture(random, kind)
    path.write_bytes(content)
    outcome = judge(
        done,
        path,
        lambda: read_windows(random, open_image(path)),
        lambda: fuzz_pictures.read_picture(content, kind),
        # Two libraries make RGB of YCbCr; a palette of 16 bits is cut to 8.
        1.01 / 255,
    )
    check_encoding(random, outcome, path)
    return outcome


class MeanModel:
    """A stand-in encoder: the mean of 8 × 8 px, with the contract and the halo of the real one."""

    halo = 19

    def __call__(self, window, borders, crop=..., origin=None):
        rows, columns = (slice(None if low else self.halo, None if high else -self.halo) for low, high in borders)
        height, width, _ = window.shape
        means = window.reshape(height // 8, 8, width // 8, 8, 3).mean((1, 3))
        return np.concatenate([means, means[..., :1]], axis=2)[rows, columns][crop].astype(np.float32)


def check_encoding(random: Random, outcome: str, path: Path) -> None:
    """Take one in a hundred through the whole command: it writes what the picture is, or leaves nothing."""
    if outcome == "large" or random.random() > SHARE_OF_ENCODINGS:
        return
    output = path.with_name("latents.npy")
    words = ["encode", str(path), str(output), "--weights", "photo", "--quiet"]
    with mock.patch.object(models, "load_model", return_value=MeanModel()):
        result = CliRunner().invoke(main, words)
    if outcome == "refused":
        assert result.exit_code == 3, (result.output, result.exception)
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert [*path.parent.iterdir()] == [path]
        return
    assert result.exit_code == 0, (result.output, result.exception)
    source = open_image(path)
    height, width, _ = source.shape
    whole = source.read(Window.whole(height, width))
    whole = np.pad(whole, ((0, -height % 8), (0, -width % 8), (0, 0)), "edge")
    expected = whole.reshape(whole.shape[0] // 8, 8, whole.shape[1] // 8, 8, 3).mean((1, 3)).transpose(2, 0, 1)
    np.testing.assert_allclose(np.load(output)[0, :3], expected, rtol=0, atol=1e-5)
    output.unlink()


def judge_weights(random: Random, path: Path) -> str:
    content, done = fuzz_weights.make_weights(random)
    part = random.choice(("decoder", "decoder", "decoder", "encoder"))
    return judge_tensors(random, path, content, done, part, lambda: fuzz_weights.read_weights(content, part))


def judge_archive(random: Random, path: Path) -> str:
    content, done, kind = fuzz_weights.make_archive(random)
    return judge_tensors(random, path, content, done, "decoder", lambda: fuzz_weights.read_archive(content, kind))


def judge_tensors(random: Random, path: Path, content: bytes, done: str, part: str, read_pairs: Callable) -> str:
    path.write_bytes(content)

    def load() -> list[np.ndarray]:
        tensors = load_checkpoint(path, part).tensors
        return [values for each in tensors for values in (each.kernel.transpose(3, 2, 0, 1), each.bias)]

    def read() -> list[np.ndarray]:
        tensors = [values for pair in read_pairs() for values in pair]
        if not all(np.isfinite(values).all() for values in tensors if values is not None):
            raise ValueError("NaN or Inf")
        return tensors

    outcome = judge(done, path, load, read)
    good = path.with_name("good.npy")
    np.save(good, np.zeros((5, 5, 4 if part == "decoder" else 3), np.float32))
    check_command_line(random, outcome, [f"{part[:2]}code", str(good), "out.npy", "--weights", str(path)])
    return outcome


def judge(done: str, path: Path, open_it: Callable, read: Callable, tolerance: float = 0) -> str:
    """Return what became of an input; ``read`` is the independent reader.

    Raises:
        AssertionError: it is neither refused as it should be nor read right.
    """
    try:
        found = open_it()
    except LargeError:
        return "large"
    except (InputError, CheckpointError) as error:
        message = str(error)
        assert message.isprintable(), ascii(message)
        assert len(message) < 500 + len(str(path)), message
        if done in ("none", "values", "add_harmless"):
            # Nothing is wrong with this file, unless the other reader says so too.
            try:
                read()
            except (ValueError, UnreadableError):
                return "refused"
            raise AssertionError(f"a good file is refused: {message}") from error
        return "refused"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = read()
        except UnreadableError:
            return "alone"
    for one, other in zip([*found], [*expected], strict=True):
        if one is None or other is None:
            assert one is other, "one of them has no bias"
            continue
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)
    return "right"


def check_command_line(random: Random, outcome: str, words: list[str]) -> None:
    """See for a few inputs that the command line says the same: exit code 3 and one line, or 0."""
    if outcome == "large" or random.random() > SHARE_OF_COMMANDS:
        return
    result = CliRunner().invoke(main, [*words, "--dry-run"])
    assert result.exit_code == (3 if outcome == "refused" else 0), (outcome, result.output, result.exception)
    if outcome == "refused":
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert result.stdout == ""


def judge_latents(random: Random, path: Path, kind: str) -> str:
    content, done = fuzz_latents.make_latents(random, kind)
    path.write_bytes(content)
    key, index = ("z", random.randint(0, 1)) if kind != "tiff" else (None, None)

    def read() -> np.ndarray:
        array = fuzz_latents.read_latents(content, kind, "z")
        if array.ndim == 3:
            array = array[None]
        if array.ndim != 4 or (index or 0) >= len(array) or array.shape[1] != 4 or array.dtype.kind != "f":
            raise ValueError(f"no such map: {array.shape}")
        if array.shape[3] == 4 and kind in ("npz", "zarr"):
            raise ValueError(f"two readings: {array.shape}")
        with np.errstate(all="ignore"):
            return array[index or 0].transpose(1, 2, 0).astype(np.float32)

    def open_it() -> np.ndarray:
        return read_windows(random, open_latents(path, 4, key=key, index=index))

    if kind == "tiff":
        # tifffile reads more than we do, and makes up what is missing: it is asked about good files alone.
        return judge(done, path, open_it, read if done == "none" else open_it)
    outcome = judge(done, path, open_it, read)
    options = ["--key", key, "--index", str(index)]
    check_command_line(random, outcome, ["decode", str(path), "out.npy", "--weights", "photo", *options])
    return outcome


KINDS = {"npy": judge_npy, "png": judge_png, "weights": judge_weights, "archives": judge_archive}
KINDS |= {kind: partial(judge_picture, kind=kind) for kind in fuzz_pictures.KINDS}
KINDS |= {kind: partial(judge_latents, kind=kind) for kind in fuzz_latents.WRITERS}


def run(kind: str, start: int, stop: int) -> dict:
    """Judge inputs ``start`` to ``stop``; see the report's words for what is found."""

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        raise HangError

    warnings.simplefilter("error")
    if kind == "archives":
        # Imports PyTorch, which is no matter of the first input.
        fuzz_weights.load_archives()
    signal.signal(signal.SIGALRM, interrupt)
    outcomes: Counter[str] = Counter()
    findings, slowest, peak = [], (0.0, -1), _peak_bytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "input"
        for number in range(start, stop):
            random = Random(f"{kind} {number}")
            began, began_cpu = time.monotonic(), time.process_time()
            # By the wall ten times as long: a busy machine is no hang.
            signal.setitimer(signal.ITIMER_REAL, 10 * LIMIT_SECONDS)
            try:
                outcomes[KINDS[kind](random, path)] += 1
                seconds = time.process_time() - began_cpu
                if seconds > LIMIT_SECONDS:
                    findings.append((number, f"took {seconds:.1f} s"))
            except (Exception, HangError):
                findings.append((number, traceback.format_exc()[-1500:]))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            slowest = max(slowest, (time.monotonic() - began, number))
            if _peak_bytes() > max(peak, LIMIT_BYTES):
                findings.append((number, f"took {_peak_bytes()} bytes"))
            peak = max(peak, _peak_bytes())
    return {
        **{"kind": kind, "inputs": stop - start, "outcomes": outcomes, "findings": findings},
        **{"slowest_seconds": round(slowest[0], 3), "slowest": slowest[1], "peak_bytes": peak},
    }


def _peak_bytes() -> int:
    # Linux's ru_maxrss begins with what the process that started this one had.
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
