"""The graph with a stand-in decoder: pixels, pyramid and order do not depend on who runs it."""

import threading
import weakref

import numpy as np
import pytest
from conftest import RepeatModel, run_serially

from taesd_core.engines import DeviceMemoryError
from taesd_core.network import Network
from tiler.errors import InputError, TileError
from tiler.formats.sink import Sink
from tiler.jobs.engine import run_tile
from tiler.jobs.schedule import Tree, build_graph, run_plan
from tiler.jobs.tasks import SinkTasks
from tiler.plan import Plan
from tiler.pyramid import halve, level_shapes
from tiler.sources.array_source import ArraySource

DECODER = Network.decoder(4)


class ArraySink(Sink):
    """Keeps what is written, and counts that each pixel is written once."""

    def __init__(self, height, width, smallest=None):
        self.levels = level_shapes(height, width, smallest) if smallest else [(height, width)]
        self.arrays = [np.zeros((*shape, 3), np.uint8) for shape in self.levels]
        self.times = [np.zeros(shape, int) for shape in self.levels]

    def write(self, level, window, pixels):
        self.arrays[level][window.slices] = pixels
        self.times[level][window.slices] += 1
        return (0,)

    def check(self, written):
        return [True for _ in written]

    def close(self):
        pass


def start(latents, height, width, core, smallest=None):
    source = latents(height, width)
    plan = Plan(DECODER, height, width, core)
    model = RepeatModel()
    return (
        plan,
        source,
        lambda tile: run_tile(tile, ArraySource(source, 4), model),
        ArraySink(height * 8, width * 8, smallest),
    )


def make_tasks(plan, run, sink):
    return SinkTasks(plan, run, sink, finish=lambda task, piece, quarter: None, recall=lambda task: None)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    ("height", "width", "core"), [(1, 1, 16), (37, 50, 8), (64, 64, 16), (33, 5, 16), (20, 90, 32)]
)
def test_every_level_is_the_whole_image_halved(latents, height, width, core, workers):
    plan, source, run, sink = start(latents, height, width, core, smallest=32)
    run_plan(plan, run, sink, workers=workers)
    expected = run_serially(plan, RepeatModel(), source)
    for level, array in enumerate(sink.arrays):
        np.testing.assert_array_equal(array, expected, err_msg=f"level {level}")
        assert (sink.times[level] == 1).all()
        expected = halve(expected)
    assert max(sink.levels[-1]) <= 32


def test_without_a_pyramid_there_are_only_leaves(latents):
    plan, source, run, sink = start(latents, 40, 50, 16)
    tree = Tree(plan, 1)
    graph, roots = build_graph(tree, make_tasks(plan, run, sink), tree.missing_tops())
    assert len(graph) == len(roots) == plan.n_tiles
    run_plan(plan, run, sink, workers=2)
    np.testing.assert_array_equal(sink.arrays[0], run_serially(plan, RepeatModel(), source))


def test_few_quarters_are_held_whatever_the_size(latents):
    """Depth first: a level that waited for all of the one below it would hold hundreds."""
    import dask.threaded

    alive = most = 0
    lock = threading.Lock()
    plan, _, _, sink = start(latents, 64, 64, 2, smallest=16)
    tasks = make_tasks(plan, lambda tile: np.zeros((16, 16, 3), np.uint8), sink)
    tree = Tree(plan, len(sink.levels))
    graph, roots = build_graph(tree, tasks, tree.missing_tops())

    class Held(np.ndarray):
        def __del__(self):
            nonlocal alive
            with lock:
                alive -= 1

    def hold(function, *arguments):
        nonlocal alive, most
        quarter = function(*arguments)
        if quarter is None:
            return None
        held = np.array(quarter).view(Held)
        with lock:
            alive += 1
            most = max(most, alive)
        return held

    graph = {key: (hold, *task) for key, task in graph.items()}
    dask.threaded.get(graph, roots, num_workers=4)
    assert plan.n_tiles == 1024
    assert 4 <= most <= 40


@pytest.mark.parametrize("smallest", [16, None], ids=["pyramid", "leaves"])
def test_dask_never_has_more_than_a_part_of_the_tree(latents, monkeypatch, smallest):
    import dask.threaded

    monkeypatch.setattr("tiler.jobs.schedule.PART_LEVELS", 2)
    sizes, get = [], dask.threaded.get

    def counting_get(graph, keys, **options):
        sizes.append(len(graph))
        return get(graph, keys, **options)

    monkeypatch.setattr(dask.threaded, "get", counting_get)
    plan, source, run, sink = start(latents, 52, 38, 2, smallest)
    run_plan(plan, run, sink, workers=3)
    assert max(sizes) == (16 + 4 + 1 if smallest else 16)
    assert sum(sizes) >= plan.n_tiles == 26 * 19
    expected = run_serially(plan, RepeatModel(), source)
    for array, times in zip(sink.arrays, sink.times, strict=True):
        np.testing.assert_array_equal(array, expected)
        assert (times == 1).all()
        expected = halve(expected)


