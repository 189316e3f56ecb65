"""The system fails, or the power does, at every point of a small job: the old output is intact or the job goes on.

In the manner of SQLite's tests: another ``os`` under ``tiler.files`` fails the n-th call, for every n, or keeps a log
of all calls, from which the disk is made as a power cut between any two of them may leave it.
"""

import itertools
import os
import random
import stat
from dataclasses import dataclass, field

import pytest
from small_job import CountingModel, make_job, read_result, run_whole

from tiler import files
from tiler.errors import InputError, OutputExistsError, TileError
from tiler.jobs import notes
from tiler.jobs.job import run_job
from tiler.jobs.journal import Journal
from tiler.jobs.journal_lines import parse

KINDS = ["npy", "deflate", "jpeg", "png", "latents", "zarr"]
# What a power cut leaves of folders is not made here.
every_kind = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "zarr"])
CHANGES = ("open", "pwrite", "fsync", "ftruncate", "posix_fallocate", "replace", "unlink", "mkdir", "rmdir")
NEVER_CALLED = {
    *((call, kind) for kind in ("npy", "deflate", "jpeg", "png", "latents") for call in ("mkdir", "rmdir")),
    *(("posix_fallocate", kind) for kind in ("deflate", "jpeg", "zarr")),
}
SIDE = 16
"""Latent px: four tiles, and two levels above them."""


class OtherSystem:
    """What ``os`` offers, each changing call going through ``call``."""

    def __getattr__(self, name):
        real = getattr(os, name)
        return (lambda *args: self.call(name, real, *args)) if name in CHANGES else real


