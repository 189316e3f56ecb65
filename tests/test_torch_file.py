"""What ``torch.save`` writes: only plain tensors come out of it, and nothing is run or blown up."""

import io
import warnings
import zipfile

import numpy as np
import pytest

from taesd_core.tensor_file import LIMIT_BYTES, TensorFileError
from taesd_core.torch_file import TorchFile

torch = pytest.importorskip("torch")

VALUES = np.arange(36, dtype=np.float32).reshape(3, 3, 2, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("new", [True, False], ids=["archive", "pickle"])
def test_floats_become_float32(tmp_path, dtype, new):
    # A parameter, and one that is not contiguous.
    tensors = {
        "a": torch.nn.Parameter(torch.from_numpy(VALUES).to(dtype)),
        "b": torch.from_numpy(VALUES.copy()).permute(3, 2, 1, 0),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(tensors, tmp_path / "x", _use_new_zipfile_serialization=new)
    file = TorchFile(tmp_path / "x")
    assert file.shapes == {"a": (3, 3, 2, 2), "b": (2, 2, 3, 3)}
    assert file.read("a").dtype == np.float32
    np.testing.assert_array_equal(file.read("a"), VALUES)
    np.testing.assert_array_equal(file.read("b"), VALUES.T)


@pytest.mark.parametrize(
    "tensor",
    [
        lambda: torch.zeros(3, dtype=torch.int64),
        lambda: torch.zeros(3, dtype=torch.complex64),
        lambda: torch.zeros(3).to_sparse(),
        lambda: torch.zeros(3, device="meta"),
    ],
    ids=["whole numbers", "complex", "sparse", "without values"],
)
def test_other_tensors_are_refused_when_they_are_read(tmp_path, tensor):
    torch.save({"a": tensor()}, tmp_path / "x")
    with pytest.raises(TensorFileError, match="not one of plain floats"):
        TorchFile(tmp_path / "x").read("a")


A, B = torch.zeros(3), torch.ones(2, 2)


@pytest.mark.parametrize(
    ("content", "shapes"),
    [
        (A, {"": (3,)}),
        ([A, B], {"0": (3,), "1": (2, 2)}),
        ({1: A, "b": 2, "c": None}, {"1": (3,)}),
        ({"params": {"a": A, "deep": ({"b": B},)}, "epoch": 3}, {"params.a": (3,), "params.deep.0.b": (2, 2)}),
        ({"a": {}}, {}),
        ("text", {}),
    ],
)
def test_tensors_in_containers_are_called_by_the_keys_that_lead_to_them(tmp_path, content, shapes):
    torch.save(content, tmp_path / "x")
    file = TorchFile(tmp_path / "x")
    assert file.shapes == shapes
    for name, shape in shapes.items():
        np.testing.assert_array_equal(file.read(name), np.full(shape, float(len(shape) == 2), np.float32))


def test_two_tensors_of_one_name_are_refused(tmp_path):
    for content in ({1: A, "1": B}, {"a": {"b": A}, "a.b": B}):
        torch.save(content, tmp_path / "x")
        with pytest.raises(TensorFileError, match="two tensors are called"):
            TorchFile(tmp_path / "x")


def test_containers_without_end_are_refused(tmp_path):
    circle = {"a": A}
    circle["again"] = circle
    wide = [A] * 10
    for _ in range(12):
        wide = [wide] * 10
    for content in (circle, wide):
        torch.save(content, tmp_path / "x")
        with pytest.raises(TensorFileError, match="more containers"):
            TorchFile(tmp_path / "x")


class Model(torch.nn.Module):
    pass


def test_what_speaks_against_a_pickle_is_said_truly(tmp_path):
    def refuse(says, save=torch.save, content=None, **options):
        save(content, tmp_path / "x", **options)
        with pytest.raises(TensorFileError, match=says) as caught:
            TorchFile(tmp_path / "x")
        assert "Install" not in caught.value.advice

    refuse(r"it holds test_torch_file\.Model, which could run code", content=Model())
    for new in (True, False):
        refuse("a pickle of protocol 4 or later", content={"a": A}, pickle_protocol=4,
               _use_new_zipfile_serialization=new)  # fmt: skip
    refuse(r"a damaged file of PyTorch's", save=lambda _, path: path.write_bytes(b"\x80\x02\x8a"))


def test_an_archive_that_unpacks_to_more_than_the_limit_is_refused_unread(tmp_path):
    with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x/data/0", "w") as file:
        for _ in range(LIMIT_BYTES // 2**20 + 1):
            file.write(bytes(2**20))
    with pytest.raises(TensorFileError, match=r"too large: size=\d+ bytes unpacked"):
        TorchFile(tmp_path / "x")


@pytest.mark.parametrize("new", [True, False], ids=["archive", "pickle"])
def test_a_damaged_file_is_said_in_a_line(tmp_path, new):
    content = io.BytesIO()
    torch.save({"a": torch.from_numpy(VALUES)}, content, _use_new_zipfile_serialization=new)
    whole = content.getvalue()
    for length in range(1, len(whole) - 1, len(whole) // 40):
        (tmp_path / "x").write_bytes(whole[:length])
        with pytest.raises(TensorFileError) as caught:
            TorchFile(tmp_path / "x")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300


def test_a_view_of_opposite_sign_has_its_own_sign(tmp_path):
    torch.save({"a": torch._neg_view(torch.tensor([1.0, -2.0]))}, tmp_path / "x")
    np.testing.assert_array_equal(TorchFile(tmp_path / "x").read("a"), [-1, 2])
