"""What lies in a half-done output besides pixels: the journal holds it, and it is put back before a run goes on."""

import zlib
from base64 import b64decode, b64encode
from contextlib import closing
from pathlib import Path

from tiler import files

Skeleton = dict[str, bytes]
"""Names in the part, "" for itself, and how each of these files begins; one that has a name is no longer than that."""


def pack_skeleton(skeleton: Skeleton) -> dict[str, str]:
    """Return a skeleton as JSON can hold it: empty tables, nearly all of it, take next to nothing."""
    return {name: b64encode(zlib.compress(content)).decode() for name, content in skeleton.items()}


def unpack_skeleton(packed: dict[str, str]) -> Skeleton:
    """Return what was packed."""
    return {name: zlib.decompress(b64decode(text)) for name, text in packed.items()}


def restore_skeleton(part: Path, skeleton: Skeleton) -> None:
    """Write again what is not there any more, or other than it was."""
    for name, content in skeleton.items():
        path = part / name
        for folder in reversed(path.relative_to(part).parents if name else []):
            files.make_folder(part / folder)
        with closing(files.open_or_create(path)[0]) as file, files.locked(file):
            if name and files.read_at(file, len(content) + 1, 0) != content:
                files.truncate(file, 0)
            if files.read_at(file, len(content), 0) != content:
                files.write_at(file, content, 0)
                files.sync(file)
