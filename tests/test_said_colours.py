"""Where BMP and JPEG 2000 say their colours, which no library hands on."""

import struct

import numpy as np
import profiles
import pytest
from PIL import Image, features

from tiler.sources.picture_boxes import BoxError, read_coded_colours, read_profile_of_jpeg2000
from tiler.sources.picture_headers import HeaderError, read_profile_of_bmp

PROFILE = profiles.rgb(profiles.DISPLAY_P3)
PIXELS = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


def bmp(kind, ends=(0,) * 9, profile=b"", size=124):
    """A BMP with a header of version 4 or 5, made by hand."""
    head = struct.pack("<IiiHHIIiiII", size, 8, 8, 1, 24, 0, 192, 2835, 2835, 0, 0) + bytes(16)
    head += struct.pack("<I9I3I", kind, *ends, 0, 0, 0)
    if size == 124:
        head += struct.pack("<IIII", 4, size + 192, len(profile), 0)
    assert len(head) == size
    return b"BM" + struct.pack("<IHHI", 14 + size + 192 + len(profile), 0, 0, 14 + size) + head + bytes(192) + profile


def ends(*chromaticities):
    """Primaries as the header has them: x, y and z of each in 2.30 bits."""
    return [round(value * 2**30) for x, y in chromaticities for value in (x, y, 1 - x - y)]


SRGB, P3 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)), ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))


def test_a_bmp_says_its_profile_or_nothing(tmp_path):
    path = tmp_path / "a.bmp"
    Image.fromarray(PIXELS).save(path)
    assert read_profile_of_bmp(path) is None  # a header of version 3
    for kind, its_ends, size in ((0x73524742, (0,) * 9, 124), (0x57696E20, (0,) * 9, 108), (0, (0,) * 9, 108)):
        path.write_bytes(bmp(kind, its_ends, size=size))
        with Image.open(path) as image:
            assert image.size == (8, 8)
        assert read_profile_of_bmp(path) is None
    path.write_bytes(bmp(0, ends(*SRGB)))
    assert read_profile_of_bmp(path) is None
    path.write_bytes(bmp(0x4D424544, profile=PROFILE))
    assert read_profile_of_bmp(path) == PROFILE
    for content in (bmp(0, ends(*P3)), bmp(0x4C494E4B, profile=b"C:\\a.icm\0"), bmp(0, (2**30, *(0,) * 8))):
        path.write_bytes(content)
        with pytest.raises(HeaderError, match="colours of the kind 0x"):
            read_profile_of_bmp(path)


def say_colours(path, *colours):
    """Put other colr boxes in the place of the one in a JPEG 2000."""
    content = path.read_bytes()
    place, head = content.index(b"colr") - 4, content.index(b"jp2h") - 4
    size, head_size = (int.from_bytes(content[at : at + 4]) for at in (place, head))
    boxes = b"".join(struct.pack(">I4s", 8 + len(each), b"colr") + each for each in colours)
    content = content[:place] + boxes + content[place + size :]
    path.write_bytes(content[:head] + struct.pack(">I", head_size - size + len(boxes)) + content[head + 4 :])


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow lacks the codec")
def test_a_jpeg_2000_says_its_profile_or_a_number(tmp_path):
    path = tmp_path / "a.jp2"
    Image.fromarray(PIXELS).save(path)
    assert read_profile_of_jpeg2000(path) is None
    say_colours(path, b"\2\0\0" + PROFILE)
    assert read_profile_of_jpeg2000(path) == PROFILE
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), PIXELS)
    say_colours(path, b"\1\0\0" + struct.pack(">I", 17))
    assert read_profile_of_jpeg2000(path) is None
    say_colours(path, b"\1\0\0" + struct.pack(">I", 14), b"\1\0\0" + struct.pack(">I", 16))
    with pytest.raises(BoxError, match="its colours have the number 14"):
        read_profile_of_jpeg2000(path)
    say_colours(path)
    say_colours(path)
    with pytest.raises(BoxError, match="its colr box is missing"):
        read_profile_of_jpeg2000(path)
    Image.fromarray(PIXELS).save(tmp_path / "a.j2k", no_jp2=True)
    assert read_profile_of_jpeg2000(tmp_path / "a.j2k") is None


def box(kind, content, wide=False):
    if wide:
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    return struct.pack(">I4s", 8 + len(content), kind) + content


def nclx(primaries, transfer):
    return box(b"colr", b"nclx" + struct.pack(">HHHB", primaries, transfer, 6, 0x80))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("version", [0, 1])
def test_the_colours_of_an_avif_are_those_of_its_picture_and_not_of_another_item(tmp_path, version, wide):
    def make(*of_picture):
        properties = (
            box(b"ispe", bytes(12)) + nclx(12, 13) + nclx(9, 16) + box(b"colr", b"prof" + bytes(9)) + nclx(1, 13)
        )
        number = ">I" if version else ">H"
        table = struct.pack(">BxxBI", version, wide, 2)
        for item, places in ((7, of_picture), (8, (3,))):
            table += struct.pack(number, item) + bytes([len(places)])
            table += b"".join(struct.pack(">H", 0x8000 | each) if wide else bytes([0x80 | each]) for each in places)
        inner = box(b"pitm", struct.pack(">Bxxx", version) + struct.pack(number, 7))
        inner += box(b"iprp", box(b"ipco", properties) + box(b"ipma", table))
        (tmp_path / "a.avif").write_bytes(box(b"ftyp", b"avif") + box(b"meta", bytes(4) + inner, wide))
        return tmp_path / "a.avif"

    assert read_coded_colours(make(1, 2)) == (12, 13)
    assert read_coded_colours(make(5, 1)) == (1, 13)
    assert read_coded_colours(make(1, 4)) is None
    with pytest.raises(BoxError, match="two colr"):
        read_coded_colours(make(2, 5))
    with pytest.raises(BoxError, match="damaged"):
        read_coded_colours(make(9))
    whole = make(1, 2).read_bytes()
    for end in range(20, len(whole)):
        (tmp_path / "a.avif").write_bytes(whole[:end])
        with pytest.raises(BoxError):
            read_coded_colours(tmp_path / "a.avif")
