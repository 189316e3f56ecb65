"""What a file says besides its values is taken along where that is asked for, and named where it is not."""

import io
import json
import re
import struct
import zlib

import numpy as np
import pytest
import tifffile
from conftest import RepeatModel
from PIL import Image
from PIL.ExifTags import IFD
from PIL.PngImagePlugin import PngInfo
from safetensors import safe_open
from safetensors.numpy import save_file
from small_job import CountingModel, ShrinkModel

import tiler
from tiler import models
from tiler.errors import InputError, OptionError
from tiler.sources.metadata import read_all
from tiler.sources.png_chunks import TEXTS_BYTES

PROMPT, WORKFLOW = '{"1": {"inputs": {"text": "a \\u732b, 猫"}}}', '{"nodes": []}'
OUTPUTS = ["a.png", "a.jpg", "a.webp", "a.tif", "a.ome.tif", "a.zarr"]
TILE_PX = 64


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """Models that take no time."""
    encoder = ShrinkModel(RepeatModel())
    monkeypatch.setattr(
        models, "load_model", lambda _, part, *__, **___: encoder if part == "encoder" else RepeatModel()
    )


def save_latents(path, **texts):
    """As ComfyUI writes them, by another library."""
    values = np.random.default_rng(0).normal(size=(1, 4, 6, 9)).astype(np.float32)
    save_file({"latent_tensor": values, "latent_format_version_0": np.zeros(0, np.float32)}, path, metadata=texts)
    return tiler.Latents(path, space="diffusion")


def decode(latents, path, **options):
    return tiler.decode(latents, path, weights="photo", tile_size_px=TILE_PX, **options)


def encode(picture, path, **options):
    return tiler.encode(picture, path, weights="photo", tile_size_px=TILE_PX, **options)


def read_described(path):
    """The description of how it was made, by other libraries."""
    if path.is_dir():
        return json.loads((path / "zarr.json").read_text())["attributes"]["taesd-tiler"]
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as tiff:
            if not tiff.is_ome:
                return json.loads(tiff.pages[0].description)
            annotations = tifffile.xml2dict(tiff.ome_metadata)["OME"]["StructuredAnnotations"]["MapAnnotation"]
            said = {each["K"]: each["value"] for each in annotations["Value"]["M"]}
            names = [name for name in said if name.startswith("metadata ")]
            return said | {"metadata": {name[9:]: said[name] for name in names}} if names else said
    with Image.open(path) as image:
        if path.suffix == ".png":
            return json.loads(image.text["Description"])
        xmp = image.info["xmp"].decode()
        return json.loads(re.search(r'<rdf:li xml:lang="x-default">(.*)</rdf:li>', xmp)[1])


def read_texts(path):
    """Texts where programs look for them in this kind of file."""
    if path.suffix in (".tif", ".zarr"):
        return {name: str(text) for name, text in read_described(path).get("metadata", {}).items()}
    with Image.open(path) as image:
        if path.suffix == ".png":
            return {name: text for name, text in image.text.items() if name != "Description"}
        exif = image.getexif()
        found = dict(exif[tag].encode("latin-1").decode().split(":", 1) for tag in (0x010F, 0x0110) if tag in exif)
        return found | read_described(path).get("metadata", {})


@pytest.mark.parametrize("name", OUTPUTS)
def test_prompt_and_workflow_come_along_to_where_programs_look_for_them(tmp_path, name):
    latents = save_latents(tmp_path / "z.latent", prompt=PROMPT, workflow=WORKFLOW, author="R. Née")
    path = tmp_path / name
    report = decode(latents, path, keep_metadata=True)
    assert report.notes == ()
    found = read_texts(path)
    if name == "a.ome.tif":
        found["workflow"] = WORKFLOW if found["workflow"] else None  # tifffile reads a number or JSON as such
    assert found["prompt"] == PROMPT
    assert found["author"] == "R. Née"
    assert set(found) == {"prompt", "workflow", "author"}
    assert read_described(path)["software"].startswith("taesd-tiler")
    assert path.suffix == ".webp" or tiler.verify(path, latents, weights="photo", samples=0).ok


