"""HDF5 as Keras writes it: ``save_weights`` of Keras 3 (``.weights.h5``) and of Keras 2 (``.h5``), ``.keras`` archives.

::

    Keras 3    layers/conv2d_7/vars/0                     kernel, 1 bias; the number behind a class counts its layers
               layers/block_2/conv/layers/conv2d/vars/0   inside another layer
    Keras 2    attribute layer_names, in order; in each of these groups attribute weight_names, in order
               (a whole model saved as .h5 has all of that in the group model_weights)
    .keras     a zip archive with what Keras 3 would write as model.weights.h5

Only arrays are read, through h5py; what a file says of classes and functions is never looked at. Only hard links are
followed, and no array that lies in another file is.
"""

import hashlib
import io
import math
import os
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taesd_core.tensor_file import CONVERT, LIMIT_BYTES, Kind, TensorFileError, check_size, read_bounded, shorten, show

ARCHIVED = "model.weights.h5"
"""The weights in a ``.keras`` archive."""
MOST_OBJECTS = 20_000
"""Groups and arrays that are looked at; a decoder has 231."""
MOST_NESTED = 16
"""Groups inside of groups."""


class H5File:
    """A ``TensorFile``, all of it in memory.

    Args:
        path: the file.

    Raises:
        TensorFileError: it is no whole HDF5 file, or not one of weights by Keras.
        OSError: it cannot be opened or read.
    """

    kind: Kind

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import h5py

        content = read_bounded(path)
        self._sha256 = hashlib.sha256(content).hexdigest()
        # What h5py raises on damaged files is not documented: OSError, RuntimeError, KeyError, ValueError ...
        try:
            if content.startswith(b"PK"):
                with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open(ARCHIVED) as member:
                    check_size(archive.getinfo(ARCHIVED).file_size, " unpacked")
                    content = member.read()
            self._file = h5py.File(io.BytesIO(content), "r")
            found = dict(_walk(self._file, h5py))
            root: Any = self._file.get("model_weights", self._file)
            if root.name != "/":
                found = {name.removeprefix("model_weights/"): array for name, array in found.items()}
            if "layer_names" in root.attrs:
                self.kind = "keras-2"
                names = [f"{layer}/{name}" for layer in _texts(root, "layer_names") for name in _weights(root, layer)]
            else:
                self.kind = "keras-3"
                # What an optimizer remembers lies beside the layers of a model that was trained.
                layers = (name for name in found if "/vars/" in name and not name.startswith("optimizer/"))
                names = sorted(layers, key=natural_key)
            self._arrays = {name: found[name] for name in names}
            self.shapes = {name: tuple(array.shape) for name, array in self._arrays.items()}
            """The shape of each tensor; in order where the file is by Keras 2."""
        except TensorFileError:
            raise
        except Exception as error:
            raise TensorFileError(f"a damaged HDF5 file, {shorten(error)}") from error
        if not names:
            raise TensorFileError(
                "an HDF5 file with no weights that Keras has saved", "Save them by model.save_weights()."
            )
        if len(self.shapes) < len(names):
            raise TensorFileError("a name of its weights occurs twice")

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a tensor of floats.

        Raises:
            TensorFileError: it holds other numbers, lies elsewhere, or is damaged.
        """
        array = self._arrays[name]
        try:
            chunk_bytes = math.prod(array.chunks or ()) * array.dtype.itemsize
            if array.dtype.kind != "f" or array.is_virtual or array.external or chunk_bytes > LIMIT_BYTES:
                raise TensorFileError(f"tensor {show(name)} is not a plain array of floats", CONVERT)
            with np.errstate(over="ignore", invalid="ignore"):
                return np.asarray(array[()]).astype(np.float32)
        except TensorFileError:
            raise
        except Exception as error:
            raise TensorFileError(f"tensor {show(name)} is damaged, {shorten(error)}") from error

    def sha256(self) -> str:
        """Return the hash of the whole file, in hexadecimal."""
        return self._sha256


def natural_key(name: str) -> list[tuple[str, int]]:
    """Return a key that sorts ``conv2d``, ``conv2d_2``, ``conv2d_10`` in this order, and so in every part of a path."""
    matches = (re.fullmatch(r"(.*?)_?(\d{1,9})", part) for part in name.split("/"))
    return [
        (match[1], int(match[2])) if match else (part, 0) for part, match in zip(name.split("/"), matches, strict=True)
    ]


def _walk(group: Any, h5py: Any) -> Iterator[tuple[str, Any]]:
    """Yield every array below a group with its path."""
    n_objects = 0
    pending = [("", group, 0)]
    while pending:
        path, each, nested = pending.pop()
        for name in each:
            n_objects += 1
            if n_objects > MOST_OBJECTS or nested > MOST_NESTED:
                raise TensorFileError("more groups than a file of weights has")
            if not isinstance(each.get(name, getlink=True), h5py.HardLink):
                raise TensorFileError(f"{show(path + name)} is a link to elsewhere")
            inner = each[name]
            if isinstance(inner, h5py.Dataset):
                yield path + name, inner
            elif isinstance(inner, h5py.Group):
                pending.append((f"{path}{name}/", inner, nested + 1))


def _weights(root: Any, layer: str) -> list[str]:
    return _texts(root[layer], "weight_names")


def _texts(group: Any, attribute: str) -> list[str]:
    values = np.asarray(group.attrs[attribute]).ravel().tolist()
    texts = [value.decode() if isinstance(value, bytes) else value for value in values]
    if not all(isinstance(text, str) for text in texts):
        raise TensorFileError(f"attribute {attribute} is not a list of names")
    return texts
