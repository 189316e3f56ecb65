"""Mutated pictures in JPEG, WebP and TIFF, and what Pillow and tifffile read of them."""

import io
import logging
import warnings
from random import Random

import numpy as np
import tifffile
from fuzz_bytes import Mutated, UnreadableError, mutate_bytes
from PIL import Image, ImageOps
from tiff_kinds import AXES, Kind, make_pixels, make_tiff, turn

KINDS = ("jpeg", "webp", "pages")
HEADER_BYTES = {"jpeg": 700, "webp": 60, "pages": 10**9}
BITS = (("uint", 8), ("uint", 8), ("uint", 16), ("uint", 1), ("uint", 4))


class Complaints(logging.Handler):
    """Hears whether tifffile says anything."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.n_heard = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.n_heard += 1


COMPLAINTS = Complaints()
logging.getLogger("tifffile").addHandler(COMPLAINTS)


def make_noise(random: Random) -> np.ndarray:
    shape = random.randint(1, 20), random.randint(1, 20), 3
    return np.random.default_rng(random.randrange(2**32)).integers(0, 256, shape, np.uint8)


def make_picture(random: Random, kind: str) -> Mutated:
    content = make_good(random, kind)
    if random.random() < 0.2:
        return content, "none"
    other = make_good(random, kind)
    if kind == "pages" and random.random() < 0.5:
        # The tags lie behind the pixels.
        start = int.from_bytes(content[4:8], "little" if content[:2] == b"II" else "big")
        changed, done = mutate_bytes(random, content[start:], other, 10**9)
        return content[:start] + changed, f"{done} tags"
    return mutate_bytes(random, content, other, HEADER_BYTES[kind])


def make_good(random: Random, kind: str) -> bytes:
    file, image = io.BytesIO(), Image.fromarray(make_noise(random))
    if kind == "jpeg":
        exif = Image.Exif()
        exif[0x0112] = random.randint(1, 8)
        image = image.convert(random.choice(("RGB", "RGB", "L")))
        image.save(
            file, "JPEG", quality=random.choice((30, 90, 100)), subsampling=random.choice((0, 1, 2)),
            progressive=random.random() < 0.3, restart_marker_blocks=random.choice((0, 1)),
            **({"exif": exif} if random.random() < 0.5 else {}),
        )  # fmt: skip
        return file.getvalue()
    if kind == "webp":
        image.save(file, "WEBP", lossless=random.random() < 0.5, quality=random.choice((10, 80)))
        return file.getvalue()
    while True:
        choice = {axis: random.choice(values) for axis, values in AXES.items()}
        choice["bits"] = random.choice(BITS)
        choice["photometric"] = random.choice(("rgb", "minisblack", choice["photometric"]))
        kind_of_tiff = Kind(**choice)
        if kind_of_tiff.possible and kind_of_tiff.compression not in ("jpeg", "webp", "lerc", "lzma", "ccitt"):
            return make_tiff(kind_of_tiff, make_pixels(kind_of_tiff, random.randint(1, 40), random.randint(1, 20)))


def read_picture(content: bytes, kind: str) -> np.ndarray:
    """Return (height, width, 3) in [0, 1], by another library.

    Raises:
        UnreadableError: it does not read it, or complains.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return _read_tiff(content) if kind == "pages" else _read_by_pillow(content, kind)
    except Exception as error:  # of a dozen kinds
        raise UnreadableError from error


def _read_by_pillow(content: bytes, kind: str) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=["JPEG" if kind == "jpeg" else "WEBP"]) as image:
        said = {"icc_profile", "mp"} & image.info.keys()
        start = image.info.get("exif", b"").removeprefix(b"Exif\0\0")[:4]
        if start not in (b"", b"II*\0", b"MM\0*"):
            raise UnreadableError  # No EXIF by its standard; Pillow is alone in reading it.
        exif = image.getexif()
        if image.mode not in ("RGB", "L") or said or set(exif) - {0x0112} or getattr(image, "n_frames", 1) > 1:
            raise UnreadableError
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB")) / 255


def _read_tiff(content: bytes) -> np.ndarray:
    before = COMPLAINTS.n_heard
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        page = tiff.pages.first
        if len(tiff.pages) > 1 or page.imagelength * page.imagewidth > 10_000 or 34675 in page.tags:
            raise UnreadableError
        odd = page.photometric == 3 and (page.bitspersample > 8 or page.compression == 50000)
        odd |= page.bitspersample < 8 and (page.samplesperpixel > 1 or page.compression == 50000)
        plain = not odd and page.sampleformat == 1 and page.bitspersample in (1, 2, 4, 8, 16) and not page.extrasamples
        if not plain or page.photometric not in (0, 1, 2, 3) or 0 in page.databytecounts:
            raise UnreadableError
        values = page.asarray().reshape(page.shaped)[:, 0]
        values = np.concatenate([*values], axis=2) if len(values) > 1 else values[0]
        if page.photometric == 3:
            values = (page.colormap.T / 65535)[values[..., 0]]
        else:
            values = values / (2**page.bitspersample - 1)
            values = 1 - values if page.photometric == 0 else values
        if COMPLAINTS.n_heard > before or values.shape[2] not in (1, 3):
            raise UnreadableError
        orientation = page.tags.valueof(274, 1)
    values = values.repeat(3, axis=2) if values.shape[2] == 1 else values
    return turn(values, orientation if orientation in range(1, 9) else 1)