@pytest.mark.parametrize("name", [*OUTPUTS, "a.npy"])
def test_what_is_not_taken_along_is_named(tmp_path, name):
    latents = save_latents(tmp_path / "z.latent", prompt=PROMPT, workflow=WORKFLOW)
    report = decode(latents, tmp_path / name)
    [note] = report.notes
    assert re.fullmatch(
        r"the metadata of the input \((prompt, workflow|workflow, prompt)\) are not taken along; "
        "keep_metadata=True does",
        note,
    )
    assert name == "a.npy" or read_texts(tmp_path / name) == {}
    assert decode(save_latents(tmp_path / "none.latent", format="pt"), tmp_path / f"b{name}").notes == ()


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_workflow_of_megabytes_comes_along_or_is_refused_before_any_work(tmp_path, name):
    workflow = json.dumps({"nodes": ["\u732b " * 7] * 50_000})
    assert len(workflow) > 2e6
    latents = save_latents(tmp_path / "z.latent", workflow=workflow)
    if name == "a.jpg":
        with pytest.raises(OptionError, match=r"Too large for a JPEG: metadata=\d+ bytes.*write a PNG, WebP or TIFF"):
            decode(latents, tmp_path / name, keep_metadata=True)
        assert [path.name for path in tmp_path.iterdir()] == ["z.latent"]
        return
    decode(latents, tmp_path / name, keep_metadata=True)
    if name != "a.ome.tif":
        assert read_texts(tmp_path / name)["workflow"] == workflow


def test_npy_has_no_place_and_a_png_not_for_every_name(tmp_path):
    latents = save_latents(tmp_path / "z.latent", **{"n" * 80: "text"})
    with pytest.raises(OptionError, match=r"A \.npy has no place for metadata"):
        decode(latents, tmp_path / "a.npy", keep_metadata=True)
    with pytest.raises(OptionError, match="Names have 1 to 79 characters"):
        decode(latents, tmp_path / "a.png", keep_metadata=True)
    with pytest.raises(OptionError, match=r"A \.npy has no place for metadata"):
        encode(np.zeros((16, 16, 3), np.uint8), tmp_path / "b.npy", keep_metadata=True)
    assert [path.name for path in tmp_path.iterdir()] == ["z.latent"]


def test_where_there_is_nothing_that_is_said(tmp_path, latents):
    report = decode(latents(6, 9).transpose(2, 0, 1), tmp_path / "a.png", keep_metadata=True)
    assert report.notes == ("the input has no metadata to take along",)


def test_what_cannot_be_written_is_named_and_xml_stays_whole(tmp_path):
    path = tmp_path / "z.latent"
    latents = save_latents(path, half="HALF--", control="a\x0bb")
    path.write_bytes(path.read_bytes().replace(b'"HALF--"', rb'"\ud800"'))
    report = decode(latents, tmp_path / "a.ome.tif", keep_metadata=True)
    assert report.notes == ("of the metadata of the input these are not taken along: half",)
    assert read_texts(tmp_path / "a.ome.tif") == {"control": "a\ufffdb"}


