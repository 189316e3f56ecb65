"""A job on a cluster of processes gives the file that one process gives, whoever is killed."""

import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import cloudpickle
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import RepeatModel
from small_cluster import SleepyModel, SmallCluster, open_file
from small_job import CountingModel, make_job, read_result, run_whole
from test_damage import find_bytes, flip, list_pieces

import tiler
from tiler.command.cli import main
from tiler.errors import InputError, OptionError, RefusedError, TileError
from tiler.formats.tiff import TiffSink
from tiler.formats.zarr import ZarrSink
from tiler.jobs import notes, room
from tiler.jobs.cluster import Cluster, describe_tasks
from tiler.jobs.far_tasks import open_tasks
from tiler.jobs.job import run_job
from tiler.jobs.journal import Journal
from tiler.jobs.journal_file import find_journal
from tiler.jobs.journal_lines import parse
from tiler.profile import Profile
from tiler.pyramid import find_parent
from tiler.sources.source import fingerprint_source

pytest.importorskip("distributed")

slow = pytest.mark.slow
KINDS = ["npy", "deflate", "jpeg", "zarr"]
HEIGHT, WIDTH = 70, 54
"""Latent px: 9 × 7 tiles, 63 in all, and four levels above them."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = SmallCluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def client(cluster):
    with cluster.connect() as client:
        yield client


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Results of one process, by kind."""
    return {kind: run_whole(tmp_path_factory.mktemp(kind), kind, height=HEIGHT, width=WIDTH) for kind in KINDS}


def make_far_job(folder, kind, *, seconds=0.0, calls=None, height=HEIGHT, width=WIDTH, **changes):
    """The job of ``whole``, in terms that can travel."""
    job = make_job(folder, kind, height=height, width=width, **changes)
    path = folder / "latents.npy"
    if not path.exists():
        np.save(path, np.random.default_rng(0).normal(size=(height, width, 4)).astype(np.float32))
    load_model = partial(SleepyModel, seconds, calls and str(calls))
    return replace(job, open_source=partial(open_file, str(path)), load_model=load_model)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def count_noted(job):
    journal = find_journal(job.output.path)
    return sum(entry[0] == 0 for entry in parse(journal.read_bytes())[1]) if journal.exists() else 0


@pytest.mark.parametrize("kind", KINDS)
def test_tile_by_tile_it_is_the_file_of_one_process(tmp_path, client, kind, whole):
    told = []
    job = make_far_job(tmp_path, kind, calls=tmp_path / "calls", seconds=0.01, profile=Profile())
    run_job(job, lambda *counts: told.append(counts), Cluster(client))
    assert read_result(job.output.path) == whole[kind]
    assert names(tmp_path) == sorted(["calls", job.output.path.name, "latents.npy"])
    processes = (tmp_path / "calls").read_text().split()
    # Each tile once, by both workers about alike.
    assert len(processes) == 63
    assert {processes.count(each) >= 15 for each in set(processes)} == {True}
    assert len(set(processes)) == 2
    assert [counts[:2] for counts in told] == [(n, 63) for n in range(1, 64)]
    assert job.profile.seconds["decode"] >= 63 * 0.01


@pytest.mark.parametrize("n_workers", [pytest.param(1, marks=slow), 3, pytest.param(4, marks=slow)])
def test_so_many_workers_give_the_same_pixels(tmp_path, n_workers, whole):
    cluster = SmallCluster(tmp_path, n_workers)
    folder = tmp_path / "job"
    folder.mkdir()
    try:
        with cluster.connect() as client:
            job = make_far_job(folder, "deflate", seconds=0.02, calls=folder / "calls")
            run_job(job, None, Cluster(client))
        assert len(set((folder / "calls").read_text().split())) == n_workers
    finally:
        cluster.stop()
    assert read_result(job.output.path) == whole["deflate"]


@pytest.mark.parametrize("kind", ["deflate", "jpeg", *(pytest.param(each, marks=slow) for each in ("npy", "zarr"))])
def test_a_worker_that_is_killed_loses_only_its_tiles(tmp_path, monkeypatch, kind, whole):
    monkeypatch.setattr(notes, "SYNC_SECONDS", 0)
    cluster = SmallCluster(tmp_path, 2)
    folder = tmp_path / "job"
    folder.mkdir()
    job = make_far_job(folder, kind, seconds=0.05, calls=folder / "calls")
    told = []

    def kill_at_30(*counts):
        told.append(counts[:2])
        if counts[0] == 30:
            cluster.workers[0].kill()

    try:
        with cluster.connect() as client:
            run_job(job, kill_at_30, Cluster(client))
    finally:
        cluster.stop()
    assert read_result(job.output.path) == whole[kind]
    assert told == [(n, 63) for n in range(1, 64)]
    # What it had in its two threads, and what was not noted yet. Where the file does not give back what was written,
    # also what lies under the quarters that it held, at most what was done by then.
    n_again = 30 if kind == "jpeg" else 3
    assert 63 <= len((folder / "calls").read_text().split()) <= 63 + 2 + n_again


