"""Which page of a TIFF is the picture: the only full one, or the one that is asked for."""

import numpy as np
import pytest
import tifffile
from tiff_kinds import Kind, make_pixels, make_tiff

from tiler.errors import InputError
from tiler.sources.opening import open_image
from tiler.window import Window

RANDOM = np.random.default_rng(0)
ONE, OTHER = RANDOM.integers(0, 256, (2, 48, 64, 3), np.uint8)
SMALL = ONE[::4, ::4]
RGB = {"photometric": "rgb"}


def read_whole(source):
    return source.read(Window.whole(*source.shape[:2]))


def write(path, *pages):
    with tifffile.TiffWriter(path) as tiff:
        for pixels, options in pages:
            tiff.write(pixels, contiguous=False, metadata=None, **{**RGB, **options})
    return path


@pytest.mark.parametrize("tiled", [{}, {"tile": (16, 16)}, {"compression": "zlib"}], ids=["strips", "tiles", "deflate"])
def test_a_reduced_page_in_front_is_not_the_picture(tmp_path, tiled):
    path = write(tmp_path / "x.tif", (SMALL, {"subfiletype": 1}), (ONE, tiled), (SMALL, {"subfiletype": 1}))
    source = open_image(path)
    np.testing.assert_array_equal(read_whole(source) * 255, ONE)
    np.testing.assert_array_equal(read_whole(open_image(path, page=0)) * 255, SMALL)
    assert open_image(path, page=0).fingerprint != source.fingerprint


@pytest.mark.parametrize("kind", [0, 2], ids=["full", "page of several"])
def test_of_several_full_pages_one_is_asked_for(tmp_path, kind):
    path = write(tmp_path / "x.tif", (ONE, {}), (OTHER, {"subfiletype": kind}))
    with pytest.raises(InputError, match=r"Several pictures.*pages=0, 1\. Choose one with page="):
        open_image(path)
    for page, pixels in enumerate((ONE, OTHER)):
        np.testing.assert_array_equal(read_whole(open_image(path, page=page)) * 255, pixels)
    with pytest.raises(InputError, match=r"No such page.*page=2, pages=2\. Use page=0 to 1"):
        open_image(path, page=2)


