"""Files whose pixels must be encoded in order, so that they are kept as an array until all are there.

::

    NAME.part            a .npy file, written in any order
    NAME.part.encoded    at the end: made of it, synced, and renamed to NAME.part
    NAME                 renamed once more: never half-written, and a kill at any time loses nothing

The checksum of what is encoded is known before it takes the place of the array.
"""

import zlib
from abc import abstractmethod
from contextlib import closing
from pathlib import Path
from typing import Any

from numpy.typing import DTypeLike, NDArray

from tiler import files
from tiler.formats.npy import NpySink
from tiler.formats.sink import Piece
from tiler.formats.strided_sink import count_bytes
from tiler.window import Window


class EncodedSink(NpySink):
    """A file under construction that is encoded when all pixels are there; see ``StridedSink``."""

    signature: bytes
    """How an encoded file begins; no ``.npy`` does."""

    _encoded = _made = False

    def write(self, level: int, window: Window, pixels: NDArray[Any]) -> Piece:
        """Put ``pixels`` (height, width, channels) at ``window``; see ``StridedSink``."""
        if self._encoded:
            raise self._refuse_part(what="is complete")
        return super().write(level, window, pixels)

    def complete(self) -> tuple[int, ...]:
        """Encode the image; see ``Sink``."""
        if self._encoded:
            return super().complete()
        path = find_encoded(self.path)
        try:
            with closing(files.open_file(path, new=True)) as file:
                output = Appended(file)
                self._encode(output)
                files.sync(file)
        except BaseException:
            files.remove(path)
            raise
        self._made = True
        return files.find_number(path), output.check, output.n_bytes

    def commit(self) -> None:
        """Sync the encoded image to disk and give it its final name.

        Raises:
            OutputExistsError: a file of this name has appeared meanwhile; ``NAME.part`` stays.
        """
        if not self._encoded:
            if not self._made:
                self.complete()
            files.replace(find_encoded(self.path), self.part_path)
            self._encoded = True
            # A power cut must not leave the second rename without the first.
            files.sync_folder(self.path.parent)
        super().commit()

    def discard(self) -> None:
        """Remove what was written."""
        super().discard()
        files.remove(find_encoded(self.path))

    @abstractmethod
    def _encode(self, output: "Appended") -> None:
        """Write the file, made of the array."""

    def _check_part(self, header: bytes) -> None:
        # A kill between the two renames.
        self._encoded = files.read_at(self._file, len(self.signature), 0) == self.signature
        if not self._encoded:
            super()._check_part(header)


class Appended:
    """A file that is written from start to end, through ``tiler.files``.

    Attributes:
        check: the CRC-32 of what was written.
        n_bytes: how long that is.
    """

    def __init__(self, file: Any) -> None:
        self._file, self.check, self.n_bytes = file, 0, 0

    def write(self, content: bytes) -> int:
        """Write what comes next."""
        files.write_at(self._file, content, self.n_bytes)
        self.check = zlib.crc32(content, self.check)
        self.n_bytes += len(content)
        return len(content)

    def flush(self) -> None:
        """Do nothing: nothing is kept back."""


def count_encoded_bytes(shape: tuple[int, int, int], dtype: DTypeLike) -> int:
    """Return how large an encoded file can get, at most."""
    n_bytes = count_bytes(shape, dtype)
    # Noise that cannot be compressed: a byte a row, and what zlib adds; a JPEG of quality 100 takes less.
    return n_bytes + shape[0] + n_bytes // 1000 + 20_000


def find_encoded(path: Path) -> Path:
    """Return where a file is encoded."""
    return path.with_name(path.name + ".part.encoded")