def test_other_metadata_are_another_job(tmp_path, monkeypatch):
    latents = save_latents(tmp_path / "z.latent", prompt=PROMPT)
    with monkeypatch.context() as patch:
        patch.setattr(models, "load_model", lambda *_: CountingModel(lambda number: 1 // (1 - number)))
        with pytest.raises(tiler.TileError):
            decode(latents, tmp_path / "a.tif", keep_metadata=True, workers=1)
    with pytest.raises(InputError, match=r"taken along, begun with [0-9a-f]{16}, now nothing"):
        decode(latents, tmp_path / "a.tif", resume=True)
    decode(latents, tmp_path / "a.tif", keep_metadata=True, resume=True)
    assert read_texts(tmp_path / "a.tif") == {"prompt": PROMPT}


# -- pictures


def make_exif(*, place=True):
    """As a camera writes it, with a thumbnail's directory, an orientation and notes of its maker."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x011A], exif[0x0131] = "Camera", 6, 300.0, "firmware"
    exif[0x013B] = "R. Née".encode()
    exif[0x8769] = {0x9003: "2024:05:06 07:08:09", 0x829A: 0.25, 0x927C: b"secret\0notes", 0xA002: 24, 0xA001: 1}
    if place:
        exif[0x8825] = {1: "N", 2: (48.0, 51.0, 30.0)}
    return exif


def save_picture(path, **options):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8))
    picture.save(path, **({"lossless": True} if path.suffix == ".webp" else {}), **options)
    return path


def read_exif(path):
    with Image.open(path) as image:
        exif = image.getexif()
        return dict(exif), dict(exif.get_ifd(0x8769)), dict(exif.get_ifd(0x8825)), dict(exif.get_ifd(IFD.IFD1))


def add_thumbnail(path):
    """Give a JPEG's EXIF a second directory, with a thumbnail."""
    with Image.open(path) as image:
        content = path.read_bytes()
        exif = image.info["exif"]
    thumbnail = io.BytesIO()
    Image.new("RGB", (8, 8)).save(thumbnail, "JPEG")
    order = "<" if exif[6:8] == b"II" else ">"
    n_tags = struct.unpack(order + "H", exif[14:16])[0]
    start = len(exif) - 6
    second = struct.pack(order + "H", 2)
    second += struct.pack(order + "HHII", 0x0201, 4, 1, start + 30) + struct.pack(order + "HHII", 0x0202, 4, 1, 0)
    second += bytes(4) + thumbnail.getvalue()
    where = 16 + 12 * n_tags
    longer = exif[:where] + struct.pack(order + "I", start) + exif[where + 4 :] + second
    position = content.index(exif) - 2
    path.write_bytes(
        content[:position] + struct.pack(">H", len(longer) + 2) + longer + content[position + 2 + len(exif) :]
    )


@pytest.mark.parametrize("kept", ["z.safetensors", "z.png"])
@pytest.mark.parametrize("name", ["p.jpg", "p.png", "p.webp", "p.tif"])
def test_exif_comes_along_through_latents_but_for_what_is_said_of_the_file(tmp_path, name, kept):
    picture = save_picture(tmp_path / name, exif=make_exif().tobytes())
    if name == "p.tif":  # which Pillow writes otherwise
        picture.write_bytes(picture.read_bytes().replace(b"R. N??e", "R. Née".encode()))
    if name == "p.jpg":
        add_thumbnail(picture)
        assert read_exif(picture)[3]
    report = encode(picture, tmp_path / kept, keep_metadata=True)
    assert "the metadata that are taken along name a place on earth (GPS)" in report.notes
    for again in ("a.jpg", "a.png", "a.webp"):
        report = decode(tmp_path / kept, tmp_path / again, keep_metadata=True)
        assert report.notes == ("the metadata that are taken along name a place on earth (GPS)",)
        first, photo, place, thumbnail = read_exif(tmp_path / again)
        said = {tag: value for tag, value in first.items() if tag not in (0x8769, 0x8825)}
        assert said.pop(0x013B).encode("latin-1") == "R. Née".encode()  # Pillow takes it for Latin-1
        assert said == {0x010F: "Camera"}
        assert photo == {0x9003: "2024:05:06 07:08:09", 0x829A: 0.25}
        assert place == {1: "N", 2: (48.0, 51.0, 30.0)}
        assert not thumbnail
        assert b"secret" not in (tmp_path / again).read_bytes()
    decode(tmp_path / kept, tmp_path / "a.tif", keep_metadata=True)
    assert read_texts(tmp_path / "a.tif") == {
        "EXIF Make": "Camera",
        "EXIF Artist": "R. Née",
        "EXIF DateTimeOriginal": "2024:05:06 07:08:09",
        "EXIF ExposureTime": "0.25",
        "EXIF GPSLatitudeRef": "N",
        "EXIF GPSLatitude": "48.0 51.0 30.0",
    }
    report = encode(picture, tmp_path / f"b{kept}")
    assert report.notes[0].startswith("the metadata of the input (EXIF, a place on earth) are not taken along")
    if kept == "z.safetensors":
        with safe_open(tmp_path / "bz.safetensors", "np") as file:
            assert set(file.metadata()) == {"latent_space"}


def test_a_picture_that_says_nothing_but_how_it_is_stored_has_no_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x011A], exif[0x0128] = 3, 72.0, 2
    exif[0x8769] = {0xA002: 24, 0xA001: 1, 0x9000: b"0231"}
    for name in ("p.jpg", "p.tif", "p.png"):
        assert encode(save_picture(tmp_path / name, exif=exif.tobytes()), tmp_path / f"{name}.safetensors").notes == ()
    tifffile.imwrite(tmp_path / "t.tif", np.zeros((16, 24, 3), np.uint8), photometric="rgb")
    assert encode(tmp_path / "t.tif", tmp_path / "t.safetensors").notes == ()


def test_texts_of_a_png_come_along_wherever_they_stand_and_however_they_are_stored(tmp_path):
    texts = PngInfo()
    texts.add_text("parameters", "steps: 20")
    texts.add_text("packed", "z" * 5000, zip=True)
    texts.add_itxt("prompt", PROMPT, zip=True)
    texts.add_itxt("XML:com.adobe.xmp", "<x/>")
    texts.add_text("Software", "a program")
    picture = save_picture(tmp_path / "p.png", pnginfo=texts)
    whole = picture.read_bytes()
    picture.write_bytes(whole[:-12] + make_png_chunk(b"tEXt", b"behind\0the pixels") + whole[-12:])
    report = encode(picture, tmp_path / "z.safetensors", keep_metadata=True)
    assert report.notes == ("of the metadata of the input these are not taken along: XML:com.adobe.xmp",)
    decode(tmp_path / "z.safetensors", tmp_path / "a.png", keep_metadata=True)
    expected = {"parameters": "steps: 20", "packed": "z" * 5000, "prompt": PROMPT, "behind": "the pixels"}
    assert read_texts(tmp_path / "a.png") == expected


def test_a_description_of_a_png_and_ours_stand_side_by_side(tmp_path):
    texts = PngInfo()
    texts.add_text("Description", "a cat")
    picture = save_picture(tmp_path / "p.png", pnginfo=texts)
    encode(picture, tmp_path / "z.safetensors", keep_metadata=True)
    decode(tmp_path / "z.safetensors", tmp_path / "a.png", keep_metadata=True)
    with Image.open(tmp_path / "a.png") as image:
        assert list(image.text) == ["Comment", "Description"]
        assert image.text["Description"] == "a cat"
        assert json.loads(image.text["Comment"])["software"].startswith("taesd-tiler ")
    assert dict(read_all(tmp_path / "a.png", picture=True).texts) == {"Description": "a cat"}


def test_exif_is_that_of_the_page(tmp_path):
    with tifffile.TiffWriter(tmp_path / "p.tif") as tiff:
        for artist in ("one", "two"):
            pixels = np.zeros((16, 24, 3), np.uint8)
            tiff.write(pixels, photometric="rgb", extratags=[(0x013B, 2, 0, artist, True)], metadata=None)
    for page, artist in enumerate(("one", "two")):
        encode(tmp_path / "p.tif", tmp_path / "z.png", keep_metadata=True, page=page, overwrite=True)
        assert read_exif(tmp_path / "z.png")[0] == {0x013B: artist}


def make_png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"zTXt", b"bomb\0\0" + zlib.compress(bytes(TEXTS_BYTES + 1), 9)),
        (b"zTXt", b"cut\0\0" + zlib.compress(b"a" * 900)[:-9]),
        (b"iTXt", b"odd\0\0\0no"),
        (b"iTXt", b"bytes\0\0\0\0\0\xff\xfe"),
        (b"tEXt", b"long\0" + bytes(TEXTS_BYTES)),
    ],
    ids=["bomb", "cut", "odd", "bytes", "long"],
)
def test_a_text_that_is_damaged_or_too_long_is_named_and_the_others_come_along(tmp_path, kind, content):
    picture = save_picture(tmp_path / "p.png")
    whole = picture.read_bytes()
    good = make_png_chunk(b"tEXt", b"good\0text")
    picture.write_bytes(whole[:33] + good + make_png_chunk(kind, content) + whole[33:])
    found = read_all(picture, picture=True)
    assert (dict(found.texts), found.left) == ({"good": "text"}, (content.partition(b"\0")[0].decode(),))


def test_damaged_exif_is_named(tmp_path):
    picture = save_picture(tmp_path / "p.png")
    whole = picture.read_bytes()
    picture.write_bytes(whole[:33] + make_png_chunk(b"eXIf", b"nonsense" * 4) + whole[33:])
    assert read_all(picture, picture=True).left == ("EXIF, which is damaged",)


def test_what_came_along_to_a_tiff_of_ours_comes_along_from_it(tmp_path):
    decode(save_latents(tmp_path / "z.latent", prompt=PROMPT), tmp_path / "a.tif", keep_metadata=True)
    assert dict(read_all(tmp_path / "a.tif", picture=True).texts) == {"prompt": PROMPT}
    decode(save_latents(tmp_path / "z.latent"), tmp_path / "b.tif")
    assert read_all(tmp_path / "b.tif", picture=True).names == ()
