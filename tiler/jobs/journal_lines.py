"""A journal as lines: a header, and a line for each thing that is finished.

::

    {"format":2,"job":"5f0c…","fields":{"latents":"…",…},"skeleton":{"":"eJx…"}} 8c1d2e3f        twice
    [0,0,0,[3735928559,5120,40213]] 1b2c3d4e          a tile: level, row, column; what its bytes were, and where
    [0,0,1,[2882400001,45334,977],3,2583691264] 5a6b… the same, and where its quarter is kept (see quarters.py)
    [0,0,0] 77aa12bc                                  taken back: it was found damaged
    {"latents":"…",…} 9a8b7c6d                        fields from here on: a run went on, which changed nothing before
    ["complete",1234,77553311,90210] 0badf00d         nothing is missing but the final name: which file gets it

Each line ends in the CRC-32 of itself, continued from that of the header, which no two jobs share: a line of an earlier
job never counts. From a line of fields on, it is continued from that one: who has not seen it believes nothing behind.
Any other line that does not match its checksum, of which a kill or a power cut may have left a part only, is passed
over; what the others say stays true. The header is there twice, for without it nothing is, and again wherever the file
has doubled.
"""

import json
import zlib
from base64 import b64decode, b64encode
from typing import Any

from tiler.formats.sink import Skeleton
from tiler.pyramid import Task

FORMAT = 2
"""Journals of format 1 noted neither places nor checksums."""
Entry = list[Any]
COMPLETE = "complete"
"""How the last line of a job begins."""


class LineReader:
    """Reads a journal line by line.

    Attributes:
        header: as it was written, but with the last fields; None before there is one.
        first: the line that it is.
        seed: what the checksum of the next line is continued from.
    """

    def __init__(self) -> None:
        self.header: dict[str, Any] | None = None
        self.first = b""
        self.seed = 0

    def read(self, line: bytes) -> tuple[bool, Entry | None]:
        """Say whether a line, without its end, is to be believed, and return the entry that it is, if it is one."""
        text, _, check = line.rpartition(b" ")
        if self.first == line + b"\n":
            return True, None  # the header once more
        if check != b"%08x" % (seed := zlib.crc32(text, self.seed)):
            return False, None
        said = json.loads(text)
        if isinstance(said, list):
            return True, said
        if self.header is None:
            self.header, self.first = said, line + b"\n"
        else:
            self.header["fields"] = said
        self.seed = seed
        return True, None


def find_task(entry: Entry) -> Task:
    """Return the task that an entry is of."""
    return entry[0], entry[1], entry[2]


def is_taken_back(entry: Entry) -> bool:
    """Tell whether an entry says that a task is not finished any more."""
    return len(entry) == 3


def make_line(said: Entry | dict[str, Any], seed: int) -> tuple[bytes, int]:
    """Return a line with its checksum, and the checksum."""
    content = json.dumps(said, separators=(",", ":")).encode()
    check = zlib.crc32(content, seed)
    return b"%s %08x\n" % (content, check), check


def parse(content: bytes) -> tuple[LineReader, list[Entry], int, int]:
    """Return header and seed, entries, where the last good line ends, and how many lines are not believed."""
    lines, entries, position, end, n_lost = LineReader(), [], 0, 0, 0
    all_lines = content.split(b"\n")[:-1]
    # Where the first header is lost, what follows it is not: another one may come later.
    for line in all_lines:
        if lines.header is not None or lines.read(line)[0]:
            break
    for line in all_lines:
        position += len(line) + 1
        believed, entry = lines.read(line)
        if not believed:
            n_lost += 1
            continue
        end = position
        if entry is not None:
            entries.append(entry)
    return lines, entries, end, n_lost


def pack_skeleton(skeleton: Skeleton) -> dict[str, str]:
    """Return a skeleton as JSON can hold it: empty tables, nearly all of it, take next to nothing."""
    return {name: b64encode(zlib.compress(content)).decode() for name, content in skeleton.items()}


def unpack_skeleton(packed: dict[str, str]) -> Skeleton:
    """Return what was packed."""
    return {name: zlib.decompress(b64decode(text)) for name, text in packed.items()}
