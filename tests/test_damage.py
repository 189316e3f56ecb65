"""What lies in a half-done output is not trusted: whatever happened to it, the file is that of a clean run."""

import errno
import random
import shutil
from pathlib import Path

import pytest
from small_job import CountingModel, make_job, read_result, run_whole

from tiler import files
from tiler.errors import TileError, TilerError
from tiler.formats.places import find_part
from tiler.formats.sink import Sink
from tiler.formats.strided_sink import StridedSink
from tiler.formats.tiff import TiffSink
from tiler.formats.zarr import ZarrSink
from tiler.jobs.job import run_job
from tiler.jobs.journal import Journal
from tiler.jobs.journal_file import find_journal
from tiler.jobs.journal_lines import parse, unpack_skeleton

# TIFFs of every compression with their pyramids; array files; pictures, which are encoded at the end; shards.
TIFFS = ["none", "deflate", "lzw", "zstd", "webp", "jpeg", "jxl"]
KINDS = [*TIFFS, "npy", "safetensors", "latents", "png", "jpg", "picture.webp", "zarr"]
LOSSY = ["webp", "jpeg", "jxl"]
N_TILES, N_TASKS = 12, 12 + 4 + 1
N_DAMAGES, N_BY_DEFAULT = 300, 6

every_kind = pytest.mark.parametrize("kind", KINDS)


class Killed(Exception):
    """What stops a run in these tests."""


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """Results of runs that nothing happened to, by kind, made when they are asked for."""

    class Wholes(dict):
        def __missing__(self, kind):
            self[kind] = run_whole(tmp_path_factory.mktemp("whole"), kind)
            return self[kind]

    return Wholes()


def leave(folder, kind, state, **options):
    """Leave a job with so many tiles finished; "made": all but the final name; "named": all but the end.

    With options, it is one that finds all tiles finished.
    """

    def stop(number):
        if number == state or options:
            raise Killed

    def kill(*_):
        raise Killed

    Path(folder).mkdir(exist_ok=True)
    job = make_job(folder, kind, CountingModel(stop), **options)
    with pytest.MonkeyPatch.context() as patch:
        if state == "made":
            patch.setattr(Sink, "commit", kill)
            patch.setattr(ZarrSink, "commit", kill)
        if state == "named":
            patch.setattr(Journal, "_remove", kill)
        with pytest.raises((TileError, Killed)):
            run_job(job)
    return job.output.path


def go_on(folder, kind):
    model = CountingModel()
    return run_job(make_job(folder, kind, model, resume=True)), model.n_calls


def contents(folder):
    return {each: each.read_bytes() for each in sorted(Path(folder).rglob("*")) if each.is_file()}


def list_names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def flip(path, place, n_bytes=1):
    content = bytearray(path.read_bytes())
    for at in range(place, min(place + n_bytes, len(content))):
        content[at] ^= 0x5A
    path.write_bytes(content)


def damage(path, chance):
    """Do to a file what disks, cables and people do; return what."""
    content = bytearray(path.read_bytes())
    kind = chance.choice(["flip", "flip", "flip", "zeros", "cut", "grow", "swap", "lose"])
    place, n_bytes = chance.randrange(len(content) + 1), chance.choice([1, 4, 512, 4096])
    if kind == "flip":
        for _ in range(chance.choice([1, 4])):
            if content:
                content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
    elif kind == "zeros":
        content[place : place + n_bytes] = bytes(len(content[place : place + n_bytes]))
    elif kind == "cut":
        del content[place:]
    elif kind == "grow":
        content += chance.randbytes(n_bytes)
    elif kind == "swap":  # a sector that was written to the wrong place
        other = chance.randrange(len(content) + 1)
        content[place : place + n_bytes] = content[other : other + len(content[place : place + n_bytes])]
    elif path.name == "zarr.json" or "c" in path.parts:
        path.unlink()
        return "lost"
    path.write_bytes(content)
    return kind


def choose_file(folder, output, chance):
    """Choose among part (or output), journal and quarters, and in a folder among its files."""
    path = chance.choice([each for each in sorted(folder.iterdir()) if each.name.startswith(output.name)])
    return chance.choice([each for each in sorted(path.rglob("*")) if each.is_file()]) if path.is_dir() else path