@pytest.mark.parametrize(
    ("kind", "on_cluster"),
    [
        ("deflate", False),
        ("jpeg", True),
        *(
            pytest.param(*each, marks=slow)
            for each in [("npy", True), ("deflate", True), ("jpeg", False), ("zarr", True)]
        ),
    ],
)
def test_when_the_scheduler_is_killed_the_job_goes_on(tmp_path, client, monkeypatch, kind, on_cluster, whole):
    monkeypatch.setattr(notes, "SYNC_SECONDS", 0.2)
    other = SmallCluster(tmp_path, 2)
    folder = tmp_path / "job"
    folder.mkdir()
    job = make_far_job(folder, kind, seconds=0.05)
    try:
        with pytest.raises(TileError, match="The cluster is lost: scheduler=") as caught, other.connect() as lost:
            run_job(job, lambda n, *_: other.scheduler.kill() if n == 40 else None, Cluster(lost))
    finally:
        other.stop()
    assert not job.output.path.exists()
    assert 30 <= count_noted(job) < 63
    assert caught.value.__notes__ == [f"{count_noted(job)} of 63 tiles are finished and kept."]
    calls = folder / "calls"
    job = make_far_job(folder, kind, resume=True, calls=calls)
    run_job(job, None, Cluster(client) if on_cluster else None)
    assert read_result(job.output.path) == whole[kind]
    # Of a lossy pyramid, tiles whose quarters were not kept are decoded again.
    assert len(calls.read_text().split()) <= 63 - 30 + (3 * 4 + 2 if kind == "jpeg" else 0)
    assert names(folder) == sorted(["calls", job.output.path.name, "latents.npy"])


FAR_CLIENT = """
import sys
from pathlib import Path
from distributed import Client
from test_cluster import make_far_job
from tiler.jobs import notes
from tiler.jobs.cluster import Cluster
from tiler.jobs.job import run_job

notes.SYNC_SECONDS = 0.2
if __name__ == "__main__":
    address, folder, kind = sys.argv[1:]
    with Client(address) as client:
        run_job(make_far_job(Path(folder), kind, seconds=0.05), None, Cluster(client))
"""


@pytest.mark.parametrize("kind", ["deflate", *(pytest.param(each, marks=slow) for each in ("npy", "jpeg", "zarr"))])
def test_when_the_client_is_killed_the_job_goes_on(tmp_path, cluster, client, kind, whole):
    job = make_far_job(tmp_path, kind)
    words = [sys.executable, "-c", FAR_CLIENT, client.scheduler.address, str(tmp_path), kind]
    with subprocess.Popen(words, env=cluster.environment, stderr=subprocess.PIPE, text=True) as process:
        while count_noted(job) < 20 and process.poll() is None:
            time.sleep(0.02)
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
    n_noted = count_noted(job)
    assert 20 <= n_noted < 63
    assert not job.output.path.exists()
    # On the same workers at once: what the dead client has asked of them may still be on its way.
    calls = tmp_path / "calls"
    run_job(make_far_job(tmp_path, kind, resume=True, calls=calls), None, Cluster(client))
    assert read_result(job.output.path) == whole[kind]
    n_again = 3 * 4 + 2 if kind == "jpeg" else 0
    assert 63 - n_noted <= len(calls.read_text().split()) <= 63 - n_noted + n_again
    assert names(tmp_path) == sorted(["calls", job.output.path.name, "latents.npy"])


