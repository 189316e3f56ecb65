"""The real client of the hub against a small server, as people run it: a process, its words and its exit code."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from taesd_core.variants import find_weights

pytest.importorskip("huggingface_hub")

ROOT = str(Path(__file__).parents[1])
REVISION = "0123456789abcdef0123456789abcdef01234567"
CONTENTS = {part: find_weights("photo", part).read_bytes() for part in ("decoder", "encoder")}
HASHES = {part: hashlib.sha256(content).hexdigest() for part, content in CONTENTS.items()}

# The command line with a variant whose files are the photo weights: the published ones are not here. Between its
# tries the client waits for 23 seconds in all.
COMMAND = f"""
import sys
import time
time.sleep = lambda seconds: None
from dataclasses import replace
from taesd_core import variants
from taesd_core.hub import HubFile
hashes = {HASHES!r}
files = {{part: HubFile("owner/taesd", "{REVISION}", f"taesd_{{part}}.safetensors", hashes[part]) for part in hashes}}
variants.VARIANTS["taesd"] = replace(variants.VARIANTS["taesd"], files=files)
from tiler.command.cli import main
main(sys.argv[1:])
"""


class Hub(ThreadingHTTPServer):
    """Serves ``files`` under the addresses that the hub has; counts what was sent."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {f"/owner/taesd/resolve/{REVISION}/taesd_{part}.safetensors": CONTENTS[part] for part in CONTENTS}
        self.status = 200
        self.cut_bytes = None
        self.asked = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        hub = self.server
        content = hub.files.get(self.path)
        hub.asked.append(self.path)
        if hub.status != 200 or content is None:
            self.send_response(hub.status if hub.status != 200 else 404)
            if hub.status == 200:
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("X-Repo-Commit", REVISION)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content[: hub.cut_bytes])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub():
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def run(hub, tmp_path):
    def run(*words, **environment):
        settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": ROOT}
        cleared = {name: each for name, each in os.environ.items() if not name.startswith(("HF_", "TAESD_"))}
        return subprocess.run(
            [sys.executable, "-c", COMMAND, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=cleared | settings | environment,
        )

    return run


def fails(result, *words):
    """Check that standard error has one line with all of ``words``, among them all ways out."""
    lines = result.stderr.splitlines()
    assert (result.returncode, len(lines), result.stdout) == (3, 1, ""), result.stderr
    for word in ("tiler: ", *words):
        assert word in lines[0], (word, lines[0])


WAYS = ("tiler weights fetch taesd", "its file", "TAESD_TILER_WEIGHTS", "take photo")


@contextmanager
def stopped(hub):
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{free.getsockname()[1]}"


def test_weights_are_fetched_and_then_found_offline(hub, run, tmp_path):
    result = run("weights", "fetch", "taesd")
    assert result.returncode == 0, result.stderr
    for line in result.stdout.splitlines():
        part, path = line.split(" ")
        assert Path(path).read_bytes() == CONTENTS[part]
    n_asked = len(hub.asked)
    np.save(tmp_path / "latents.npy", np.zeros((1, 4, 3, 3), np.float32))
    hub.status = 500
    for environment in ({"HF_HUB_OFFLINE": "1"}, {}):
        again = run("weights", "fetch", "taesd", **environment)
        assert (again.returncode, again.stdout) == (0, result.stdout), again.stderr
    planned = run("decode", "latents.npy", "x.tif", "--weights", "taesd", "--latent-space", "vae", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert len(hub.asked) == n_asked, "what is in the cache needs no network"


def test_a_download_that_is_cut_off_is_one_line_and_the_next_one_is_whole(hub, run):
    hub.cut_bytes = 1_000_000
    fails(run("weights", "fetch", "taesd"), "download failed", *WAYS)
    hub.cut_bytes = None
    assert run("weights", "fetch", "taesd").returncode == 0


def test_another_file_than_the_published_one_is_refused_fetched_or_cached(hub, run):
    name = next(name for name in hub.files if "decoder" in name)
    hub.files[name] = CONTENTS["encoder"]
    result = run("weights", "fetch", "taesd")
    fails(result, "not the published file", HASHES["decoder"], HASHES["encoder"], "delete it")
    hub.files[name] = CONTENTS["decoder"]
    fails(run("weights", "fetch", "taesd", HF_HUB_OFFLINE="1"), "not the published file", HASHES["encoder"])
    path = Path(result.stderr.partition("path=")[2].partition(",")[0])
    path.unlink()
    assert run("weights", "fetch", "taesd").returncode == 0


def test_a_file_that_the_hub_does_not_have_is_one_line(hub, run):
    hub.files.clear()
    fails(run("weights", "fetch", "taesd"), "the hub has no taesd_decoder.safetensors in owner/taesd@01234567", *WAYS)


@pytest.mark.parametrize("status", [403, 500])
def test_a_hub_that_fails_is_one_line(hub, run, status):
    hub.status = status
    fails(run("weights", "fetch", "taesd"), f"status={status}", hub.address, *WAYS)


def test_a_network_that_is_not_there_is_one_line(hub, run, tmp_path):
    np.save(tmp_path / "latents.npy", np.zeros((1, 4, 3, 3), np.float32))
    with stopped(hub) as address:
        result = run("decode", "latents.npy", "x.tif", "--weights", "taesd", HF_ENDPOINT=address)
    fails(result, "no connection to the hub", address, *WAYS)
    offline = run("decode", "latents.npy", "x.tif", "--weights", "taesd", HF_HUB_OFFLINE="1")
    fails(offline, "offline, and not in the cache", *WAYS)
    assert hub.asked == []


def test_without_the_client_it_is_said_how_to_get_it(run, tmp_path):
    (tmp_path / "huggingface_hub.py").write_text("raise ImportError")
    fails(run("weights", "fetch", "taesd", PYTHONPATH=f"{tmp_path}:{ROOT}"), "taesd-tiler[hub]", *WAYS)
