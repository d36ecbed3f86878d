"""Reads what torch.save wrote, in either of its formats, without torch and without running anything.

A .pth file is a pickle, and a pickle can name any function to be called. Here only the handful of names that a state
dict needs are known, and each stands for a function of this module; any other name ends the reading.
"""

import collections
import dataclasses
import io
import math
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_STORAGES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Reason(Exception):
    """Why a file cannot be read, without its name."""


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A run of numbers that tensors are views of."""

    values: np.ndarray


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """Returns the view of a storage that is a tensor; the rest is gradients and hooks."""
    if not isinstance(storage, _Storage) or min((offset, *size, *stride)) < 0 or len(size) != len(stride):
        raise Reason("damaged: a tensor without storage, or with a negative shape")
    last = offset + sum((extent - 1) * step for extent, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= len(storage.values):
        raise Reason(
            f"damaged: a tensor of shape {tuple(size)} reaches beyond its {len(storage.values)} values"
        )
    itemsize = storage.values.itemsize
    steps = tuple(step * itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage.values[offset:], size, steps, writeable=False)


def _parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor


def _known_names() -> dict[tuple[str, str], Any]:
    storages = {("torch", name): np.dtype(dtype) for name, dtype in _STORAGES.items()}
    return {
        **storages,
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch", "Size"): tuple,
    }


_KNOWN_NAMES = _known_names()


class _Unpickler(pickle.Unpickler):
    """Builds a state dict; knows no other name.

    Attributes:
      storage: (dtype, key, length) -> the storage of that key.
    """

    def __init__(
        self, stream: BinaryIO | io.BytesIO, storage: Callable[[np.dtype, str, int], _Storage]
    ) -> None:
        # Python 2 wrote the old files; with any other encoding their byte strings are an error.
        super().__init__(stream, encoding="latin1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """Returns what a name stands for, where it is known."""
        if (module, name) not in _KNOWN_NAMES:
            raise Reason(
                f"refused: it asks for '{module}.{name}', which is no part of plain weights and may run code; "
                "save model.state_dict() alone, or as .safetensors"
            )
        return _KNOWN_NAMES[module, name]

    def persistent_load(self, identity: Any) -> _Storage:
        """Returns the storage that a tensor refers to."""
        if not (isinstance(identity, tuple) and len(identity) >= 5 and identity[0] == "storage"):
            raise Reason("damaged: a reference to something that is no storage")
        _, dtype, key, _, length = identity[:5]
        if not isinstance(dtype, np.dtype) or (len(identity) > 5 and identity[5] is not None):
            raise Reason("a storage of an unknown kind; save model.state_dict() alone, with plain tensors")
        return self._storage(dtype, str(key), int(length))


def read_torch(file: Path) -> Any:
    """Reads the content of a file that torch.save wrote.

    Args:
      file: In the zip format (since torch 1.6) or the older one.

    Returns:
      Nested dicts and lists, with NumPy arrays (read-only) for tensors.

    Raises:
      Reason: The file is truncated, another format, or asks for a name that is no part of plain weights.
      Exception: It is damaged; see `files.DAMAGE`.
    """
    if zipfile.is_zipfile(file):
        return _read_zip(file)
    with file.open("rb") as stream:
        return _read_legacy(stream, file.stat().st_size)


def _read_zip(file: Path) -> Any:
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if not pickles:
            raise Reason("a zip file without data.pkl; expected one that torch.save wrote")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in archive.namelist():
            raise Reason("a TorchScript program, not weights: save its state_dict()")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise Reason("written on a big-endian machine: save it anew as .safetensors")
        storages: dict[str, _Storage] = {}

        def storage(dtype: np.dtype, key: str, length: int) -> _Storage:
            if key not in storages:
                storages[key] = _Storage(_numbers(archive.read(f"{folder}data/{key}"), dtype, length))
            return storages[key]

        return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def _numbers(content: bytes, dtype: np.dtype, length: int) -> np.ndarray:
    if len(content) < length * dtype.itemsize:
        raise Reason(f"truncated: {len(content)} bytes where {length} values of {dtype} were expected")
    return np.frombuffer(content, dtype, count=length)


def _no_storage(dtype: np.dtype, key: str, length: int) -> _Storage:
    raise Reason("damaged: numbers where the file's header was expected")


def _read_legacy(stream: BinaryIO, size: int) -> Any:
    """Reads four pickles (magic, version, machine, content) and then the numbers, in the order of a fifth."""
    _check_legacy_magic(stream)
    if _Unpickler(stream, _no_storage).load() != _LEGACY_VERSION:
        raise Reason(f"a format before version {_LEGACY_VERSION}: save it anew with a newer torch")
    machine = _Unpickler(stream, _no_storage).load()
    if not machine.get("little_endian", True):
        raise Reason("written on a big-endian machine: save it anew as .safetensors")
    storages: dict[str, np.ndarray] = {}

    def storage(dtype: np.dtype, key: str, length: int) -> _Storage:
        if not 0 <= length * dtype.itemsize <= size:
            raise Reason(f"truncated: {length} values of {dtype} in a file of {size} bytes; fetch it again")
        return _Storage(storages.setdefault(key, np.zeros(length, dtype)))

    content = _Unpickler(stream, storage).load()
    for key in _Unpickler(stream, _no_storage).load():
        _fill(storages[str(key)], stream)
    return content


def _check_legacy_magic(stream: BinaryIO) -> None:
    try:
        magic = _Unpickler(stream, _no_storage).load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError):
        magic = None
    if magic != _LEGACY_MAGIC:
        stream.seek(0)
        kind = (
            "a tar file of the first torch" if tarfile.is_tarfile(stream) else "truncated, or no checkpoint"
        )
        raise Reason(f"{kind}; expected a file that torch.save, safetensors or numpy.savez wrote")


def _fill(values: np.ndarray, stream: BinaryIO) -> None:
    """Reads the numbers of a storage in place, since tensors are views of it already."""
    count = int.from_bytes(stream.read(8), "little")
    content = stream.read(values.nbytes)
    if count != len(values) or len(content) < values.nbytes:
        raise Reason(f"truncated: {len(content)} of {values.nbytes} bytes of a storage; fetch the file again")
    values[:] = np.frombuffer(content, values.dtype)
