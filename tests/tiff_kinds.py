"""TIFF files of all kinds, put together from the specification, and the picture that each of them is.

Source: TIFF 6.0, and Adobe's notes on predictor 3 and on what came later. Codecs are imagecodecs' and zlib's; nothing
here is libtiff's but what those make use of.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

BITS = {"uint": (1, 2, 4, 8, 12, 16, 24, 32, 64), "int": (8, 16, 32), "float": (16, 24, 32, 64)}
PHOTOMETRICS = {"miniswhite": 0, "minisblack": 1, "rgb": 2, "palette": 3, "cmyk": 5, "ycbcr": 6, "cielab": 8}
N_SAMPLES = {"miniswhite": 1, "minisblack": 1, "rgb": 3, "palette": 1, "cmyk": 4, "ycbcr": 3, "cielab": 3}
FORMATS = {"uint": 1, "int": 2, "float": 3}
COMPRESSIONS = {
    "none": 1,
    "ccitt": 4,
    "lzw": 5,
    "jpeg": 7,
    "deflate": 8,
    "packbits": 32773,
    "old deflate": 32946,
    "lzma": 34925,
    "lerc": 34887,
    "zstd": 50000,
    "webp": 50001,
}
AXES = {
    "bits": [("uint", bits) for bits in BITS["uint"]]
    + [("int", bits) for bits in BITS["int"]]
    + [("float", bits) for bits in BITS["float"]],
    "photometric": [*PHOTOMETRICS],
    "separate": [False, True],
    "compression": [*COMPRESSIONS],
    "predictor": [1, 2, 3],
    "orientation": [1, 2, 3, 4, 5, 6, 7, 8],
    "order": ["<", ">"],
    "tiled": [False, True],
}
TILE = 32, 16
STRIP = 20


@dataclass(frozen=True)
class Kind:
    """What is varied."""

    bits: tuple[str, int] = ("uint", 8)
    photometric: str = "rgb"
    separate: bool = False
    compression: str = "none"
    predictor: int = 1
    orientation: int = 1
    order: str = "<"
    tiled: bool = False

    @property
    def possible(self) -> bool:
        """Whether there are such files: the others nobody could read alike."""
        (name, n_bits), n_samples = self.bits, N_SAMPLES[self.photometric]
        stored = 1 if self.separate else n_samples
        codec = {
            "ccitt": self.bits == ("uint", 1) and stored == 1,
            "jpeg": self.bits == ("uint", 8) and not (self.separate and self.photometric == "ycbcr"),
            "webp": self.bits == ("uint", 8) and stored == 3 and self.photometric == "rgb",
            "lerc": n_bits in (8, 16, 32, 64) and self.bits not in (("uint", 64), ("float", 16)),
        }.get(self.compression, True)
        differences = {
            1: True,
            2: name != "float" and n_bits in (8, 16, 32, 64),
            3: name == "float",
        }[self.predictor]
        plain = self.predictor == 1 or self.compression in ("lzw", "deflate", "old deflate", "zstd", "lzma")
        return (
            codec
            and differences
            and plain
            and (self.photometric != "palette" or (name == "uint" and n_bits <= 16))
            and (self.photometric not in ("ycbcr", "cielab") or self.bits == ("uint", 8))
            and not (self.separate and n_samples == 1)
            and not (self.photometric in ("cielab", "palette") and self.compression in ("jpeg", "webp"))
        )


def make_pixels(kind: Kind, height: int = 43, width: int = 37) -> NDArray:
    """Return samples (height, width, n), smooth and different in all directions, over all of the range."""
    n_samples = N_SAMPLES[kind.photometric]
    rows, columns, samples = np.ogrid[:height, :width, :n_samples]
    share = (rows / height + (columns / width) * (1 + samples) / 2 + samples / 7) % 1
    if kind.compression in ("jpeg", "webp"):
        share = (rows / height + columns / width + samples / 2) / (2 + n_samples / 2)
    name, bits = kind.bits
    if name == "float":
        return share.astype({16: "f2", 24: "f4", 32: "f4", 64: "f8"}[bits])
    values = np.floor(share * 2.0**bits * (1 - 1e-12)).astype(np.uint64)
    return values if name == "uint" else (values.astype(np.int64) - 2 ** (bits - 1))


def make_tiff(kind: Kind, pixels: NDArray, *, extra: tuple[int, ...] = (), tags: dict | None = None) -> bytes:
    """Return a file of ``pixels``, (height, width, samples), as ``kind`` says.

    Args:
        kind: how it is stored.
        pixels: integers in the range of the bits, or floats.
        extra: what samples beyond those of the photometric interpretation are.
        tags: more of them, or other values: number to (type, values).
    """
    height, width, n_samples = pixels.shape
    planes = [pixels[..., [n]] for n in range(n_samples)] if kind.separate else [pixels]
    segments = [_encode(kind, part) for plane in planes for part in _cut(kind, plane)]
    entries = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [kind.bits[1]] * n_samples),
        259: ("H", [COMPRESSIONS[kind.compression]]),
        262: ("H", [PHOTOMETRICS[kind.photometric]]),
        274: ("H", [kind.orientation]),
        277: ("H", [n_samples]),
        284: ("H", [2 if kind.separate else 1]),
        339: ("H", [FORMATS[kind.bits[0]]] * n_samples),
    }
    if kind.predictor > 1:
        entries[317] = "H", [kind.predictor]
    if kind.photometric == "palette":
        entries[320] = "H", (make_palette(kind.bits[1]) * 257).T.reshape(-1).tolist()
    if kind.photometric == "ycbcr":
        entries[530] = "H", [1, 1]
    if kind.compression == "lerc":
        entries[50674] = "I", [4, 0]
    if extra:
        entries[338] = "H", list(extra)
    entries |= tags or {}
    starts, sizes = (324, 325) if kind.tiled else (273, 279)
    if kind.tiled:
        entries |= {322: ("I", [TILE[1]]), 323: ("I", [TILE[0]])}
    else:
        entries[278] = "I", [STRIP]
    return _assemble(kind.order, entries, segments, starts, sizes)


def _assemble(order: str, entries: dict, segments: list[bytes], starts: int, sizes: int) -> bytes:
    position, offsets = 8, []
    for segment in segments:
        offsets.append(position)
        position += len(segment) + len(segment) % 2
    entries = dict(sorted({**entries, starts: ("I", offsets), sizes: ("I", [len(each) for each in segments])}.items()))
    body = b"".join(segment + b"\0" * (len(segment) % 2) for segment in segments)
    directory, beyond = struct.pack(order + "H", len(entries)), b""
    after = position + 2 + 12 * len(entries) + 4
    for tag, (code, values) in entries.items():
        content = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(content) > 4:
            place = struct.pack(order + "I", after + len(beyond))
            beyond += content + b"\0" * (len(content) % 2)
        else:
            place = content.ljust(4, b"\0")
        directory += struct.pack(order + "HHI", tag, {"H": 3, "I": 4, "f": 11}[code], len(values)) + place
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, position)
    return start + body + directory + bytes(4) + beyond


def _cut(kind: Kind, plane: NDArray) -> Iterator[NDArray]:
    height, width, _ = plane.shape
    if not kind.tiled:
        for top in range(0, height, STRIP):
            yield plane[top : top + STRIP]
        return
    rows, columns = TILE
    filled = np.pad(plane, ((0, -height % rows), (0, -width % columns), (0, 0)), "edge")
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield filled[top : top + rows, left : left + columns]


def _encode(kind: Kind, part: NDArray) -> bytes:
    import imagecodecs

    if kind.compression == "jpeg":
        colour = {("ycbcr", 3): "ycbcr", ("rgb", 3): "rgb", ("cmyk", 4): "cmyk"}.get((kind.photometric, part.shape[2]))
        values = np.ascontiguousarray(part.astype(np.uint8))
        return imagecodecs.jpeg8_encode(
            values if part.shape[2] > 1 else values[..., 0], level=100, colorspace=colour, outcolorspace=colour,
            subsampling="444",
        )  # fmt: skip
    if kind.compression == "webp":
        return imagecodecs.webp_encode(np.ascontiguousarray(part.astype(np.uint8)), lossless=True)
    if kind.compression == "lerc":
        dtype = np.dtype(f"{ {'uint': 'u', 'int': 'i', 'float': 'f'}[kind.bits[0]] }{kind.bits[1] // 8}")
        values = np.ascontiguousarray(part.astype(dtype))
        return imagecodecs.lerc_encode(values if part.shape[2] > 1 else values[..., 0])
    rows = _to_rows(kind, part)
    if kind.compression == "ccitt":
        return _fax(part[..., 0] > 0)
    if kind.compression == "packbits":
        return b"".join(imagecodecs.packbits_encode(row) for row in rows)
    content = b"".join(rows)
    return {
        "none": bytes,
        "lzw": imagecodecs.lzw_encode,
        "deflate": zlib.compress,
        "old deflate": zlib.compress,
        "lzma": imagecodecs.lzma_encode,
        "zstd": imagecodecs.zstd_encode,
    }[kind.compression](content)


def _fax(bits: NDArray) -> bytes:
    """Return bits in CCITT's group 4, which Pillow alone can write."""
    file = io.BytesIO()
    Image.fromarray(bits).save(file, "TIFF", compression="group4", strip_size=2**20)
    with tifffile.TiffFile(io.BytesIO(file.getvalue())) as tiff:
        page = tiff.pages.first
        assert len(page.dataoffsets) == 1
        return file.getvalue()[page.dataoffsets[0] :][: page.databytecounts[0]]