def check_damages(tmp_path, kind, seeds, whole):
    """Return how many of the half-done outputs were refused."""
    states = {}
    n_refused = 0
    for seed in seeds:
        chance = random.Random(seed)
        state = chance.choice([*range(1, N_TILES), "made", "made", "named"])
        folder = tmp_path / str(seed)
        if state == "named":  # the file is known by its number, which a copy has not
            output = leave(folder, kind, state)
        else:
            if state not in states:
                states[state] = leave(tmp_path / f"{state} finished", kind, state)
            shutil.copytree(states[state].parent, folder)
            output = folder / states[state].name
        done = [damage(choose_file(folder, output, chance), chance) for _ in range(chance.choice([1, 1, 2, 3]))]
        before = contents(folder)
        try:
            go_on(folder, kind)
        except TilerError:
            assert contents(folder) == before, (seed, state, done)
            n_refused += 1
        else:
            assert read_result(output) == whole, (seed, state, done)
            assert list_names(folder) == [output.name]
        shutil.rmtree(folder)
    return n_refused


@every_kind
def test_whatever_happened_to_it_the_file_is_that_of_a_clean_run_or_refused(tmp_path, kind, wholes):
    check_damages(tmp_path, kind, range(N_BY_DEFAULT), wholes[kind])


@pytest.mark.slow
@every_kind
def test_three_hundred_times_it_is_that_of_a_clean_run_or_refused(tmp_path, kind, wholes, capsys):
    n_refused = check_damages(tmp_path, kind, range(1000, 1000 + N_DAMAGES), wholes[kind])
    with capsys.disabled():
        print(f"\n{kind}: {N_DAMAGES} damages, {n_refused} refused, {N_DAMAGES - n_refused} as of a clean run")


# -- what is made again, and what is not


def list_pieces(output):
    """Return what the tasks of a half-done output have left, as the journal says, by task."""
    return {tuple(each[:3]): each[3] for each in parse(find_journal(output).read_bytes())[1] if each[0] != "complete"}


def read_skeleton(output):
    return unpack_skeleton(parse(find_journal(output).read_bytes())[0].header["skeleton"])


def find_bytes(output, kind, task):
    """Return a file and a place in it where a finished task has written."""
    part = find_part(output)
    if kind in TIFFS:
        return part, list_pieces(output)[task][1] + 20
    level, row, column = task
    if kind == "zarr":
        return part / f"{level}/c/0/{row}/{column}", 20
    if kind == "safetensors":  # (1, 4, 30, 22) float32
        return part, part.stat().st_size - (22 * (30 - 8 * row) - 8 * column) * 4
    if kind == "latents":  # (30, 22, 4) bytes
        return part, part.stat().st_size - (22 * (30 - 8 * row) - 8 * column) * 4
    return part, part.stat().st_size - (176 * (240 - 64 * row) - 64 * column) * 3


@every_kind
def test_a_damaged_tile_is_made_again_and_no_other(tmp_path, kind, wholes):
    output = leave(tmp_path / "a", kind, 10)
    task = next(each for each in list_pieces(output) if each[0] == 0)
    flip(*find_bytes(output, kind, task))
    done, n_calls = go_on(output.parent, kind)
    assert (done.n_damaged, done.n_resumed, n_calls) == (1, 9, 3)
    assert read_result(output) == wholes[kind]


@pytest.mark.parametrize("kind", [*TIFFS, "zarr"])
def test_a_damaged_node_is_made_again_of_what_lies_below(tmp_path, kind, wholes):
    output = leave(tmp_path / "a", kind, 11)
    pieces, skeleton = list_pieces(output), read_skeleton(output)
    task = next(each for each in pieces if each[0] == 1)
    flip(*find_bytes(output, kind, task))
    done, n_calls = go_on(output.parent, kind)
    # Of a lossy pyramid the four tiles below are decoded again, for their pixels are nowhere; but not written again.
    assert (done.n_damaged, n_calls) == (1, 1 + (4 if kind in LOSSY else 0))
    assert done.n_resumed == 12 - n_calls
    assert read_result(output) == wholes[kind]
    if kind in TIFFS:
        tiles = [tile for _, level in wholes[kind] for tile in level]
        n_lost = output.stat().st_size - len(skeleton[""]) - sum(map(len, tiles))
        assert n_lost <= sum(pieces[task][2::2]) + len(tiles)  # each begins at an even byte


