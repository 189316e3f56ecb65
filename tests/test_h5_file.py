"""Files by Keras that are damaged or set a trap: one line, nothing followed, nothing allocated."""

import io
import tracemalloc
import zipfile
from random import Random

import h5py
import numpy as np
import pytest

from taesd_core.h5_file import H5File, natural_key
from taesd_core.tensor_file import LIMIT_BYTES, TensorFileError

KERNEL = np.arange(36, dtype=np.float32).reshape(3, 3, 2, 2)


def write_keras_3(file):
    for number in range(12):
        file[f"layers/conv2d{f'_{number}' * bool(number)}/vars/0"] = KERNEL + number


def write_keras_2(file):
    file.attrs["layer_names"] = names = ["b", "a", "c"]
    for number, name in enumerate(names):
        file.create_group(name).attrs["weight_names"] = [f"{name}/kernel:0"]
        file[name][f"{name}/kernel:0"] = KERNEL + number


def write_trained(file):
    write_keras_3(file)
    file["optimizer/vars/0"] = KERNEL


@pytest.mark.parametrize("write", [write_keras_3, write_keras_2, write_trained])
def test_tensors_come_in_the_order_of_the_layers(tmp_path, write):
    with h5py.File(tmp_path / "x", "w") as file:
        write(file)
    opened = H5File(tmp_path / "x")
    for number, (name, shape) in enumerate(opened.shapes.items()):
        assert shape == KERNEL.shape
        np.testing.assert_array_equal(opened.read(name), KERNEL + number)


def test_numbers_in_names_are_counted_and_not_spelled():
    names = ["block_2/conv1", "block_10/conv1", "block/conv10", "block/conv2", "block/conv1"]
    assert sorted(names, key=natural_key) == [
        "block/conv1", "block/conv2", "block/conv10", "block_2/conv1", "block_10/conv1",
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4"])
def test_other_floats_become_float32(tmp_path, dtype):
    with h5py.File(tmp_path / "x", "w") as file:
        file["layers/conv2d/vars/0"] = KERNEL.astype(dtype)
    values = H5File(tmp_path / "x").read("layers/conv2d/vars/0")
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, KERNEL)


def test_the_weights_in_an_archive_of_keras_are_read_and_no_bomb(tmp_path):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        write_keras_3(file)
    for name, weights in (("x", content.getvalue()), ("bomb", bytes(LIMIT_BYTES + 1)), ("damaged", b"junk")):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("config.json", "{}")
            archive.writestr("model.weights.h5", weights)
    opened = H5File(tmp_path / "x")
    assert len(opened.shapes) == 12
    np.testing.assert_array_equal(opened.read("layers/conv2d_11/vars/0"), KERNEL + 11)
    for name, says in {"bomb": r"too large: size=134217729 bytes unpacked", "damaged": "a damaged HDF5 file"}.items():
        with pytest.raises(TensorFileError, match=says):
            H5File(tmp_path / name)


@pytest.mark.parametrize("user_block", [0, 512, 4096])
def test_hdf5_is_read_behind_what_others_have_put_in_front_of_it(tmp_path, user_block):
    with h5py.File(tmp_path / "x", "w", userblock_size=user_block) as file:
        write_keras_3(file)
    np.testing.assert_array_equal(H5File(tmp_path / "x").read("layers/conv2d/vars/0"), KERNEL)


def test_hdf5_of_something_else_is_said_to_hold_no_weights(tmp_path):
    with h5py.File(tmp_path / "x", "w") as file:
        file["latents"] = KERNEL
    with pytest.raises(TensorFileError, match="no weights that Keras has saved"):
        H5File(tmp_path / "x")


def link_out(file, folder):
    file["layers/conv2d/vars/0"] = h5py.ExternalLink(str(folder / "secret"), "layers/conv2d/vars/0")


def link_softly(file, folder):
    file["layers/conv2d/vars/0"] = h5py.SoftLink("/elsewhere")


def link_in_a_circle(file, folder):
    file.create_group("layers")["again"] = file["/"]


def name_no_texts(file, folder):
    file.attrs["layer_names"] = [1, 2]


def name_what_is_not_there(file, folder):
    file.attrs["layer_names"] = ["a"]


def nest_a_link(file, folder):
    file["model_weights"] = h5py.ExternalLink(str(folder / "secret"), "/")


@pytest.mark.parametrize(
    ("set_trap", "says"),
    [
        (link_out, "link to elsewhere"),
        (link_softly, "link to elsewhere"),
        (nest_a_link, "link to elsewhere"),
        (link_in_a_circle, "more groups"),
        (name_no_texts, "not a list of names"),
        (name_what_is_not_there, "damaged"),
    ],
)
def test_traps_are_refused_when_the_file_is_opened(tmp_path, set_trap, says):
    for name in ("secret", "x"):
        with h5py.File(tmp_path / name, "w") as file:
            (write_keras_3 if name == "secret" else lambda file: set_trap(file, tmp_path))(file)
    with pytest.raises(TensorFileError, match=says):
        H5File(tmp_path / "x")


def store_outside(file, folder):
    (folder / "secret").write_bytes(bytes(144))
    file.create_dataset("layers/a/vars/0", (3, 3, 2, 2), "f4", external=[(str(folder / "secret"), 0, 144)])


def store_virtually(file, folder):
    layout = h5py.VirtualLayout((3, 3, 2, 2), "f4")
    layout[...] = h5py.VirtualSource(str(folder / "secret"), "x", (3, 3, 2, 2))
    file.create_virtual_dataset("layers/a/vars/0", layout)


def store_whole_numbers(file, folder):
    file["layers/a/vars/0"] = np.zeros((3, 3, 2, 2), np.int64)


def store_huge_chunks(file, folder):
    size = LIMIT_BYTES // 4 + 1
    file.create_dataset("layers/a/vars/0", (1,), "f4", maxshape=(None,), chunks=(size,), compression="gzip")


@pytest.mark.parametrize("store", [store_outside, store_virtually, store_whole_numbers, store_huge_chunks])
def test_arrays_that_are_no_plain_floats_are_refused_when_they_are_read(tmp_path, store):
    with h5py.File(tmp_path / "x", "w") as file:
        store(file, tmp_path)
    opened = H5File(tmp_path / "x")
    tracemalloc.start()
    try:
        with pytest.raises(TensorFileError, match="not a plain array of floats"):
            opened.read("layers/a/vars/0")
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_a_damaged_file_is_said_in_a_line_or_read(tmp_path):
    random, refusals = Random(0), []
    for write in (write_keras_3, write_keras_2):
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            write(file)
        for _ in range(150):
            spoilt = bytearray(content.getvalue())
            for _ in range(random.choice((1, 1, 4, 30))):
                spoilt[random.randrange(len(spoilt))] = random.randrange(256)
            if random.random() < 0.2:
                del spoilt[random.randrange(8, len(spoilt)) :]
            (tmp_path / "x").write_bytes(spoilt)
            try:
                opened = H5File(tmp_path / "x")
                for name, shape in opened.shapes.items():
                    if shape == KERNEL.shape:
                        opened.read(name)
            except TensorFileError as error:
                refusals.append(str(error))
    assert len(refusals) > 30
    assert all(refusal.isprintable() and len(refusal) < 300 for refusal in refusals)