@pytest.mark.parametrize("kind", ["deflate", "jpeg", pytest.param("zarr", marks=slow)])
def test_workers_check_what_is_half_done_and_make_again_what_was_damaged(tmp_path, client, monkeypatch, kind, whole):
    def stop(number):
        if number == 40:
            raise ValueError

    with pytest.raises(TileError):
        run_job(make_job(tmp_path, kind, CountingModel(stop), height=HEIGHT, width=WIDTH))
    calls = tmp_path / "calls"
    job = make_far_job(tmp_path, kind, resume=True, calls=calls)
    pieces = list_pieces(job.output.path)
    node = next(task for task in pieces if task[0] == 1)
    leaf = next(task for task in pieces if task[0] == 0 and find_parent(task) in pieces and find_parent(task) != node)
    for task in (leaf, node):
        flip(*find_bytes(job.output.path, kind, task))
    for sink in (TiffSink, ZarrSink):
        monkeypatch.setattr(sink, "check", None)  # of this process
    told = []
    done = run_job(job, lambda *counts: told.append(counts[:2]), Cluster(client))
    # Of a lossy pyramid the tiles below the node are decoded again as well.
    n_lost = 1 + (4 if kind == "jpeg" else 0)
    assert (done.n_damaged, done.n_resumed) == (2, 40 - n_lost)
    assert len(calls.read_text().split()) == 23 + n_lost
    assert max(n for n, _ in told) == 63
    assert read_result(job.output.path) == whole[kind]
    assert names(tmp_path) == sorted(["calls", job.output.path.name, "latents.npy"])


def test_a_failing_tile_is_named_and_what_is_finished_stays(tmp_path, client):
    job = make_far_job(tmp_path, "deflate")
    with pytest.raises(TileError, match=r"Tile \d, \d failed \(rows .*\): no more"):
        run_job(replace(job, load_model=partial(FailingModel, str(tmp_path / "calls"))), None, Cluster(client))
    assert count_noted(job) > 0
    run_job(make_far_job(tmp_path, "deflate", resume=True), None, Cluster(client))


class FailingModel(RepeatModel):
    """Fails at the twentieth tile."""

    def __init__(self, calls):
        self.calls = calls

    def __call__(self, window, *place):
        with open(self.calls, "a") as file:
            file.write(".")
            if file.tell() >= 20:
                raise RuntimeError("no more")
        return super().__call__(window, *place)


def pretend_to_have_a_gpu(there):
    """In a worker: its machine has a GPU, or not."""
    from taesd_core import engines

    engines.has_gpu = lambda: there


def test_workers_that_would_take_different_engines_are_asked_which(tmp_path, client):
    one, other = client.scheduler_info(n_workers=-1)["workers"]
    np.save(tmp_path / "z.npy", np.zeros((9, 9, 4), np.float32))
    arguments = tmp_path / "z.npy", tmp_path / "image.npy"
    try:
        client.run(pretend_to_have_a_gpu, True, workers=[other])
        with pytest.raises(OptionError, match=f"(?=.*kernels on {one})(?=.*keras on {other}).*engine"):
            tiler.decode(*arguments, weights="photo", client=client)
        assert names(tmp_path) == ["z.npy"]
        assert tiler.decode(*arguments, weights="photo", client=client, engine="kernels").engine == "kernels"
    finally:
        client.run(pretend_to_have_a_gpu, False)
    alone = tiler.decode(tmp_path / "z.npy", tmp_path / "alone.npy", weights="photo", engine="kernels")
    assert alone.engine == "kernels"
    np.testing.assert_array_equal(np.load(tmp_path / "image.npy"), np.load(tmp_path / "alone.npy"))


def test_a_worker_that_sees_another_input_does_nothing(tmp_path, client):
    job = make_far_job(tmp_path, "deflate")
    other = tmp_path / "other.npy"
    np.save(other, np.zeros((HEIGHT, WIDTH, 4), np.float32))
    with pytest.raises(TileError, match=r"cannot do this job: worker=.*the input is another one"):
        run_job(replace(job, open_source=partial(open_file, str(other))), None, Cluster(client))
    assert fingerprint_source(open_file(tmp_path / "latents.npy")) == fingerprint_source(job.source)
    with pytest.raises(TileError, match=r"cannot do this job: worker=.*No such file"):
        run_job(replace(job, open_source=partial(open_file, str(tmp_path / "absent"))), None, Cluster(client))
    assert names(tmp_path) == ["latents.npy", "other.npy"]


@pytest.mark.parametrize("kind", ["deflate", "zarr"])
def test_a_worker_that_opens_the_part_of_a_job_begun_meanwhile_does_nothing(tmp_path, monkeypatch, kind):
    job = make_far_job(tmp_path, kind)
    journal = Journal(job.output, job.plan, job.fields, resume=False)
    journal.start("{}")
    far = pickle.loads(describe_tasks(job, journal, "run")._content)

    def open_sink(**options):
        find_journal(job.output.path).write_bytes(b"")  # how another job begins
        return job.output.make_sink(**options)

    monkeypatch.setattr("distributed.get_worker", lambda: SimpleNamespace(address="tcp://far"))
    with pytest.raises(TileError, match=r"cannot do this job: .*another or no output is half done"):
        open_tasks(replace(far, output=replace(far.output, make_sink=open_sink)))
    journal.suspend()


