"""What a file is, told by what only such a file can be: the one place for weights, latents and pictures.

Endings are not believed. A ``.safetensors`` file begins with a number of eight bytes that can look like the start of
any other format; it is told by the zeros in its upper half and by the brace behind it.
"""

import io
import re
import zipfile
from dataclasses import dataclass
from typing import BinaryIO

from taesd_core.tensor_file import shorten, show

START_BYTES = 2**16
"""What is looked at from the start."""
DIRECTORY_LIMIT_BYTES = 2**24
"""Most that is read at a time: the list of an archive's members is read in one piece."""
MOST_USER_BLOCK_BYTES = 2**20
"""How far into a file HDF5 is looked for; the block in front of it has 512 bytes or twice, four times … as many."""

HDF5_START = b"\x89HDF\r\n\x1a\n"
TORCH_MAGIC = (b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", b"L119547037146038801333356L")
"""The number that ``torch.save`` wrote first before it wrote archives, in binary and in text pickles."""

_STARTS = (
    ("npy", b"\x93NUMPY", "a .npy file", ""),
    ("png", b"\x89PNG\r\n\x1a\n", "a PNG picture", ""),
    *(("tiff", start, "a TIFF picture", "") for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("jpeg", b"\xff\xd8\xff", "a JPEG picture", ""),
    *(("jpeg2000", start, "a JPEG 2000 picture", "") for start in (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
    ("gif", b"GIF8", "a GIF picture", ""),
    ("gguf", b"GGUF", "a GGUF file, of quantised weights", ""),
    *(
        ("packed", start, f"a file packed by {name}", "Unpack it, and name the file inside.")
        for name, start in (
            ("gzip", b"\x1f\x8b"), ("xz", b"\xfd7zXZ\0"), ("zstd", b"\x28\xb5\x2f\xfd"), ("bzip2", b"BZh"),
            ("7-Zip", b"7z\xbc\xaf\x27\x1c"), ("RAR", b"Rar!\x1a\x07"),
        )
    ),
)  # fmt: skip
_ITSELF = "Download the file itself."
_TEXTS = (
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file that it stands for", "Run git lfs pull."),
    (rb"<!doctype html|<html|<head", "a web page, perhaps one that says an error", _ITSELF),
    (rb"<\?xml|<error|<svg", "an XML text, perhaps one that says an error", _ITSELF),
    (
        rb'[{\[](?s:.*)"weight_map"',
        "the index of a model in several files, without a tensor",
        "Name a file of tensors.",
    ),
    (rb"[{\[]", "a JSON text", _ITSELF),
)
"""What a text is, by how it begins."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file is."""

    name: str
    """Such as "safetensors"; "" where it is not known."""
    words: str
    """What to call it in a message: "a .npy file"."""
    advice: str = ""
    """What to do with it; empty where that depends on what it was wanted for."""


class BoundedFile(io.FileIO):
    """A file that is never read in one large piece, whatever it says of itself."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return a part of the file."""
        if size is None or size < 0:
            position = self.tell()
            size = self.seek(0, io.SEEK_END) - position
            self.seek(position)
        if size > DIRECTORY_LIMIT_BYTES:
            raise zipfile.BadZipFile(f"a list of members of {size} bytes")
        return super().read(size) or b""


def find_kind(file: BinaryIO | BoundedFile) -> FileKind:
    """Return what an open file is, read from its start; where it is then read from next is not said.

    Raises:
        OSError: it cannot be read.
    """
    file.seek(0)
    start = file.read(START_BYTES)
    if not start:
        return FileKind("empty", "an empty file", "Download or save it again.")
    # First: the number in front may be anything below 2^32. In a zip archive the brace were a method of compression
    # that does not exist, in a pickle the zeros were no operation, in a picture the number is far larger.
    if not any(start[4:8]) and start[8:].lstrip(b" \t\r\n").startswith(b"{"):
        return FileKind("safetensors", "a .safetensors file")
    for name, begins, words, advice in _STARTS:
        if start.startswith(begins):
            return FileKind(name, words, advice)
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return FileKind("webp", "a WebP picture")
    if start[4:8] == b"ftyp":
        # The brand of the file, its version, and the brands that it goes along with.
        brands = start[8 : int.from_bytes(start[:4], "big")]
        if {b"avif", b"avis"} & {brands[at : at + 4] for at in range(0, len(brands), 4)}:
            return FileKind("avif", "an AVIF picture")
        return FileKind("isobmff", "a HEIC picture or a film")
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return _find_kind_of_archive(file)
    if any(magic in start[:40] for magic in TORCH_MAGIC):
        return FileKind("torch", "a file of PyTorch's")
    # Pickles of the two oldest protocols have no mark of their own.
    old = re.match(rb"\((?:[dlt][pq])|[\]}]q|[(\]}]?c[\w.]+\n[\w.]+\n", start) and _read_last(file) == b"."
    if re.match(rb"\x80[\x01-\x05]", start) or old:
        return FileKind(
            "pickle",
            "a pickle that torch.save has not written, which could run code and is never loaded",
            "Save its arrays as .safetensors where you trust it.",
        )
    if start[257:262] == b"ustar":
        return FileKind(
            "tar",
            "a tar archive; PyTorch wrote such until 2017, and reads them only by running what is in them",
            "Unpack it, or where you trust it, load it with PyTorch and save it again.",
        )
    if _has_hdf5(file):
        return FileKind("hdf5", "an HDF5 file")
    if re.match(rb"\x08[\x01-\x20][\x12\x1a\x22\x2a\x32\x3a]", start):
        return FileKind("onnx", "an ONNX model", "Name the file of weights that it was made of.")
    if re.match(rb"P[1-6][\s#]", start):
        return FileKind("ppm", "a PPM picture")
    if start.startswith(b"BM"):
        return FileKind("bmp", "a BMP picture")
    return _find_kind_of_text(start)


def _find_kind_of_archive(file: BinaryIO | BoundedFile) -> FileKind:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception as error:  # zipfile raises a dozen kinds for a damaged file.
        return FileKind("damaged", f"a damaged archive ({shorten(error)})", "Save, copy or download it again.")
    ends = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in ends:
        if "constants.pkl" in ends:
            return FileKind("torchscript", "a program of TorchScript's", "Save the model's state_dict() instead.")
        return FileKind("torch", "a file of PyTorch's")
    if {"config.json", "model.weights.h5"} <= set(names):
        return FileKind("keras", "a .keras file")
    if ends & {"zarr.json", ".zgroup", ".zarray"}:
        return FileKind("zarr.zip", "a Zarr folder in an archive", "Unpack it, and name the folder.")
    if any(name.endswith(".npy") for name in names):
        return FileKind("npz", "an .npz file of NumPy's")
    named = ", ".join(show(name) for name in names[:3]) + ", …" * (len(names) > 3)
    return FileKind("zip", f"a zip archive of {named or 'nothing'}", "Unpack it, and name the file inside.")


def _read_last(file: BinaryIO | BoundedFile) -> bytes:
    file.seek(-1, io.SEEK_END)
    return file.read(1)


def _has_hdf5(file: BinaryIO | BoundedFile) -> bool:
    position = 0
    while position <= MOST_USER_BLOCK_BYTES:
        file.seek(position)
        found = file.read(len(HDF5_START))
        if found == HDF5_START or len(found) < len(HDF5_START):
            return found == HDF5_START
        position = max(2 * position, 512)
    return False


def _find_kind_of_text(start: bytes) -> FileKind:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    first = text[:60].decode(errors="ignore").partition("\n")[0].rstrip()
    if not any(start):
        return FileKind("", "a file of zeros, perhaps a download that has stopped", "Download it again.")
    if len(first) < 4 or not first.isprintable() or re.search(rb"[\0-\x08\x0e-\x1f]", text[:2000]):
        return FileKind("", f"of no format that is known here, first bytes={start[:9]!r}")
    words, advice = next(
        ((words, advice) for pattern, words, advice in _TEXTS if re.match(pattern, text, re.IGNORECASE)),
        ("a text", ""),
    )
    return FileKind("text", f"{words}; it begins {first!a}", advice)
