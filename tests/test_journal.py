"""What is finished survives, and nothing else counts."""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_job import KINDS, CountingModel, make_job, read_result, run_whole

from tiler import files
from tiler.errors import ChangedError, InputError, NonFiniteError, OutputExistsError, TileError
from tiler.fields import find_difference
from tiler.jobs import notes
from tiler.jobs.job import run_job
from tiler.jobs.journal_file import JournalReader, find_journal, read_identity
from tiler.jobs.journal_lines import make_line, parse
from tiler.sources.ranges import treat_nonfinite
from tiler.sources.source import fingerprint_source

every_kind = pytest.mark.parametrize("kind", KINDS)


class Broken(Exception):
    """What stops a run in these tests."""


def fail_at(number):
    def before(n):
        if n == number:
            raise Broken

    return before


def raise_at(number):
    def progress(n_done, *_):
        if n_done == number:
            raise Broken

    return progress


def stop_after(folder, kind, n_tiles, **options):
    """Leave a job with so many tiles finished."""
    model = CountingModel(fail_at(n_tiles))
    with pytest.raises(TileError):
        run_job(make_job(folder, kind, model, **options))
    return make_job(folder, kind, **options).output.path


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Results of runs that nothing happened to, by kind."""
    return {kind: run_whole(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@every_kind
@pytest.mark.parametrize("n_first", range(1, 12))
def test_a_run_goes_on_after_any_tile_and_decodes_no_tile_twice(tmp_path, kind, n_first, whole):
    output = stop_after(tmp_path, kind, n_first)
    extra = ["image.tif.part.quarters"] if kind == "jpeg" else []
    assert names(tmp_path) == [output.name + ".part", output.name + ".part.journal", *extra]
    model = CountingModel()
    done = run_job(make_job(tmp_path, kind, model, resume=True))
    assert (done.n_resumed, model.n_calls) == (n_first, 12 - n_first)
    assert read_result(output) == whole[kind]
    assert names(tmp_path) == [output.name]


@every_kind
@pytest.mark.parametrize("n_first", [1, 5, 11])
@pytest.mark.parametrize("part_levels", [0, 1])
def test_a_run_by_parts_goes_on_too(tmp_path, monkeypatch, kind, n_first, part_levels, whole):
    monkeypatch.setattr("tiler.jobs.schedule.PART_LEVELS", part_levels)
    output = stop_after(tmp_path, kind, n_first)
    told = []
    model = CountingModel()
    done = run_job(make_job(tmp_path, kind, model, resume=True), lambda *counts: told.append(counts[:2]))
    assert (done.n_resumed, model.n_calls) == (n_first, 12 - n_first)
    # Once when it is found whole, and once when the others are begun.
    assert told == [(n, 12) for n in (n_first, *range(n_first, 13))]
    assert read_result(output) == whole[kind]


@every_kind
def test_a_run_that_is_stopped_again_and_again_still_decodes_each_tile_once(tmp_path, kind, whole):
    n_calls = 0
    for n_first in (3, 4, 1, 2):
        model = CountingModel(fail_at(n_first))
        with pytest.raises(TileError) as caught:
            run_job(make_job(tmp_path, kind, model, resume=True))
        n_calls += n_first
        assert caught.value.__notes__ == [f"{n_calls} of 12 tiles are finished and kept."]
    run_job(make_job(tmp_path, kind, model := CountingModel(), resume=True))
    assert n_calls + model.n_calls == 12
    assert read_result(tmp_path / f"image.{'npy' if kind == 'npy' else 'tif'}") == whole[kind]


@pytest.mark.parametrize(
    ("kind", "side", "n_first", "step"),
    [("npy", 16, 3, 3), pytest.param("deflate", 16, 4, 1, marks=pytest.mark.slow), ("jpeg", 16, 4, 11)]
    + [pytest.param(kind, 30, 10, 1, marks=pytest.mark.slow) for kind in KINDS],
)
def test_the_journal_cut_at_every_byte_loses_only_what_it_told_of(tmp_path, kind, side, n_first, step):
    """Also in the header, of which nothing is left then, and behind the last line, where it is complete."""
    first, folder = tmp_path / "first", tmp_path / "cut"
    for each in (first, tmp_path / "whole"):
        each.mkdir()
    whole = run_whole(tmp_path / "whole", kind, height=side, width=side)
    with pytest.raises(Broken):
        run_job(make_job(first, kind, height=side, width=side), raise_at(n_first))
    name = "image.npy" if kind == "npy" else "image.tif"
    content = find_journal(first / name).read_bytes()
    entries = parse(content)[1]
    assert len([each for each in entries if each[0] == 0]) == n_first
    in_header = content.index(b"\n[")  # of which one byte is like the other, but at its two ends
    ends = {in_header // 2 + shift for shift in (-1, 0, 1, 2)}
    for size in sorted({*range(0, in_header, 499), *ends, *range(in_header - 1, len(content) + 1, step), len(content)}):
        shutil.copytree(first, folder)
        os.truncate(find_journal(folder / name), size)
        model = CountingModel()
        done = run_job(make_job(folder, kind, model, height=side, width=side, resume=True))
        assert read_result(folder / name) == whole, size
        assert names(folder) == [name]
        n_left = sum(each[0] == 0 for each in parse(content[:size])[1])
        assert model.n_calls == (side // 8 + (side % 8 > 0)) ** 2 - done.n_resumed
        # Of a quarter whose line told that it was of no more use, nothing is left when the next line is cut off.
        assert done.n_resumed <= n_left if kind == "jpeg" else done.n_resumed == n_left
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["deflate", "jpeg"])
def test_a_journal_with_any_byte_changed_is_believed_but_for_that_line(tmp_path, kind, whole):
    output = stop_after(tmp_path / "first", kind, 10) if (tmp_path / "first").mkdir() is None else None
    content = find_journal(output).read_bytes()
    folder = tmp_path / "changed"
    in_header = content.index(b"\n[")
    for place in (*range(0, in_header, 499), *range(in_header, len(content), 11)):
        shutil.copytree(tmp_path / "first", folder)
        spoiled = bytearray(content)
        spoiled[place] ^= 1 + place % 255
        find_journal(folder / output.name).write_bytes(spoiled)
        done = run_job(make_job(folder, kind, resume=True))
        assert read_result(folder / output.name) == whole[kind], place
        # Without a quarter, all that lies under it is decoded again; two lines are one where the end of one is changed.
        assert done.n_resumed >= {"deflate": 8, "jpeg": 4}[kind]
        shutil.rmtree(folder)


def test_a_reader_follows_a_journal_and_believes_only_whole_lines_of_its_job(tmp_path):
    path = tmp_path / "journal"
    reader = JournalReader(path)
    assert not reader.has((0, 0, 1))  # there is none yet
    header, seed = make_line({"format": 2, "job": "a", "fields": {}}, 0)
    lines = [header, header, make_line([0, 0, 1, [7]], seed)[0], make_line([1, 0, 0, [7, 8, 9], 3, 99], seed)[0]]
    fields, seed = make_line({"latents": "b"}, seed)
    lines += [fields, make_line([0, 2, 3, [7]], seed)[0]]
    content = b"".join(lines)
    ends = {task: len(b"".join(lines[:n])) for task, n in [((0, 0, 1), 3), ((1, 0, 0), 4), ((0, 2, 3), 6)]}
    for n_bytes in range(len(content) + 1):
        path.write_bytes(content[:n_bytes])
        for task, end in ends.items():
            assert reader.has(task) == (n_bytes >= end)
    other, _ = make_line([0, 9, 9, [7]], seed + 1)
    path.write_bytes(content + other + make_line([0, 7, 7, [7]], seed)[0])
    assert not reader.has((0, 9, 9))
    assert reader.has((0, 7, 7))
    assert reader.has((0, 2, 3))
    path.write_bytes(path.read_bytes() + make_line([0, 2, 3], seed)[0])  # found damaged
    assert not reader.has((0, 2, 3))
    assert reader.has((0, 7, 7))


def test_lines_of_an_earlier_job_do_not_count():
    header, seed = make_line({"format": 2, "job": "a", "fields": {}}, 0)
    other, _ = make_line({"format": 2, "job": "b", "fields": {}}, 0)
    entry, _ = make_line([0, 0, 0, [7]], seed)
    assert parse(header + entry)[1] == [[0, 0, 0, [7]]]
    assert parse(other + entry)[1] == []


def test_lines_behind_a_damaged_one_are_believed_but_not_behind_damaged_fields():
    header, seed = make_line({"format": 2, "job": "a", "fields": {"nonfinite": "error"}}, 0)
    fields, later = make_line({"nonfinite": "zero"}, seed)
    lines = [header, header, *(make_line([0, 0, n, [7]], seed)[0] for n in range(3)), fields]
    lines.append(make_line([0, 0, 3, [7]], later)[0])

    def read(*damaged):
        spoiled = [line if n not in damaged else line[:5] + b"?" + line[6:] for n, line in enumerate(lines)]
        reader, entries, _, n_lost = parse(b"".join(spoiled))
        return reader.header and reader.header["fields"]["nonfinite"], [entry[2] for entry in entries], n_lost

    assert read() == ("zero", [0, 1, 2, 3], 0)
    assert read(0) == read(1) == ("zero", [0, 1, 2, 3], 1)
    assert read(0, 1) == (None, [], 7)
    assert read(3) == ("zero", [0, 2, 3], 1)
    assert read(5) == ("error", [0, 1, 2], 2)


def test_a_journal_that_has_lost_its_beginning_still_tells_of_the_rest(tmp_path, monkeypatch):
    """A sector, in which both headers were, and a few lines."""
    monkeypatch.setattr("tiler.jobs.journal_file.COPY_BYTES", 2**13)
    monkeypatch.setattr(notes, "SYNC_SECONDS", 0)
    (tmp_path / "whole").mkdir()
    whole = run_whole(tmp_path / "whole", "none", height=80, width=80)
    with pytest.raises(Broken):
        run_job(make_job(tmp_path, "none", height=80, width=80), raise_at(90))
    journal = find_journal(tmp_path / "image.tif")
    content = journal.read_bytes()
    header = content[: content.index(b"\n") + 1]
    assert content.count(header) in (3, 4)  # at 8 kB, and maybe at 16
    assert 2 * len(header) < 7000
    journal.write_bytes(bytes(7000) + content[7000:])
    seen = set()
    model = CountingModel(lambda number: seen.add(read_identity(journal)))  # as a worker looks
    done = run_job(make_job(tmp_path, "none", model, height=80, width=80, resume=True))
    assert seen == {parse(content)[0].header["job"]}
    assert 20 < done.n_resumed < 90
    assert model.n_calls == 100 - done.n_resumed
    assert read_result(tmp_path / "image.tif") == whole


def test_quarters_that_are_gone_are_made_again(tmp_path, whole):
    output = stop_after(tmp_path, "jpeg", 10)
    (tmp_path / "image.tif.part.quarters").write_bytes(b"")
    run_job(make_job(tmp_path, "jpeg", model := CountingModel(), resume=True))
    assert 2 < model.n_calls <= 12
    assert read_result(output) == whole["jpeg"]
    assert names(tmp_path) == [output.name]


@pytest.mark.parametrize("seconds", [0, 0.02, 2])
def test_quarters_stay_few(tmp_path, monkeypatch, seconds):
    """256 tiles and their 85 nodes; only what waits for a node above takes space, and that again and again."""
    monkeypatch.setattr(notes, "SYNC_SECONDS", seconds)
    sizes = []
    path = tmp_path / "image.tif.part.quarters"
    model = CountingModel(lambda number: sizes.append(path.stat().st_size))
    run_job(make_job(tmp_path, "jpeg", model, height=128, width=128, workers=2))
    assert len(sizes) == 256
    assert max(sizes) <= 30 * 32 * 32 * 3


# -- half done


@every_kind
def test_a_half_done_job_is_refused_and_named_with_both_ways_out(tmp_path, kind, whole):
    output = stop_after(tmp_path, kind, 5)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OutputExistsError, match=r"\.part, finished=5 of 12 tiles.*resume=True.*overwrite=True"):
        run_job(make_job(tmp_path, kind))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    model = CountingModel()
    assert run_job(make_job(tmp_path, kind, model, overwrite=True)).n_resumed == 0
    assert model.n_calls == 12
    assert read_result(output) == whole[kind]


@every_kind
def test_with_nothing_there_resume_just_starts(tmp_path, kind, whole):
    assert run_job(job := make_job(tmp_path, kind, resume=True)).n_resumed == 0
    assert read_result(job.output.path) == whole[kind]


def test_an_old_output_stays_until_a_resumed_job_is_complete(tmp_path, whole):
    (tmp_path / "image.npy").write_text("old")
    output = stop_after(tmp_path, "npy", 5, overwrite=True)
    assert output.read_text() == "old"
    with pytest.raises(OutputExistsError, match="The output exists"):
        run_job(make_job(tmp_path, "npy", resume=True))
    run_job(make_job(tmp_path, "npy", model := CountingModel(), resume=True, overwrite=True))
    assert model.n_calls == 7
    assert read_result(output) == whole["npy"]


def test_another_job_is_refused_with_the_first_difference(tmp_path):
    stop_after(tmp_path, "deflate", 5)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"first difference: latents, begun with 30 × 22 × 4.*now 30 × 22 × 4"):
        run_job(make_job(tmp_path, "deflate", resume=True, seed=1))
    with pytest.raises(InputError, match="first difference: compression, begun with deflate, now none"):
        run_job(make_job(tmp_path, "none", resume=True))
    job = make_job(tmp_path, "deflate", resume=True)
    with pytest.raises(InputError, match="first difference: weights, begun with nothing, now abc"):
        run_job(make_job(tmp_path, "deflate", resume=True, inputs=job.inputs | {"weights": "abc"}))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_differences_are_named_in_order():
    assert find_difference({"a": 1, "b": 2}, {"a": 1, "b": 2}) is None
    assert find_difference({"a": 1, "b": 2}, {"a": 3, "b": 4}) == "a, begun with 1, now 3"
    assert find_difference({"a": 1, "b": 2}, {"a": 1}) == "b, begun with 2, now nothing"
    # JSON keeps the kinds apart: True is not 1.
    assert find_difference({"a": 1}, {"a": 1, "c": False}) == "c, begun with nothing, now False"


OLD_JOURNAL = """\
{"format": 1, "job": "f2f3f4", "fields": {"latents": "30 × 22 × 4", "software": "taesd-tiler 1.0, journal 1"}} 9ea16852
[0, 3, 1] e2c70d7a
[0, 3, 0] fbdc3c3b
[1, 0, 0, 3, 99] 2ef92da0
"""


@pytest.mark.parametrize("content", [OLD_JOURNAL, OLD_JOURNAL.replace("format", "fromat")], ids=["old", "damaged"])
def test_a_journal_that_cannot_be_read_is_refused_and_nothing_is_touched(tmp_path, content, whole):
    output = stop_after(tmp_path, "deflate", 5)
    find_journal(output).write_text(content)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    was = "of another version, journal format=1" if "format" in content else "damaged"
    for error, options in ((InputError, {"resume": True}), (OutputExistsError, {})):
        with pytest.raises(error, match=rf"half done, and its journal is {was}: .* without resume=\.") as caught:
            run_job(make_job(tmp_path, "deflate", **options))
        assert not hasattr(caught.value, "__notes__")
        assert "Use resume=" not in str(caught.value)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    run_job(make_job(tmp_path, "deflate", overwrite=True))
    assert read_result(output) == whole["deflate"]
    assert names(tmp_path) == [output.name]


def test_a_part_that_is_not_ours_is_not_touched(tmp_path):
    """As of a browser, which names its downloads so."""
    (tmp_path / "image.npy.part").write_text("a download")
    for resume in (False, True):
        with pytest.raises(OutputExistsError, match="without a journal"):
            run_job(make_job(tmp_path, "npy", resume=resume))
        assert [path.read_text() for path in tmp_path.iterdir()] == ["a download"]
    run_job(make_job(tmp_path, "npy", overwrite=True))
    assert names(tmp_path) == ["image.npy"]


def test_a_kill_between_the_last_two_steps_is_cleaned_up(tmp_path, whole):
    output = stop_after(tmp_path, "deflate", 11)
    job = make_job(tmp_path, "deflate", resume=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "remove", lambda path: None)  # the file has its name, the journal is still there
        run_job(job)
    assert names(tmp_path) == ["image.tif", "image.tif.part.journal"]
    run_job(make_job(tmp_path, "deflate", model := CountingModel(), resume=True))
    assert model.n_calls == 0
    assert read_result(output) == whole["deflate"]
    assert names(tmp_path) == ["image.tif"]


def test_a_journal_without_a_part_does_not_vouch_for_an_old_output(tmp_path):
    """Not complete, so the output is not of this job."""
    (tmp_path / "image.npy").write_text("old")
    stop_after(tmp_path, "npy", 11, overwrite=True)
    (tmp_path / "image.npy.part").unlink()
    with pytest.raises(OutputExistsError):
        run_job(make_job(tmp_path, "npy", resume=True))
    assert (tmp_path / "image.npy").read_text() == "old"


# -- what a failure leaves


@every_kind
def test_bad_input_leaves_nothing_where_nothing_was_finished(tmp_path, kind):
    job = make_job(tmp_path, kind)
    job.source._array[...] = np.nan
    with pytest.raises(InputError, match="NaN"):
        run_job(job)
    assert names(tmp_path) == []


@every_kind
def test_an_input_that_changes_during_the_run_becomes_no_file(tmp_path, kind):
    def change(number):
        if number == 3:
            job.source._array[...] += 1

    job = make_job(tmp_path, kind, CountingModel(change))
    with pytest.raises(ChangedError, match="during the run"):
        run_job(job)
    assert names(tmp_path) == []


@every_kind
def test_nan_at_the_end_loses_nothing_and_a_run_that_reads_it_as_0_goes_on(tmp_path, kind):
    def job_in(folder, nonfinite, **options):
        folder.mkdir(exist_ok=True)
        # dask begins at the end.
        job = make_job(folder, kind, model := CountingModel(), height=64, width=16, **options)
        job.source._array[0, 3, 0] = np.nan
        source = treat_nonfinite(job.source, nonfinite)
        inputs = {"latents": fingerprint_source(source), "nonfinite": nonfinite}
        return replace(job, source=source, inputs=inputs), model

    def run(folder, nonfinite, **options):
        job, model = job_in(folder, nonfinite, **options)
        run_job(job)
        return job.output.path, model

    whole, _ = run(tmp_path / "whole", "zero")
    folder = tmp_path / "parts"
    with pytest.raises(NonFiniteError, match='nonfinite="zero"') as caught:
        run(folder, "error")
    n_kept = int(caught.value.__notes__[0].split()[0])
    assert n_kept > 4
    with pytest.raises(NonFiniteError):
        run(folder, "error", resume=True)
    # The same run once more, killed half way: from then on there may be zeros in it.
    job, _ = job_in(folder, "zero", resume=True)
    with pytest.raises(Broken):
        run_job(job, raise_at(n_kept + 1))
    with pytest.raises(InputError, match="nonfinite, begun with zero, now error"):
        run(folder, "error", resume=True)
    output, last = run(folder, "zero", resume=True)
    assert last.n_calls <= 16 - n_kept - 1
    results = read_result(output), read_result(whole)
    if isinstance(results[0], list):  # of a TIFF; its tags say how it was begun
        results = tuple([tiles for _, tiles in pages] for pages in results)
    assert results[0] == results[1]


@every_kind
def test_a_failure_before_the_first_tile_leaves_nothing(tmp_path, kind):
    with pytest.raises(TileError) as caught:
        run_job(make_job(tmp_path, kind, CountingModel(fail_at(0))))
    assert not hasattr(caught.value, "__notes__")
    assert names(tmp_path) == []

    def load():
        raise MemoryError

    with pytest.raises(MemoryError):
        run_job(make_job(tmp_path, kind, load_model=load))
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
def test_whatever_stops_a_run_keeps_what_is_finished(tmp_path, monkeypatch, error, whole):
    job = make_job(tmp_path, "deflate")
    told = []

    def progress(n_done, *_):
        told.append(n_done)
        if n_done == 6:
            raise error

    with pytest.raises(error) as caught:
        run_job(job, progress)
    assert caught.value.__notes__ == ["6 of 12 tiles are finished and kept."]
    told.clear()
    run_job(make_job(tmp_path, "deflate", resume=True), lambda *counts: told.append(counts))
    assert told[0] == told[1] == (6, 12, 0)
    assert [counts[0] for counts in told[1:]] == [6, 7, 8, 9, 10, 11, 12]
    assert told[2][2] <= 64 * 64
    assert read_result(job.output.path) == whole["deflate"]


# -- syncing


@every_kind
def test_a_line_is_on_the_disk_only_after_what_it_tells_of(tmp_path, kind, monkeypatch):
    """Data first: nothing is written to the part between its last sync and the line that tells of it."""
    monkeypatch.setattr(notes, "SYNC_SECONDS", 0)
    log = []
    write, sync = files.write_at, files.sync

    def name_of(file):
        return os.readlink(f"/proc/self/fd/{file.fileno()}").rpartition(".")[2]

    monkeypatch.setattr(
        files, "write_at", lambda file, *rest: (log.append(("write", name_of(file))), write(file, *rest))
    )
    monkeypatch.setattr(files, "sync", lambda file: (log.append(("sync", name_of(file))), sync(file)))
    run_job(make_job(tmp_path, kind))
    assert log.count(("sync", "journal")) > 12
    dirty = set()
    for action, name in log:
        if name == "journal":
            assert not dirty, log
        elif action == "write":
            dirty.add(name)
        else:
            dirty.discard(name)


def test_syncs_are_seconds_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(notes, "SYNC_SECONDS", 1000)
    n_syncs = []
    sync = files.sync
    monkeypatch.setattr(files, "sync", lambda file: (n_syncs.append(1), sync(file)))
    run_job(make_job(tmp_path, "none", height=128, width=128))
    assert len(n_syncs) < 20


def test_after_a_failed_sync_nothing_more_is_believed(tmp_path, monkeypatch, whole):
    """The system tells of lost pages once; the next sync would succeed without them."""
    monkeypatch.setattr(notes, "SYNC_SECONDS", 0)
    sync, calls = files.sync, []

    def lose(file):
        name = os.readlink(f"/proc/self/fd/{file.fileno()}")
        if name.endswith(".part"):
            calls.append(name)
            if len(calls) == 3:
                raise OSError(5, "Input/output error")
        sync(file)

    monkeypatch.setattr(files, "sync", lose)
    with pytest.raises(OSError, match="Input/output error") as caught:
        run_job(make_job(tmp_path, "npy", workers=3))
    # One sync before the first tile, one that succeeded: nothing that came with or after the second. (There may be no
    # more than these, for what ends during a sync waits for the next.)
    assert caught.value.filename == str(tmp_path / "image.npy.part")
    n_kept = sum(each[0] == 0 for each in parse((tmp_path / "image.npy.part.journal").read_bytes())[1])
    assert caught.value.__notes__ == [f"{n_kept} of 12 tiles are finished and kept."]
    monkeypatch.setattr(files, "sync", sync)
    run_job(make_job(tmp_path, "npy", model := CountingModel(), resume=True))
    assert model.n_calls == 12 - n_kept
    assert len(calls) == 3
    assert read_result(tmp_path / "image.npy") == whole["npy"]


# -- one run at a time


def test_a_second_run_on_the_same_output_is_refused_at_once(tmp_path, whole):
    entered, go_on = threading.Event(), threading.Event()

    def wait(number):
        entered.set()
        assert go_on.wait(20)

    job = make_job(tmp_path, "deflate", CountingModel(wait))
    thread = threading.Thread(target=run_job, args=[job])
    thread.start()
    assert entered.wait(20)
    for options in ({}, {"resume": True}, {"overwrite": True}, {"resume": True, "overwrite": True}):
        with pytest.raises(OutputExistsError, match="Another run is writing this output"):
            run_job(make_job(tmp_path, "deflate", **options))
    go_on.set()
    thread.join()
    assert read_result(job.output.path) == whole["deflate"]
    assert names(tmp_path) == ["image.tif"]


def test_a_process_that_holds_the_lock_keeps_others_out_until_it_is_killed(tmp_path):
    output = stop_after(tmp_path, "npy", 5)
    script = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True)"
    script += "; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, find_journal(output)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(OutputExistsError, match="Another run"):
            run_job(make_job(tmp_path, "npy", resume=True))
        process.kill()
    run_job(make_job(tmp_path, "npy", resume=True))
    assert names(tmp_path) == ["image.npy"]


def test_a_journal_that_was_removed_while_it_was_locked_is_made_again(tmp_path, monkeypatch):
    """The other run completes between our opening its journal and our lock on it."""
    path = find_journal(tmp_path / "image.npy")
    path.touch()
    flock, calls = fcntl.flock, []

    def remove_first(file, how):
        if not calls:
            path.unlink()
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    run_job(make_job(tmp_path, "npy"))
    assert len(calls) == 2
    assert names(tmp_path) == ["image.npy"]