def test_an_input_at_fault_is_named_and_the_output_never_gets_its_name(tmp_path, client):
    job = make_far_job(tmp_path, "deflate")
    values = np.load(tmp_path / "latents.npy")
    values[69, 3, 2] = np.nan
    np.save(tmp_path / "latents.npy", values)
    with pytest.raises(InputError, match="row 69, column 3, channel 2"):
        run_job(replace(job, source=open_file(tmp_path / "latents.npy")), None, Cluster(client))
    assert "image.tif" not in names(tmp_path)  # what was finished before is kept, as in one process


def test_what_cannot_run_on_a_cluster_is_refused(tmp_path, client):
    with pytest.raises(OptionError, match="workers read latents from a file: latents=ndarray"):
        tiler.decode(np.zeros((4, 8, 8), np.float32), tmp_path / "a.tif", weights="photo", client=client)
    np.save(tmp_path / "latents.npy", np.zeros((1, 4, 8, 8), np.float32))
    with pytest.raises(OptionError, match="A cluster's workers have their own threads: workers=3"):
        tiler.decode(tmp_path / "latents.npy", tmp_path / "a.tif", weights="photo", client=client, workers=3)
    executor = Cluster(client)
    executor._limits = [10**9, 10**6]
    with pytest.raises(RefusedError, match=r"needed=.* in each worker as predicted, limit=1 MB"):
        run_job(make_far_job(tmp_path, "deflate"), None, executor)
    assert names(tmp_path) == ["latents.npy"]


def test_a_file_that_the_client_has_no_memory_to_complete_is_refused_before_any_work(tmp_path, client, monkeypatch):
    job = make_far_job(tmp_path, "png")
    job = replace(job, output=replace(job.output, commit_bytes=10**9))
    monkeypatch.setattr(room, "find_memory", lambda: 10**9 - 1)
    with pytest.raises(RefusedError, match=r"needed=1 GB as predicted in the client.*available=1 GB.*force=True"):
        run_job(job, None, Cluster(client))
    assert names(tmp_path) == ["latents.npy"]
    monkeypatch.setattr(room, "find_memory", lambda: 10**9)
    run_job(job, None, Cluster(client))


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tiler.jobs.cluster.CONNECT_SECONDS", 0.5)
    np.save(tmp_path / "latents.npy", np.zeros((4, 8, 8), np.float32))
    words = ["decode", str(tmp_path / "latents.npy"), str(tmp_path / "a.tif"), "--weights", "photo"]
    result = CliRunner().invoke(main, [*words, "--scheduler", "tcp://127.0.0.1:1"])
    assert result.exit_code == 5
    assert result.stderr == (
        "tiler: No scheduler answers: scheduler=tcp://127.0.0.1:1, waited=0.5 s. Start one: dask scheduler.\n"
    )


@pytest.mark.slow
def test_the_decoder_itself_on_two_workers(tmp_path, cluster, client):
    latents = np.random.default_rng(0).normal(size=(4, 50, 70)).astype(np.float32)
    np.save(tmp_path / "latents.npy", latents)
    one, two = tmp_path / "one.tif", tmp_path / "two.tif"
    file = partial(tiler.Tiff, file_tile_px=64)
    tiler.decode(tmp_path / "latents.npy", file(one), weights="photo", tile_size_px=128)
    words = ["decode", str(tmp_path / "latents.npy"), str(two), "--weights", "photo", "--tile-size", "128"]
    scheduler = ["--file-tile", "64", "--scheduler", client.scheduler.address, "--verify", "2"]
    result = CliRunner().invoke(main, [*words, *scheduler])
    assert result.exit_code == 0, result.output
    assert read_result(one) == read_result(two)


def test_what_travels_with_a_task_does_not_grow_with_the_image(tmp_path):
    sizes = []
    for height in (64, 640):
        job = make_far_job(tmp_path, "deflate", height=height, width=height)
        assert job.plan.peak_bytes > 0  # reckoned, and kept
        journal = SimpleNamespace(identity="x")
        sizes.append(len(cloudpickle.dumps(describe_tasks(job, journal, "run"))))
        (tmp_path / "latents.npy").unlink()
    assert abs(sizes[1] - sizes[0]) < 50
