"""The journal as a file, open and locked by who writes the output; and read by others meanwhile."""

import fcntl
import io
import os
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Self
from uuid import uuid4

from tiler import files
from tiler.errors import OutputExistsError
from tiler.fields import Fields
from tiler.formats.sink import Skeleton
from tiler.jobs.journal_lines import (
    COMPLETE,
    FORMAT,
    Entry,
    LineReader,
    find_task,
    is_taken_back,
    make_line,
    pack_skeleton,
    parse,
    unpack_skeleton,
)
from tiler.pyramid import Task

COPY_BYTES = 2**14
"""From here on the header is written again when a journal has doubled, where no sector is that of the first."""


class JournalFile:
    """A journal that is open and locked: nobody else writes this output.

    Attributes:
        created: whether it was not there before.
        format: of the journal; None when it has no whole header, and so nothing is finished.
        fields: what job it tells of; None without a header.
        skeleton: what the part holds besides pixels; see ``tiler.formats.sink``.
        entries: what it says is finished, in order.
        n_lost: lines that are not believed.
        identity: what no two jobs share; it stays when one is gone on with.
    """

    def __init__(self, path: Path, file: io.FileIO, *, created: bool) -> None:
        self.path, self._file, self.created = path, file, created
        content = files.read_at(file, os.fstat(file.fileno()).st_size, 0)
        lines, self.entries, self._end, self.n_lost = parse(content)
        header, self._seed, self._header = lines.header or {}, lines.seed, lines.first
        self.format: int | None = header.get("format")
        self.fields: Fields | None = header.get("fields")
        self.identity: str = header.get("job", "")
        self.skeleton: Skeleton = {}
        if self.format == FORMAT:
            self.skeleton = unpack_skeleton(header["skeleton"])
        else:
            self.entries = []  # they say something else

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

    def begin(self, fields: Fields, skeleton: Skeleton) -> None:
        """Write the header to the disk."""
        self.identity = uuid4().hex
        packed = pack_skeleton(skeleton)
        header = {"format": FORMAT, "job": self.identity, "fields": fields, "skeleton": packed}
        line, self._seed = make_line(header, 0)
        files.write_at(self._file, 2 * line, 0)
        files.sync(self._file)
        self._end, self._header, self.fields = 2 * len(line), line, fields

    def amend(self, fields: Fields) -> None:
        """Write to the disk what the job is from here on, where that is another one."""
        if fields != self.fields:
            line, seed = make_line(fields, self._seed)
            self._append(line)
            self.fields, self._seed = fields, seed

    def mend(self) -> None:
        """Put the header back where it is not, and remove what follows the last good line."""
        if files.read_at(self._file, 2 * len(self._header), 0) != 2 * self._header:
            files.write_at(self._file, 2 * self._header, 0)
            files.sync(self._file)
        files.truncate(self._file, self._end)

    def append(self, entries: Iterable[Entry]) -> None:
        """Write lines to the disk."""
        self._append(b"".join(make_line(entry, self._seed)[0] for entry in entries))

    def _append(self, lines: bytes) -> None:
        end = self._end + len(lines)
        if end > COPY_BYTES and end.bit_length() > self._end.bit_length():
            lines += self._header
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
            header = parse(file.readline() + file.readline())[0].header
    except FileNotFoundError:
        return None
    return None if header is None else str(header["job"])


class JournalReader:
    """Follows a journal that another process writes, of a job that is under way.

    Args:
        path: the journal.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._end, self._lines = path, 0, LineReader()
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
            _, entry = self._lines.read(line)
            if entry is not None and entry[0] != COMPLETE:
                task = find_task(entry)
                if is_taken_back(entry):
                    self._noted.discard(task)
                else:
                    self._noted.add(task)
            self._end += len(line) + 1


def find_begun(output: Path) -> Fields:
    """Return what job an output is half done of, as far as that can be told without its lock; empty if none."""
    try:
        header = parse(find_journal(output).read_bytes())[0].header
    except OSError:
        return {}
    return {} if header is None else header["fields"]


def find_journal(output: Path) -> Path:
    """Return where the journal of an output is."""
    return output.with_name(output.name + ".part.journal")
