"""The journal as a file: a header, and a line for each thing that is finished.

::

    {"format": 1, "job": "5f0c…", "fields": {"latents": "…", "weights": "…", …}} 8c1d2e3f
    [0, 0, 0] 1b2c3d4e                a tile: level, row, column
    [0, 0, 1, 3, 2583691264] 5a6b7c8d the same, and where its quarter is kept (see quarters.py)
    {"latents": "…", …} 9a8b7c6d      fields from here on: a run went on in a way that changes nothing before
    ["complete"] 0badf00d             nothing is missing but the final name

Each line ends in the CRC-32 of itself, continued from that of the header, which no two jobs share: a line of an
earlier job never counts. What a kill or a power cut left of the last lines does not match its checksum: the first line
that does not ends the journal.
"""

import fcntl
import io
import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Any, Self
from uuid import uuid4

from tiler import files
from tiler.errors import OutputExistsError
from tiler.fields import Fields
from tiler.pyramid import Task

FORMAT = 1
Entry = list[Any]
COMPLETE: Entry = ["complete"]


class JournalFile:
    """A journal that is open and locked: nobody else writes this output.

    Attributes:
        created: whether it was not there before.
        fields: what job it tells of; None when it has no whole header, and so nothing is finished.
        entries: what it says is finished, in order.
        identity: what no two jobs share; it stays when one is gone on with.
    """

    def __init__(self, path: Path, file: io.FileIO, *, created: bool) -> None:
        self.path, self._file, self.created = path, file, created
        content = files.read_at(file, os.fstat(file.fileno()).st_size, 0)
        header, self.entries, self._end, self._seed = parse(content)
        self.fields: Fields | None = None if header is None else header["fields"]
        self.identity: str = "" if header is None else header["job"]

    @classmethod
    def open(cls, path: Path, output: Path) -> Self:
        """Open or make the journal of an output and lock it.

        Raises:
            OutputExistsError: another run has it.
        """
        while True:
            file, created = files.open_or_create(path)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise OutputExistsError(
                    f"Another run is writing this output: path={output}. Wait for it, or name another output."
                ) from None
            # The run that had it may have completed, and removed it, between the two steps.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return cls(path, file, created=created)
            file.close()

    def clear(self) -> None:
        """Forget everything, on the disk too."""
        files.truncate(self._file, 0)
        files.sync(self._file)
        files.sync_folder(self.path.parent)
        self.entries, self.fields, self._end = [], None, 0

    def begin(self, fields: Fields) -> None:
        """Write the header to the disk."""
        self.identity = uuid4().hex
        header = json.dumps({"format": FORMAT, "job": self.identity, "fields": fields})
        line, self._seed = make_line(header, 0)
        files.write_at(self._file, line, 0)
        files.sync(self._file)
        self._end, self.fields = len(line), fields

    def amend(self, fields: Fields) -> None:
        """Write to the disk what the job is from here on, where that is another one."""
        if fields != self.fields:
            self.append([fields])
            self.fields = fields

    def cut_tail(self) -> None:
        """Remove what follows the last good line."""
        files.truncate(self._file, self._end)

    def append(self, entries: Iterable[Entry | Fields]) -> None:
        """Write lines to the disk."""
        lines = b"".join(make_line(json.dumps(entry), self._seed)[0] for entry in entries)
        files.write_at(self._file, lines, self._end)
        files.sync(self._file)
        self._end += len(lines)

    def close(self) -> None:
        """Release the file and the lock."""
        self._file.close()

    def remove(self) -> None:
        """Remove the file, and release it."""
        files.remove(self.path)
        self.close()


def read_identity(path: Path) -> str | None:
    """Return what tells the job of a journal from all others; None where there is none."""
    try:
        with path.open("rb") as file:
            header, *_ = parse(file.readline())
    except FileNotFoundError:
        return None
    return None if header is None else str(header["job"])


class JournalReader:
    """Follows a journal that another process writes, of a job that is under way.

    Args:
        path: the journal.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._end, self._seed = path, 0, 0
        self._noted: set[Task] = set()
        self._lock = Lock()

    def has(self, task: Task) -> bool:
        """Tell whether a task is noted by now: what it wrote is on the disk."""
        with self._lock:
            self._read_on()
            return task in self._noted

    def _read_on(self) -> None:
        try:
            # Opened anew, for on a network's file system that brings what was added.
            with self._path.open("rb") as file:
                file.seek(self._end)
                lines = file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            return
        for line in lines:
            if (text := check_line(line, self._seed)) is None:
                return
            if self._end == 0:
                self._seed = zlib.crc32(text)
            elif text.startswith(b"[") and (entry := json.loads(text)) != COMPLETE:
                self._noted.add((entry[0], entry[1], entry[2]))
            self._end += len(line) + 1


def make_line(text: str, seed: int) -> tuple[bytes, int]:
    """Return a line with its checksum, and the checksum."""
    content = text.encode()
    check = zlib.crc32(content, seed)
    return b"%s %08x\n" % (content, check), check


def check_line(line: bytes, seed: int) -> bytes | None:
    """Return what a line says, None where it does not match its checksum."""
    text, _, check = line.rpartition(b" ")
    return text if check == b"%08x" % zlib.crc32(text, seed) else None


def parse(content: bytes) -> tuple[dict[str, Any] | None, list[Entry], int, int]:
    """Return header, entries, where the last good line ends, and the checksum of the header."""
    header, entries, end, seed = None, [], 0, 0
    for line in content.split(b"\n")[:-1]:
        if (text := check_line(line, seed)) is None:
            break
        if header is None:
            header, seed = json.loads(text), zlib.crc32(text)
        elif text.startswith(b"{"):
            header["fields"] = json.loads(text)
        else:
            entries.append(json.loads(text))
        end += len(line) + 1
    return header, entries, end, seed


def find_begun(output: Path) -> Fields:
    """Return what job an output is half done of, as far as that can be told without its lock; empty if none."""
    try:
        header, _, _, _ = parse(find_journal(output).read_bytes())
    except OSError:
        return {}
    return {} if header is None else header["fields"]


def find_journal(output: Path) -> Path:
    """Return where the journal of an output is."""
    return output.with_name(output.name + ".part.journal")