def test_of_parts_few_quarters_are_held_too(latents, monkeypatch):
    monkeypatch.setattr("tiler.jobs.schedule.PART_LEVELS", 1)
    plan, _, run, sink = start(latents, 64, 64, 2, smallest=16)
    alive, most = weakref.WeakSet(), 0

    class Quarter(np.ndarray):
        """Can be watched."""

        __hash__ = object.__hash__

    def watched_halve(pixels):
        nonlocal most
        quarter = halve(pixels).view(Quarter)
        alive.add(quarter)
        most = max(most, len(alive))
        return quarter

    monkeypatch.setattr("tiler.jobs.tasks.halve", watched_halve)
    run_plan(plan, run, sink, workers=1)
    assert plan.n_tiles == 1024
    # Three of each of the five levels below the top, and the ones in the making.
    assert 10 <= most <= 20


class SomeFinished:
    """A journal of an earlier run of which a few tasks were found damaged."""

    resumed, n_finished = True, 0

    def __init__(self, missing):
        self.missing, self.told = set(missing), []

    def has_finished(self, task):
        return task not in self.missing

    def is_written(self, task):
        return False

    def recall(self, task):
        self.told.append(("recall", task))
        return np.full((8, 8, 3), task[1], np.uint8)

    def finish(self, task, piece, get_quarter):
        self.told.append(("finish", task))


def test_what_is_missing_below_finished_tasks_is_done_and_nothing_else(latents, monkeypatch):
    """Leaves alone, a node alone, which recalls what it is made of, and a node with a leaf below it."""
    missing = [(0, 0, 0), (0, 9, 9), (1, 3, 3), (2, 4, 4), (1, 8, 8), (0, 16, 17)]
    plan, source, run, sink = start(latents, 64, 64, 2, smallest=16)
    journal = SomeFinished(missing)
    run_plan(plan, run, sink, workers=3, journal=journal)
    assert sorted(task for what, task in journal.told if what == "finish") == sorted(missing)
    recalled = sorted(task for what, task in journal.told if what == "recall")
    nodes = [(0, 6 + down, 6 + right) for down in (0, 1) for right in (0, 1)]
    below = [(0, 16, 16), (0, 17, 16), (0, 17, 17), (1, 8, 9), (1, 9, 8), (1, 9, 9)]
    assert recalled == sorted(nodes + below)
    expected = run_serially(plan, RepeatModel(), source)
    for level, row, column in missing[:2]:
        window = np.s_[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
        np.testing.assert_array_equal(sink.arrays[level][window], expected[window])
    assert [times.sum() // 256 for times in sink.times] == [3, 2, 1, 0, 0, 0]


def test_of_many_tiles_below_finished_nodes_no_quarters_are_held(latents, monkeypatch):
    plan, _, run, sink = start(latents, 64, 64, 2, smallest=16)
    alive, most = weakref.WeakSet(), 0

    class Quarter(np.ndarray):
        """Can be watched."""

        __hash__ = object.__hash__

    def watched_halve(pixels):
        nonlocal most
        quarter = halve(pixels).view(Quarter)
        alive.add(quarter)
        most = max(most, len(alive))
        return quarter

    monkeypatch.setattr("tiler.jobs.tasks.halve", watched_halve)
    run_plan(plan, run, sink, workers=2, journal=SomeFinished((0, n // 32, n % 32) for n in range(1000)))
    assert sink.times[0].sum() // 256 == 1000
    assert most <= 8


def test_progress_counts_tiles_and_pixels(latents):
    plan, _, run, sink = start(latents, 30, 30, 16)
    told = []
    run_plan(plan, run, sink, workers=3, progress=lambda *counts: told.append(counts))
    assert [counts[:2] for counts in told] == [(n, 4) for n in range(1, 5)]
    assert told[-1][2] == 240 * 240


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_named_with_its_place(latents, value):
    plan, source, run, sink = start(latents, 40, 40, 16)
    source[39, 3, 2] = value
    with pytest.raises(InputError, match=r"row 39, column 3, channel 2 \(tile \d, \d: rows"):
        run_plan(plan, run, sink, workers=2)


def test_a_failing_tile_is_named_and_its_cause_is_chained(latents):
    plan, source, _, sink = start(latents, 40, 40, 16)

    def fail(window, *place):
        raise MemoryError("no more")

    with pytest.raises(TileError, match=r"Tile \d, \d failed \(rows \d+:\d+, columns \d+:\d+\): no more") as caught:
        run_plan(plan, lambda tile: run_tile(tile, ArraySource(source, 4), fail), sink, workers=1)
    assert isinstance(caught.value.__cause__, MemoryError)


def test_tiles_in_flight_have_ended_when_the_failure_is_raised(latents):
    plan, _, run, sink = start(latents, 64, 64, 8)
    running = set()

    def fail_one(tile):
        running.add(threading.get_ident())
        try:
            if tile.row == 1:
                raise MemoryError
            return run(tile)
        finally:
            running.discard(threading.get_ident())

    with pytest.raises(MemoryError):
        run_plan(plan, fail_one, sink, workers=4)
    assert not running


def test_a_tile_that_does_not_fit_the_device_is_decoded_in_quarters(latents):
    plan, source, _, sink = start(latents, 70, 50, 32)
    model, sizes = RepeatModel(), []

    def small(window, *place):
        if max(window.shape[:2]) > 46:
            raise DeviceMemoryError("too large")
        sizes.append(window.shape[:2])
        return model(window, *place)

    run_plan(plan, lambda tile: run_tile(tile, ArraySource(source, 4), small), sink, workers=2)
    np.testing.assert_array_equal(sink.arrays[0], run_serially(plan, model, source))
    assert len(sizes) > plan.n_tiles