@every_kind
def test_all_that_is_left_is_made_again_where_nothing_is_whole(tmp_path, kind, wholes):
    output = leave(tmp_path / "a", kind, 11)
    part = find_part(output)
    for path in [each for each in [part, *part.rglob("*")] if each.is_file()]:
        flip(path, 0, path.stat().st_size)
    done, n_calls = go_on(output.parent, kind)
    assert (done.n_resumed, n_calls) == (0, 12)
    assert read_result(output) == wholes[kind]


@pytest.mark.parametrize("kind", ["npy", "safetensors", "deflate", "jpeg", "latents", "png", "zarr"])
@pytest.mark.parametrize("state", [5, "made"])
def test_what_lies_there_besides_pixels_is_put_back(tmp_path, kind, state, wholes):
    """Headers, tags, tables, JSON: all of them spoiled."""
    output = leave(tmp_path / "a", kind, state)
    part = find_part(output)
    skeleton = read_skeleton(output)
    is_encoded = state == "made" and kind in ("png", "latents")
    for name, content in skeleton.items():
        flip(part / name, 0, len(content))
    done, n_calls = go_on(output.parent, kind)
    # An encoded picture holds no tiles any more.
    assert n_calls == (12 if is_encoded else 12 - (5 if state == 5 else 12))
    assert done.n_damaged == (12 if is_encoded else 0)
    assert read_result(output) == wholes[kind]


@every_kind
def test_what_is_made_is_not_made_again_however_often_its_last_steps_are_stopped(tmp_path, kind, wholes):
    output = leave(tmp_path / "a", kind, "made")
    for state in ("made", "named", "made", "named"):
        leave(tmp_path / "a", kind, state, resume=True)
        assert output.exists() == (state == "named")
    done, n_calls = go_on(output.parent, kind)
    assert (done.n_resumed, done.n_damaged, n_calls) == (12, 0, 0)
    assert read_result(output) == wholes[kind]


@pytest.mark.parametrize("kind", ["npy", "deflate", "zarr"])
def test_a_part_that_is_cut_says_what_is_kept(tmp_path, kind, wholes):
    output = leave(tmp_path / "a", kind, 11)
    part = find_part(output)
    path = part if part.is_file() else find_bytes(output, kind, (0, 3, 2))[0]
    files.os.truncate(path, path.stat().st_size // 2)
    told = []
    done = run_job(make_job(output.parent, kind, resume=True), lambda *counts: told.append(counts))
    assert 0 < done.n_damaged < N_TASKS
    assert 0 < done.n_resumed < 11
    assert told[0] == told[1] == (done.n_resumed, 12, 0)
    assert read_result(output) == wholes[kind]


@pytest.mark.parametrize("kind", ["deflate", "npy"])
def test_what_the_disk_cannot_read_is_made_again_but_a_disk_that_is_gone_ends_the_run(
    tmp_path, monkeypatch, kind, wholes
):
    output = leave(tmp_path / "a", kind, 8)
    owner = {"deflate": TiffSink, "npy": StridedSink}[kind]
    check = owner.check

    def fail(number):
        def read(sink, written):
            if any(window.rows.start == 192 and level == 0 for level, window, _ in written):
                raise OSError(number, "what the system says")
            return check(sink, written)

        return read

    before = contents(tmp_path)
    monkeypatch.setattr(owner, "check", fail(errno.ESTALE))
    with pytest.raises(OSError, match="what the system says") as caught:
        go_on(output.parent, kind)
    assert caught.value.__notes__ == ["8 of 12 tiles are finished and kept."]
    assert {path: content for path, content in contents(tmp_path).items() if path != find_part(output)} == {
        path: content for path, content in before.items() if path != find_part(output)
    }
    monkeypatch.setattr(owner, "check", fail(errno.EIO))
    done, _ = go_on(output.parent, kind)
    assert 0 < done.n_damaged < 8
    assert read_result(output) == wholes[kind]
