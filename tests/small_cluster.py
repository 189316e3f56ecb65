"""A cluster on this machine, each part a process of its own, that can be killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from conftest import RepeatModel

from tiler.sources.array_source import ArraySource

ROOT = Path(__file__).parents[1]


class SleepyModel(RepeatModel):
    """Takes its time, and notes each tile that it begins and by whom."""

    def __init__(self, seconds, calls=None):
        self.seconds, self.calls = seconds, calls

    def __call__(self, window, *place):
        if self.calls:
            with open(self.calls, "a") as file:
                file.write(f"{os.getpid()}\n")
        time.sleep(self.seconds)
        return super().__call__(window, *place)


def open_file(path):
    """What a worker opens."""
    return ArraySource(np.load(path), 4)


class SmallCluster:
    """A scheduler and some workers on loopback."""

    def __init__(self, folder, n_workers=2, n_threads=2):
        self.folder, self.n_threads = Path(folder), n_threads
        self.file = self.folder / "scheduler.json"
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "DASK_DISTRIBUTED__COMM__RETRY__COUNT": "0",
        }
        self.scheduler = self._start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.workers = []
        for _ in range(n_workers):
            self.add_worker()

    def _start(self, program, *options):
        words = [sys.executable, "-m", f"distributed.cli.{program}", "--scheduler-file", str(self.file), *options]
        # A session of its own: Ctrl-C at the tests is not for it. What it says is kept in a file.
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(words, env=self.environment, stdout=log, stderr=log, cwd=self.folder)

    def add_worker(self):
        options = ["--no-nanny", "--host", "127.0.0.1", "--no-dashboard", "--memory-limit", "0"]
        self.workers.append(self._start("dask_worker", *options, "--nthreads", str(self.n_threads)))

    def connect(self, n_workers=None):
        from distributed import Client

        deadline = time.monotonic() + 60
        while not self.file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        client = Client(scheduler_file=str(self.file), timeout=10)
        client.wait_for_workers(len(self.workers) if n_workers is None else n_workers, timeout=60)
        return client

    def stop(self):
        for process in [*self.workers, self.scheduler]:
            process.kill()
        for process in [*self.workers, self.scheduler]:
            process.wait()
