import io
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tiler.command.progress import show_progress, tell_lines
from tiler.phase import LOG


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_sees_the_label_the_tiles_and_the_rate(monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with show_progress("Decoding") as progress:
        assert "Decoding" in terminal.getvalue()  # before the first tile: what loads looks alive
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda n: progress(n, 7, n * 1_000_000), range(1, 6)))
        progress(6, 7, 6_000_000)
    assert "6/7" in terminal.getvalue()
    assert "tiles" in terminal.getvalue()
    assert "Mpx/s" in terminal.getvalue()


def test_where_there_is_no_terminal_lines_are_told_once_and_only_while_it_runs(monkeypatch):
    monkeypatch.setattr("sys.stderr", stream := io.StringIO())
    with tell_lines(), show_progress("Decoding") as progress:
        assert progress is None
        LOG.info("Decoding: 5 %")
    LOG.info("nobody asks")
    assert stream.getvalue() == "Decoding: 5 %\n"
    assert not LOG.isEnabledFor(logging.INFO)


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_nothing_is_shown_when_quiet(monkeypatch, stream):
    monkeypatch.setattr("sys.stderr", shown := stream())
    with show_progress("Decoding", quiet=True) as progress, tell_lines(quiet=True):
        assert progress is None
        LOG.info("Decoding: 5 %")
    assert shown.getvalue() == ""


def test_a_terminal_sees_no_lines_beside_the_bar(monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with tell_lines(), show_progress("Decoding"):
        LOG.info("Decoding: 5 %")
    assert "5 %" not in terminal.getvalue()


def test_a_log_that_takes_no_more_does_not_stop_the_run(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stderr", full)
        with tell_lines():
            LOG.info("Decoding: 5 %")
        with suppress(OSError):
            full.close()