def _to_rows(kind: Kind, part: NDArray) -> list[bytes]:
    name, bits = kind.bits
    height, width, n_samples = part.shape
    if bits < 8 or bits == 12:
        flat = part.reshape(height, -1).astype(np.uint16)
        singles = (flat[..., np.newaxis] >> np.arange(bits)[::-1]) & 1
        return [bytes(row) for row in np.packbits(singles.reshape(height, -1).astype(np.uint8), axis=1)]
    if kind.predictor == 3:
        planes = _float_bytes(part, bits)  # (height, bytes, width, samples), the highest first
        rows = planes.reshape(height, -1, n_samples)
        rows = np.diff(rows.astype(np.int16), axis=1, prepend=np.int16(0)).astype(np.uint8)
        return [bytes(row.reshape(-1)) for row in rows]
    if bits == 24:
        if name == "float":
            order = np.moveaxis(_float_bytes(part, 24), 1, 3)
        else:
            order = part.astype(">u4").view(np.uint8).reshape(height, width, n_samples, 4)[..., 1:]
        order = order[..., ::-1] if kind.order == "<" else order
        return [bytes(np.ascontiguousarray(row).reshape(-1)) for row in order]
    dtype = np.dtype({"uint": "u", "int": "i", "float": "f"}[name] + str(bits // 8))
    values = part.astype(dtype)
    if kind.predictor == 2:
        whole = values.view(f"u{bits // 8}")
        values = np.diff(whole, axis=1, prepend=np.zeros_like(whole[:, :1]))
    return [np.ascontiguousarray(row.astype(values.dtype.newbyteorder(kind.order))).tobytes() for row in values]


def _float_bytes(part: NDArray, bits: int) -> NDArray:
    """Return (height, bytes, width, samples), the byte of the exponent first."""
    height, width, n_samples = part.shape
    if bits == 24:
        import imagecodecs

        packed = imagecodecs.float24_encode(np.ascontiguousarray(part.astype("f4")), byteorder=">")
        content = np.frombuffer(packed, np.uint8).reshape(height, width, n_samples, 3)
    else:
        content = part.astype(f">f{bits // 8}").view(np.uint8).reshape(height, width, n_samples, bits // 8)
    return np.moveaxis(content, 3, 1)


def make_palette(bits: int) -> NDArray:
    """Return the colours of a palette, (2^bits, 3), 0 to 255."""
    numbers = np.arange(2**bits)
    return np.stack([numbers * 7 % 256, 255 - numbers % 256, numbers * 3 // 2 % 256], axis=1)


def to_picture(kind: Kind, pixels: NDArray) -> NDArray | None:
    """Return the (height, width, 3) float64 picture in [0, 1]; None where the file does not say what it looks like."""
    name, bits = kind.bits
    if name == "int" or kind.photometric in ("cmyk", "cielab"):
        return None
    if kind.photometric == "palette":
        values = make_palette(bits)[pixels[..., 0].astype(int)] / 255
    elif name == "float":
        values = np.asarray(pixels, np.float64)
        values = 1 - values if kind.photometric == "miniswhite" else values
    else:
        values = pixels / (2.0**bits - 1)
        values = 1 - values if kind.photometric == "miniswhite" else values
    if kind.photometric == "ycbcr":
        y, blue, red = (values[..., n] * 255 for n in range(3))
        blue, red = blue - 128, red - 128
        values = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], axis=2) / 255
        values = values.clip(0, 1)
    values = values.repeat(3, axis=2) if values.shape[2] == 1 else values[..., :3]
    return turn(values, kind.orientation)


def turn(values: NDArray, orientation: int) -> NDArray:
    """Return stored pixels as they are to be shown."""
    return {
        1: lambda stored: stored,
        2: np.fliplr,
        3: partial(np.rot90, k=2),
        4: np.flipud,
        5: lambda stored: stored.swapaxes(0, 1),
        6: partial(np.rot90, k=-1),
        7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
        8: np.rot90,
    }[orientation](values)


def pairs() -> Iterator[Kind]:
    """Yield kinds in which each two values of two axes meet, where that is possible whatever the others have."""
    names = [*AXES]
    seen = set()
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            for one in AXES[first]:
                for other in AXES[second]:
                    kind = complete(first, one, second, other)
                    if kind is not None and kind not in seen:
                        seen.add(kind)
                        yield kind


def complete(first: str, one: object, second: str, other: object) -> Kind | None:
    """Return a possible kind with two values given; None where there is none."""
    fixed = {first: one, second: other}
    for bits in (("uint", 8), ("uint", 1), ("float", 32), ("uint", 16)):
        for photometric in ("rgb", "minisblack"):
            for compression in ("none", "deflate"):
                choice = {"bits": bits, "photometric": photometric, "compression": compression, **fixed}
                kind = Kind(**choice)
                if kind.possible:
                    return kind
    return None


def product() -> Iterator[Kind]:
    """Yield all of bits × photometric × compression that is possible."""
    for bits in AXES["bits"]:
        for photometric in AXES["photometric"]:
            for compression in AXES["compression"]:
                kind = replace(Kind(), bits=bits, photometric=photometric, compression=compression)
                if kind.possible:
                    yield kind
