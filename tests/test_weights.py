"""``tiler weights``, and which file is taken where none or only a name was given."""

import os
import re

import numpy as np
import pytest
from click.testing import CliRunner
from reference_networks import NETWORKS, write_comfyui, write_diffusers
from safetensors.numpy import load_file, save_file

from taesd_core.checkpoint import CheckpointError, load_checkpoint
from taesd_core.variants import ENVIRONMENT, VARIANTS, NoWeightsError, find_weights
from tiler.command.cli import main

PHOTO = {part: find_weights("photo", part) for part in ("decoder", "encoder")}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """An environment that names nothing, no network and an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(*words, code=0):
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == code, (result.exception, result.stderr)
    if code:
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        return line
    return result.stdout


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    return target


# ------------------------------------------------------------------------------------------------- which file


def test_the_environment_names_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, str(PHOTO["decoder"]))
    assert find_weights(None, "decoder") == PHOTO["decoder"]
    # What is named goes first.
    assert find_weights(copy(PHOTO["encoder"], tmp_path / "x"), "decoder") == tmp_path / "x"


def test_the_environment_names_a_variant(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "photo")
    assert find_weights(None, "encoder") == PHOTO["encoder"]


def test_the_environment_names_what_is_not_there(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "gone.safetensors")
    with pytest.raises(CheckpointError, match=r"No such weights: weights=gone\.safetensors"):
        find_weights(None, "decoder")


@pytest.mark.parametrize(
    "name",
    [
        "taef1_decoder.safetensors",
        "taef1_decoder.pth",
        "taef1.safetensors",
        "taef1/diffusion_pytorch_model.safetensors",
    ],
)
def test_a_name_is_found_in_the_folder_of_the_environment(tmp_path, monkeypatch, name):
    path = copy(PHOTO["decoder"], tmp_path / "folder" / name)
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "folder"))
    assert find_weights("taef1", "decoder") == path
    with pytest.raises(CheckpointError, match=r"weights=taesd3 \(offline"):
        find_weights("taesd3", "decoder")


def test_the_only_file_in_the_folder_that_fits_is_taken_and_of_two_none(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    for name in ("taesdxl", "taef1"):
        copy(PHOTO["decoder"], folder / f"{name}_decoder.safetensors")
    monkeypatch.setenv(ENVIRONMENT, str(folder))
    assert find_weights(None, "decoder", {4}).name == "taesdxl_decoder.safetensors"
    with pytest.raises(NoWeightsError):
        find_weights(None, "decoder")
    copy(PHOTO["decoder"], folder / "taesd_decoder.safetensors")
    with pytest.raises(NoWeightsError, match=r"taesd \(SD1, SD2\) or taesdxl \(SDXL\)\."):
        find_weights(None, "decoder", {4})


@pytest.mark.parametrize(
    ("channels", "fitting"),
    [(4, {"taesd", "taesdxl"}), (16, {"taesd3", "taef1"}), (32, {"taef2", "taesana"})],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_what_fits_the_channels_is_said_where_nothing_was_named(channels, fitting, dry):
    np.save("latents.npy", np.zeros((1, channels, 5, 6), np.float32))
    line = run("decode", "latents.npy", "x.tif", *dry, code=2)
    assert f"latents with {channels} channels" in line
    published = {name for name in VARIANTS if re.search(rf"\b{name} \(", line)}
    assert published - {"photo"} == fitting
    for way in ("--weights NAME", "--weights FILE", ENVIRONMENT, "--weights photo"):
        assert way in line


def test_the_environment_is_enough_to_decode_and_encode(monkeypatch):
    np.save("latents.npy", np.zeros((1, 4, 5, 6), np.float32))
    np.save("image.npy", np.zeros((16, 24, 3), np.uint8))
    monkeypatch.setenv(ENVIRONMENT, "photo")
    assert "tile" in run("decode", "latents.npy", "x.tif", "--dry-run")
    assert "tile" in run("encode", "image.npy", "x.npy", "--dry-run")


def test_a_variant_without_hub_says_where_its_files_are():
    line = run("weights", "fetch", "taesana", code=3)
    for words in (
        "No such weights on the hub",
        "taesana_decoder.pth",
        "github.com/madebyollin/taesd",
        "its file",
    ):
        assert words in line


def test_every_variant_is_pinned():
    for variant in VARIANTS.values():
        assert variant.packaged or variant.source or set(variant.files) == {"decoder", "encoder"}
        for file in (*variant.files.values(), *variant.others):
            assert re.fullmatch("[0-9a-f]{40}", file.revision)
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)


# --------------------------------------------------------------------------------------------------- commands


def test_the_list_names_every_variant_and_where_it_is(tmp_path, monkeypatch):
    copy(PHOTO["decoder"], tmp_path / "folder" / "taesd3_decoder.safetensors")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "folder"))
    lines = {line.split()[0]: line for line in run("weights", "list").splitlines()}
    assert set(lines) == {"name", *VARIANTS}
    assert "(z - 0.1159) * 0.3611" in lines["taef1"]
    assert "madebyollin/taef1@b1b2d00e" in lines["taef1"]
    assert " decoder " in lines["taesd3"]
    assert " no " in lines["taesd"]
    assert "comes along" in lines["photo"]


def test_check_says_what_a_file_holds():
    said = run("weights", "check", PHOTO["decoder"])
    for words in (
        "decoder, layout upstream",
        "family taesd, 4 channels, 1,222,531 parameters",
        "known: photo",
        "sha256 ",
    ):
        assert words in said
    save_file(load_file(PHOTO["decoder"]), "other", {"a": "b"})
    said = run("weights", "check", "other")
    assert "not a published file" in said
    assert "taesd (SD1, SD2) or taesdxl (SDXL)" in said


def test_check_knows_a_published_file_by_its_hash(monkeypatch):
    import hashlib

    from tiler.command import weights

    monkeypatch.setattr(weights, "KNOWN", {hashlib.sha256(PHOTO["encoder"].read_bytes()).hexdigest(): (
        VARIANTS["taesdxl"], VARIANTS["taesdxl"].files["encoder"]
    )})  # fmt: skip
    said = run("weights", "check", PHOTO["encoder"])
    assert "known: taesdxl (SDXL), taesdxl_encoder.safetensors of madebyollin/taesdxl@b20258aa" in said


def test_check_refuses_a_damaged_file(tmp_path):
    content = bytearray(PHOTO["decoder"].read_bytes())
    (tmp_path / "short").write_bytes(content[:-1])
    assert "weights=short" in run("weights", "check", "short", code=3)
    assert "weights=gone" in run("weights", "check", "gone", code=3)


def write_both(write, path):
    states = {part: load_file(PHOTO[part]) for part in PHOTO}
    parts = []
    for part, state in states.items():
        write(path, part, NETWORKS["taesd", part], state)
        parts.append(load_file(path))
    save_file(parts[0] | parts[1], path)


@pytest.mark.parametrize("write", [write_comfyui, write_diffusers])
def test_both_parts_are_checked_and_converted(tmp_path, write):
    write_both(write, tmp_path / "both")
    said = run("weights", "check", "both")
    assert "decoder and encoder" in said
    run("weights", "convert", "both", "out.safetensors")
    expected = tmp_path / "expected"
    write_both(write_diffusers, expected)
    assert_same(load_file("out.safetensors"), load_file(expected))


def test_one_part_is_converted_to_the_published_names(tmp_path):
    write_diffusers(tmp_path / "x", "encoder", NETWORKS["taesd", "encoder"], load_file(PHOTO["encoder"]))
    assert "encoder, from layout diffusers" in run("weights", "convert", "x", "out.safetensors")
    assert_same(load_file("out.safetensors"), load_file(PHOTO["encoder"]))
    checkpoint = load_checkpoint("out.safetensors", "encoder")
    assert checkpoint.layout == "upstream"


def assert_same(tensors, expected):
    assert set(tensors) == set(expected)
    for name, values in tensors.items():
        np.testing.assert_array_equal(values, expected[name].astype(np.float32))


@pytest.mark.parametrize("words", [("convert", PHOTO["decoder"], "out.safetensors"), ("export", "photo", "out.onnx")])
def test_an_output_is_not_replaced_unless_asked(tmp_path, words):
    if words[0] == "export":
        pytest.importorskip("onnx")
    out = tmp_path / words[2]
    out.write_bytes(b"mine")
    assert words[2] in run("weights", *words, code=4)
    assert out.read_bytes() == b"mine"
    run("weights", *words, "--overwrite")
    assert out.stat().st_size > 10**6
    assert sorted(path.name for path in tmp_path.iterdir()) == [words[2]]


@pytest.mark.parametrize("words", [("convert", PHOTO["decoder"], "out.pth"), ("export", "photo", "out.pt")])
def test_an_output_of_another_kind_is_refused(words):
    assert "must end in" in run("weights", *words, code=2)


@pytest.mark.parametrize("words", [("convert",), ("export",)])
def test_what_lies_beside_an_output_stays(tmp_path, words):
    """Not even what has the name that a half-written file might have is touched; nothing else is left."""
    if words[0] == "export":
        pytest.importorskip("onnx")
    output = tmp_path / ("x.safetensors" if words[0] == "convert" else "x.onnx")
    beside = tmp_path / f"x.part{output.suffix}"
    beside.mkdir()
    (beside / "precious").write_bytes(b"precious")
    run("weights", *words, PHOTO["decoder"], output)
    assert (beside / "precious").read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([beside.name, output.name])


def test_weights_are_never_overwritten_by_what_is_made_of_them(tmp_path):
    copy(PHOTO["decoder"], tmp_path / "x.safetensors")
    line = run("weights", "convert", tmp_path / "x.safetensors", tmp_path / "x.safetensors", "--overwrite", code=3)
    assert "The output would take the place of its input" in line
    assert (tmp_path / "x.safetensors").read_bytes() == PHOTO["decoder"].read_bytes()


def test_a_file_in_the_folder_that_is_not_the_published_one_is_said_to_be_none(tmp_path, monkeypatch):
    for part in PHOTO:
        (tmp_path / f"taesd_{part}.safetensors").write_bytes(b"junk")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    result = CliRunner().invoke(main, ["weights", "fetch", "taesd"])
    assert result.exit_code == 0
    assert result.stderr.count("Note: not the published file: path=") == 2
    assert CliRunner().invoke(main, ["weights", "fetch", "photo"]).stderr == ""


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in run("weights", "check", tmp_path / "pipe", code=3)