class FailingSystem(OtherSystem):
    """Fails the n-th call of a kind; ``lasting``, and each one after it, as on a full disk."""

    def __init__(self, kind=None, number=-1, *, error=(5, "Input/output error"), lasting=False, short=False):
        self.kind, self.number, self.error, self.lasting, self.short = kind, number, error, lasting, short
        self.n_calls = dict.fromkeys(CHANGES, 0)

    def call(self, name, real, *args):
        number = self.n_calls[name]
        self.n_calls[name] += 1
        if name == self.kind and (number == self.number or (self.lasting and number > self.number)):
            if self.short and number == self.number and len(args[1]) > 1:
                return real(args[0], args[1][: len(args[1]) // 2], args[2])
            raise OSError(*self.error)
        return real(*args)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Results of runs that nothing happened to, by kind."""
    return {kind: run_whole(tmp_path_factory.mktemp(kind), kind, height=SIDE, width=SIDE) for kind in KINDS}


@pytest.fixture(autouse=True)
def often_synced(monkeypatch):
    monkeypatch.setattr(notes, "SYNC_SECONDS", 0)


@pytest.fixture
def laid_out_anew(monkeypatch):
    """What a power cut leaves is written once more by these tests: to the file system they are other files."""
    monkeypatch.setattr(files, "find_number", lambda path: 1)


def job_in(folder, kind, model=None, **options):
    return make_job(folder, kind, model, height=SIDE, width=SIDE, **options)


def read_old(output):
    return output.is_file() and output.read_bytes() == b"old"


def check_recovery(folder, kind, whole):
    """The final name holds nothing, the old or the whole; and a run that goes on completes it. Return its tiles."""
    output = job_in(folder, kind).output.path
    if output.exists():
        assert read_old(output) or read_result(output) == whole[kind]
    old = read_old(output)
    if output.exists() and not old and os.listdir(folder) == [output.name]:
        return 4
    model = CountingModel()
    done = run_job(job_in(folder, kind, model, resume=True, overwrite=old))
    assert read_result(output) == whole[kind]
    assert os.listdir(folder) == [output.name]
    assert done.n_resumed + model.n_calls == 4
    return done.n_resumed


FAULTS = {
    "an error": {},
    "a full disk": {"error": (28, "No space left on device"), "lasting": True},
    "a disk that fills": {"error": (28, "No space left on device"), "lasting": True, "short": True},
}


# A .npy file is written row by row, and one row is like the other: by default every eleventh.
@pytest.mark.parametrize(
    ("kind", "step"),
    [
        ("npy", 11),
        pytest.param("npy", 1, marks=pytest.mark.slow),
        ("deflate", 1),
        ("jpeg", 1),
        ("png", 11),
        ("latents", 5),
        ("zarr", 1),
    ],
)
@pytest.mark.parametrize(
    ("call", "fault", "old"),
    [(call, "an error", old) for call in CHANGES for old in ("new", "old") if call != "pwrite" or old == "old"]
    + [("pwrite", "a full disk", "new"), ("pwrite", "a disk that fills", "new")],
)
def test_whichever_call_fails_the_job_goes_on(tmp_path, monkeypatch, kind, step, call, fault, old, whole):
    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        if old == "old":
            job_in(folder, kind).output.path.write_bytes(b"old")
        return folder

    system = FailingSystem()
    monkeypatch.setattr(files, "os", system)
    run_job(job_in(make("all"), kind, overwrite=True))
    n_calls = system.n_calls[call]
    assert n_calls > 0 or (call, kind) in NEVER_CALLED
    most_resumed = 0
    for number in range(0, n_calls, step if call == "pwrite" else 1):
        folder = make(str(number))
        monkeypatch.setattr(files, "os", FailingSystem(call, number, **FAULTS[fault]))
        with pytest.raises(OSError, match=r"error|space") as caught:
            run_job(job_in(folder, kind, overwrite=True))
        monkeypatch.setattr(files, "os", os)
        n_resumed = check_recovery(folder, kind, whole)
        # The error promises no more than there is.
        promised = [int(note.split()[0]) for note in getattr(caught.value, "__notes__", [])]
        assert promised in ([], [n_resumed])
        most_resumed = max(most_resumed, n_resumed)
    if call in ("pwrite", "fsync", "replace"):
        assert most_resumed == 4 or (most_resumed == 3 and step > 1)


# -- kills


class KilledSystem(OtherSystem):
    """Makes all changes up to the n-th, and none from there on, whatever is tried."""

    def __init__(self, number):
        self.n_left = number

    def call(self, name, real, *args):
        self.n_left -= 1
        if self.n_left < 0:
            raise SystemExit("killed")
        return real(*args)


@pytest.mark.parametrize("again", [{"resume": True}, {"overwrite": True}, {}], ids=["resumed", "over", "plain"])
@pytest.mark.parametrize("kind", ["png", "latents"])
def test_killed_while_it_is_completed_a_picture_is_half_done_or_has_no_part(tmp_path, monkeypatch, kind, again, whole):
    seen = []
    killed = True
    while killed:
        folder = tmp_path / str(len(seen))
        folder.mkdir()
        system = KilledSystem(10**9)

        def begin_to_kill(journal, commit=Journal.commit, system=system):
            journal.sync()
            system.n_left = len(seen)
            commit(journal)

        with monkeypatch.context() as patch:
            patch.setattr(files, "os", system)
            patch.setattr(Journal, "commit", begin_to_kill)
            try:
                run_job(job_in(folder, kind))
                killed = False
            except SystemExit:
                pass
        output = job_in(folder, kind).output.path
        found = {name.removeprefix(output.name) for name in os.listdir(folder)}
        seen.append(found)
        model = CountingModel()
        job = job_in(folder, kind, model, **again)
        if "overwrite" in again or ("resume" in again and ".part.journal" in found):
            done = run_job(job)
            assert done.n_resumed + model.n_calls == 4
            assert model.n_calls == (4 if "overwrite" in again else 0)
            assert os.listdir(folder) == [output.name]
        else:
            with pytest.raises(OutputExistsError, match="half done" if ".part" in found else "output exists"):
                run_job(job)
            assert {name.removeprefix(output.name) for name in os.listdir(folder)} == found
        if output.exists():
            assert read_result(output) == whole[kind]
    # The journal that is left for a moment is removed by a run that goes on.
    half_done, complete = {".part", ".part.journal"}, {"", ".part.journal"}
    states = [half_done, half_done | {".part.encoded"}, half_done, complete, {""}]
    assert [found for found, _ in itertools.groupby(seen)] == states


# -- power cuts


@dataclass
class Log(OtherSystem):
    """Notes every change, in order: what, of which file, and the rest."""

    folder: str
    entries: list = field(default_factory=list)
    opened: dict = field(default_factory=dict)
    named: dict = field(default_factory=dict)
    n_files: int = 0

    def note_old(self, name):
        self.named[name] = self.n_files
        self.entries += [("create", self.n_files, name), ("write", self.n_files, 0, b"old"), ("sync", self.n_files)]
        self.entries.append(("sync names",))
        self.n_files += 1

    def call(self, name, real, *args):
        result = real(*args)
        getattr(self, f"note_{name}")(result, *args)
        return result

    def note_open(self, descriptor, path, flags, *_):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self.opened[descriptor] = None
            return
        name = os.path.basename(path)
        if name not in self.named:
            self.named[name] = self.n_files
            self.entries.append(("create", self.n_files, name))
            self.n_files += 1
        elif flags & os.O_TRUNC:
            self.entries.append(("size", self.named[name], 0))
        self.opened[descriptor] = self.named[name]

    def note_pwrite(self, n_bytes, descriptor, content, position):
        self.entries.append(("write", self.opened[descriptor], position, bytes(content[:n_bytes])))

    def note_ftruncate(self, _, descriptor, size):
        self.entries.append(("size", self.opened[descriptor], size))

    def note_posix_fallocate(self, _, descriptor, start, size):
        self.entries.append(("size", self.opened[descriptor], size))

    def note_fsync(self, _, descriptor):
        number = self.opened[descriptor]
        self.entries.append(("sync names",) if number is None else ("sync", number))

    def note_replace(self, _, source, target):
        source, target = os.path.basename(source), os.path.basename(target)
        self.named[target] = self.named.pop(source)
        self.entries.append(("rename", source, target))

    def note_unlink(self, _, path):
        del self.named[os.path.basename(path)]
        self.entries.append(("unlink", os.path.basename(path)))


def lay_out(entries, folder, fate):
    """Make the disk as a power cut behind ``entries`` may leave it.

    What was synced is there. Of the rest, ``fate(n)`` says how much of n bytes is written, None for zeros in their
    place; and which of the changes of names, which need not be in order.
    """
    synced = {entry[1]: at for at, entry in enumerate(entries) if entry[0] == "sync"}
    names_synced = max((at for at, entry in enumerate(entries) if entry == ("sync names",)), default=-1)
    contents, named = {}, {}
    for at, (action, *rest) in enumerate(entries):
        if action in ("write", "size"):
            number, *rest = rest
            content = contents.setdefault(number, bytearray())
            kept = at <= synced.get(number, -1)
            if action == "size":
                if kept or fate(1):
                    [size] = rest
                    content[:] = content[:size].ljust(size, b"\0")
                continue
            start, written = rest
            n_bytes = len(written) if kept else fate(len(written))
            written = bytes(len(written)) if n_bytes is None else written[:n_bytes]
            if written:
                content[:] = content.ljust(start, b"\0")
                content[start : start + len(written)] = written
        elif at > names_synced and not fate(1):
            continue
        elif action == "create":
            named[rest[1]] = rest[0]
        elif action == "rename":
            if rest[0] in named:
                named[rest[1]] = named.pop(rest[0])
        elif action == "unlink":
            named.pop(rest[0], None)
    folder.mkdir()
    for name, number in named.items():
        (folder / name).write_bytes(contents.get(number, b""))


def torn(seed):
    chance = random.Random(seed)
    return lambda n_bytes: chance.choice([0, n_bytes, chance.randrange(n_bytes + 1), None])


FATES = {
    "nothing": lambda seed: lambda n_bytes: 0,
    "everything": lambda seed: lambda n_bytes: n_bytes,
    "some": torn,
}


@pytest.mark.usefixtures("laid_out_anew")
@every_kind
@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("fate", FATES)
def test_a_power_cut_between_any_two_calls_loses_only_what_was_not_synced(
    tmp_path, monkeypatch, kind, old, fate, whole
):
    (tmp_path / "run").mkdir()
    log = Log(str(tmp_path / "run"))
    if old:
        output = job_in(tmp_path / "run", kind).output.path
        output.write_bytes(b"old")
        log.note_old(output.name)
    n_before = len(log.entries)
    with monkeypatch.context() as patch:
        patch.setattr(files, "os", log)
        run_job(job_in(tmp_path / "run", kind, overwrite=True))
    most_resumed = 0
    for n_entries in range(n_before, len(log.entries) + 1):
        folder = tmp_path / str(n_entries)
        lay_out(log.entries[:n_entries], folder, FATES[fate](n_entries))
        journal = folder / (job_in(folder, kind).output.path.name + ".part.journal")
        n_noted = sum(each[0] == 0 for each in parse(journal.read_bytes())[1]) if journal.exists() else 0
        n_resumed = check_recovery(folder, kind, whole)
        if kind != "jpeg":
            assert n_resumed >= n_noted
        most_resumed = max(most_resumed, n_resumed)
        # Once complete and synced, always complete.
        if n_entries == len(log.entries):
            assert n_resumed == 4
    assert most_resumed == 4


def log_runs(folder, monkeypatch, *jobs):
    """Run jobs one after the other, all but the last to the third tile; return the calls, and where the last began."""
    folder.mkdir()
    log = Log(str(folder))

    def fail(number):
        if number == 2:
            raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(files, "os", log)
        for make in jobs[:-1]:
            with pytest.raises(TileError):
                run_job(make(folder, CountingModel(fail)))
        n_before = len(log.entries)
        run_job(jobs[-1](folder, CountingModel()))
    return log.entries, n_before


@pytest.mark.usefixtures("laid_out_anew")
@every_kind
def test_a_job_that_goes_on_survives_a_power_cut_as_well(tmp_path, monkeypatch, kind, whole):
    """What an earlier run left is overwritten in places: the same must hold there."""

    def go_on(folder, model):
        return job_in(folder, kind, model, resume=True)

    entries, n_before = log_runs(tmp_path / "run", monkeypatch, go_on, go_on)
    for n_entries in range(n_before, len(entries) + 1):
        folder = tmp_path / str(n_entries)
        lay_out(entries[:n_entries], folder, torn(n_entries))
        assert check_recovery(folder, kind, whole) >= 2


@pytest.mark.usefixtures("laid_out_anew")
@every_kind
@pytest.mark.parametrize("fate", FATES)
def test_a_job_that_starts_over_takes_nothing_from_the_one_before(tmp_path, monkeypatch, kind, fate, whole):
    """Another latent of the same size: its lines in the journal look the same, but are not believed."""

    def begin(folder, model):
        return job_in(folder, kind, model, seed=1, resume=True)

    def start_over(folder, model):
        return job_in(folder, kind, model, overwrite=True)

    entries, n_before = log_runs(tmp_path / "run", monkeypatch, begin, start_over)
    n_refused = 0
    for n_entries in range(n_before, len(entries) + 1):
        folder = tmp_path / str(n_entries)
        lay_out(entries[:n_entries], folder, FATES[fate](n_entries))
        try:
            check_recovery(folder, kind, whole)
        except InputError:  # not begun over: what was there is intact
            run_job(job_in(folder, kind, seed=1, resume=True))
            assert n_entries < n_before + 40
            n_refused += 1
    assert n_refused > 0
