"""ICC profiles: is one whole, does it fit the picture, and what do its curves and its matrix say.

A profile with a matrix and curves is read here, for it is computed with more digits than Little CMS does (see
``encoding.py``); one with tables is left to that.
Source: ICC.1:2022, sections 7 to 10, with the types of version 2.
"""

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tiler.colorimetry import d50_to_srgb
from tiler.sources.encoding import STEPS, Curve, Encoding
from tiler.sources.input_file import printable, shorten

if TYPE_CHECKING:
    import pyvips

HEADER_BYTES = 128
CLASSES = (b"mntr", b"scnr", b"prtr", b"spac")
"""Classes of profiles that say how a device shows or sees colours, or what a space is."""
SPACES = {b"GRAY": "grey", b"RGB ": "RGB", b"CMYK": "CMYK"}
"""Colour spaces of pictures."""
MODES = {"grey": "L", "RGB": "RGB", "CMYK": "CMYK"}
"""What Pillow calls them."""
TABLES = (b"A2B0", b"A2B1", b"D2B0", b"D2B1")
"""Tags that come before curves and matrix."""
RELATIVE = 1
"""The number of the rendering intent "relative colorimetric"."""
PARAMETERS = (1, 3, 4, 5, 7)
"""How many parameters a parametric curve of each kind has."""


class ProfileError(Exception):
    """A profile cannot be used; the message says why."""


class IccProfile:
    """A profile that is whole, as far as its header and its table of tags tell.

    Raises:
        ProfileError: it is not.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        if len(content) < HEADER_BYTES + 4 or content[36:40] != b"acsp":
            raise ProfileError("it is no ICC profile")
        declared, n_tags = struct.unpack(">I", content[:4])[0], struct.unpack(">I", content[128:132])[0]
        if declared > len(content):
            raise ProfileError(f"{declared} bytes long by its header, {len(content)} are there")
        if n_tags > (len(content) - 132) // 12:
            raise ProfileError("its table of tags is cut")
        self._tags: dict[bytes, bytes] = {}
        for signature, offset, size in struct.iter_unpack(">4sII", content[132 : 132 + 12 * n_tags]):
            if offset + size > len(content):
                raise ProfileError("a tag lies outside of it")
            self._tags[signature] = content[offset : offset + size]
        if content[12:16] not in CLASSES or content[16:20] not in SPACES:
            kind = printable(content[12:20].decode("latin1"))
            raise ProfileError(f"it is of a kind that no picture of grey, RGB or CMYK has: {kind}")

    @property
    def space(self) -> str:
        """The colours that it is for: "grey", "RGB" or "CMYK"."""
        return SPACES[self.content[16:20]]

    @property
    def name(self) -> str:
        """What it calls itself."""
        text = self._tags.get(b"desc", b"")
        if text[:4] == b"desc":
            words = text[12 : 12 + int.from_bytes(text[8:12])].split(b"\0")[0].decode("latin1")
        elif text[:4] == b"mluc":
            size, start = int.from_bytes(text[20:24]), int.from_bytes(text[24:28])
            words = text[start : start + size].decode("utf-16-be", "replace")
        else:
            words = ""
        return printable(words.strip()) or "without a name"

    def read_encoding(self) -> Encoding | None:
        """Return what its curves and its matrix say; None where it has tables, or its curves give L*.

        Raises:
            ProfileError: they are damaged.
        """
        if self.content[20:24] != b"XYZ " or any(tag in self._tags for tag in TABLES) or self.space == "CMYK":
            return None
        if self.space == "grey":
            return Encoding(self.name, (self._read_curve(b"kTRC"),))
        curves = tuple(self._read_curve(tag) for tag in (b"rTRC", b"gTRC", b"bTRC"))
        colorants = np.stack([self._read_xyz(tag) for tag in (b"rXYZ", b"gXYZ", b"bXYZ")], axis=1)
        return Encoding(self.name, curves, d50_to_srgb() @ colorants)

    def _read_xyz(self, tag: bytes) -> NDArray[np.float64]:
        content = self._tags.get(tag, b"")
        if len(content) < 20 or content[:4] != b"XYZ ":
            raise ProfileError(f"its tag {tag.decode()} is missing or damaged")
        return _read_fixed(content[8:20])

    def _read_curve(self, tag: bytes) -> Curve:
        content = self._tags.get(tag, b"")
        read = {b"curv": _read_table, b"para": _read_parametric}.get(content[:4])
        try:
            if read is not None:
                curve = read(content)
                with np.errstate(all="ignore"):
                    if np.isfinite(curve(np.linspace(0, 1, STEPS + 1)).astype(np.float32)).all():
                        return curve
        except (struct.error, ValueError, IndexError):
            pass
        raise ProfileError(f"its tag {tag.decode()} is missing or damaged")


def convert_by_tables(image: "pyvips.Image", profile: IccProfile) -> "pyvips.Image":
    """Return a picture as sRGB, three bands of ushort, lazily, by Little CMS.

    Args:
        image: as many bands as the profile has colours, of uchar or ushort.
        profile: what its numbers mean.

    Raises:
        ProfileError: Little CMS cannot use the profile.
    """
    from PIL import ImageCms

    from tiler.sources.libvips import load_vips

    # libvips would put a profile of its own in the place of one that cannot be used.
    try:
        read = ImageCms.ImageCmsProfile(io.BytesIO(profile.content))
        srgb = ImageCms.createProfile("sRGB")
        ImageCms.buildTransform(read, srgb, MODES[profile.space], "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
    except (ImageCms.PyCMSError, OSError) as error:
        raise ProfileError(shorten(error)) from error
    wide = image.format == "ushort"
    spaces = {"grey": ("b-w", "grey16"), "RGB": ("srgb", "rgb16"), "CMYK": ("cmyk", "cmyk")}
    image = image.copy(interpretation=spaces[profile.space][wide])
    image.set_type(load_vips().GValue.blob_type, "icc-profile-data", profile.content)
    return image.icc_transform("srgb", embedded=True, intent="relative", depth=16)


def _read_fixed(content: bytes) -> NDArray[np.float64]:
    return np.frombuffer(content, ">i4").astype(np.float64) / 65536


def _read_table(content: bytes) -> Curve:
    n_entries = struct.unpack(">I", content[8:12])[0]
    if n_entries == 0:
        return lambda values: values
    entries = np.frombuffer(content[12 : 12 + 2 * n_entries], ">u2")
    if len(entries) < n_entries:
        raise ValueError(n_entries)
    if n_entries == 1:
        gamma = float(entries[0]) / 256
        return lambda values: values**gamma
    places, light = np.linspace(0, 1, n_entries), entries / 65535
    return lambda values: np.interp(values, places, light)


def _read_parametric(content: bytes) -> Curve:
    kind = struct.unpack(">H", content[8:10])[0]
    parameters = _read_fixed(content[12 : 12 + 4 * PARAMETERS[kind]])
    gamma, a, b, c, d, e, f = np.pad(parameters, (0, 7 - len(parameters))).tolist()
    if len(parameters) != PARAMETERS[kind] or (kind in (1, 2) and not a):
        raise ValueError(kind)
    if kind == 0:
        return lambda values: values**gamma
    if kind in (1, 2):
        # Below -b / a it is the constant c, which only the second kind has, and adds everywhere.
        d, e, f, c = -b / a, c, c, 0.0

    def curve(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(values >= d, np.maximum(a * values + b, 0) ** gamma + e, c * values + f)

    return curve