def test_a_pyramid_beneath_the_page_is_none_of_its_pages(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as tiff:
        tiff.write(ONE, subifds=1, tile=(16, 16), metadata=None, **RGB)
        tiff.write(SMALL, subfiletype=1, tile=(16, 16), metadata=None, **RGB)
    np.testing.assert_array_equal(read_whole(open_image(tmp_path / "x.tif")) * 255, ONE)


def test_nothing_but_reduced_pages_is_asked_about(tmp_path):
    path = write(tmp_path / "x.tif", (SMALL, {"subfiletype": 1}))
    with pytest.raises(InputError, match="No picture but reduced ones"):
        open_image(path)
    np.testing.assert_array_equal(read_whole(open_image(path, page=0)) * 255, SMALL)


@pytest.mark.parametrize("kind", ["ome", "imagej", "truncated"])
def test_channels_on_pages_of_their_own_are_no_picture(tmp_path, kind):
    channels = np.ascontiguousarray(np.moveaxis(ONE, 2, 0))
    options = {
        "ome": {"ome": True, "metadata": {"axes": "CYX", "Channel": {"Name": ["R", "G", "B"]}}},
        "imagej": {"imagej": True, "metadata": {"axes": "CYX"}},
        "truncated": {"truncate": True},
    }[kind]
    tifffile.imwrite(tmp_path / "x.tif", channels, photometric="minisblack", **options)
    with pytest.raises(InputError, match="Several pictures, or channels apart"):
        open_image(tmp_path / "x.tif")
    expected = ONE[..., [0, 0, 0]]
    np.testing.assert_array_equal(read_whole(open_image(tmp_path / "x.tif", page=0)) * 255, expected)


def write_ome(path, pixels, pixels_tag, **options):
    xml = f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{pixels_tag}</OME>'
    tifffile.imwrite(path, pixels, description=xml, metadata=None, **options)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
    return path


def describe_image(n_channels, size=(64, 48), prefix="", n_slices=1, n_times=1):
    return (
        f'<Image ID="Image:0"><{prefix}Pixels ID="Pixels:0" DimensionOrder="XYCZT" SizeX="{size[0]}" SizeY="{size[1]}" '
        f'SizeC="{n_channels}" SizeZ="{n_slices}" SizeT="{n_times}"><TiffData FirstC="0" IFD="0">'
        f'<UUID FileName="a.ome.tif">urn:uuid:1</UUID></TiffData></{prefix}Pixels></Image>'
    )


OTHER_CHANNELS = {
    "channels=3 by its OME-XML, here=1": describe_image(3),
    "channels=2 by its OME-XML, here=1": describe_image(2, prefix="ome:"),
    "slices=5 by its OME-XML, here=1": describe_image(1, n_slices=5),
    "slices=6 by its OME-XML, here=1": describe_image(1, n_slices=2, n_times=3),
    "its OME-XML is in another file": '<BinaryOnly MetadataFile="a.companion.ome" UUID="urn:uuid:1"/>',
}


@pytest.mark.parametrize("words", OTHER_CHANNELS)
def test_one_of_several_channels_or_slices_in_other_files_is_no_picture_of_its_own(tmp_path, words):
    path = write_ome(tmp_path / "a.ome.tif", ONE[..., 0], OTHER_CHANNELS[words], photometric="minisblack")
    with pytest.raises(InputError, match=f"Channels or slices in several files.*{words}.*page=0"):
        open_image(path)
    np.testing.assert_array_equal(read_whole(open_image(path, page=0)) * 255, ONE[..., [0, 0, 0]])


def test_all_channels_of_an_ome_tiff_in_one_page_are_its_picture(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", ONE, describe_image(3), **RGB)
    np.testing.assert_array_equal(read_whole(open_image(path)) * 255, ONE)
    grey = write_ome(tmp_path / "b.ome.tif", ONE[..., 0], describe_image(1) + describe_image(3, (32, 24)))
    np.testing.assert_array_equal(read_whole(open_image(grey)) * 255, ONE[..., [0, 0, 0]])


def test_three_bands_that_are_not_said_to_be_colours_are_named(tmp_path):
    """As GDAL writes three bands by default."""
    tifffile.imwrite(tmp_path / "x.tif", ONE, photometric="minisblack", planarconfig="contig", metadata=None)
    with pytest.raises(InputError, match=r"3 samples a pixel that are not said to be colours.*MINISBLACK"):
        open_image(tmp_path / "x.tif")


@pytest.mark.filterwarnings("ignore:.*geotransform")
def test_a_sparse_picture_is_named(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    options = {"driver": "GTiff", "height": 64, "width": 64, "count": 3, "dtype": "uint8", "sparse_ok": True}
    with rasterio.open(
        tmp_path / "x.tif", "w", **options, photometric="RGB", tiled=True, blockxsize=32, blockysize=32
    ) as file:
        file.write(np.moveaxis(ONE[:32, :32], 2, 0), window=rasterio.windows.Window(0, 0, 32, 32))
    with pytest.raises(InputError, match=r"3 of 4 tiles or strips are not stored\. It is sparse, or half done"):
        open_image(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Kind(photometric="ycbcr"), "YCbCr that is not JPEG"),
        (Kind(bits=("uint", 12), photometric="minisblack"), "integers of 12 bits"),
        (Kind(bits=("int", 16), photometric="minisblack"), "signed integers of 16 bits"),
        (Kind(bits=("float", 64)), "floats of 64 bits"),
        (Kind(compression="webp"), "Compression=WEBP"),
        (Kind(compression="lerc"), "Compression=LERC"),
        (Kind(photometric="cielab"), "PhotometricInterpretation=CIELAB"),
    ],
    ids=str,
)
def test_what_is_not_read_is_named_for_what_it_is(tmp_path, kind, says):
    (tmp_path / "x.tif").write_bytes(make_tiff(kind, make_pixels(kind)))
    with pytest.raises(InputError, match=f"A kind of TIFF that is not read: path=.*{says}"):
        open_image(tmp_path / "x.tif")
