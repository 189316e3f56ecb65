import io
from concurrent.futures import ThreadPoolExecutor

from tiler.command.progress import show_progress


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


def test_nothing_is_shown_when_nobody_watches(monkeypatch):
    monkeypatch.setattr("sys.stderr", stream := io.StringIO())
    with show_progress("Decoding") as progress:
        assert progress is None
    assert stream.getvalue() == ""


def test_nothing_is_shown_when_quiet(monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with show_progress("Decoding", quiet=True) as progress:
        assert progress is None
    assert terminal.getvalue() == ""
