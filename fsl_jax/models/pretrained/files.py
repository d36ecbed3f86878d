"""Reads a file of named arrays: .pth, .safetensors or .npz, whichever its first bytes say it is."""

import json
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from fsl_jax.models.pretrained.torch_files import Reason, read_torch

Arrays = dict[str, np.ndarray]

NESTED_UNDER = ("state_dict", "model_state_dict", "model", "teacher", "params")
"""Where training programs put the weights among other things; the first that is there counts."""
PREFIXES = ("module.", "backbone.", "model.", "encoder.")
"""What wrappers put before every name."""
_SAFE_DTYPES: dict[str, Any] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": ml_dtypes.bfloat16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_MOST_HEADER = 100_000_000
# A wrong byte in a pickle, a zip or a header makes Python look up a wrong name, index, type or length.
DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What the readers of the standard library raise on a damaged file."""


def read_arrays(file: Path) -> Arrays:
    """Reads all arrays of a file by their names.

    Args:
      file: Written by torch.save (either format), safetensors, or numpy.savez.

    Returns:
      The arrays, with prefixes that all names share ("module.", "backbone.") taken away.

    Raises:
      ValueError: The file is missing, truncated, none of these formats, asks to run code, or holds no arrays.
    """
    if not file.is_file():
        raise ValueError(f"no weights file {file}: check the path")
    try:
        named = _read(file)
    except Reason as reason:
        raise ValueError(f"{file}: {reason}") from reason
    except DAMAGE as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"{file}: truncated or damaged ({type(error).__name__}: {said}); fetch it again"
        ) from error
    if not named:
        raise ValueError(f"{file}: no named arrays in it; expected a state dict")
    return _without_prefixes(named)


def _read(file: Path) -> Arrays:
    if _is_npz(file):
        return _read_npz(file)
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    return _state_dict(read_torch(file))


def _is_npz(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return file.suffix == ".npz"
    with zipfile.ZipFile(file) as archive:
        return all(name.endswith(".npy") for name in archive.namelist())


def _read_npz(file: Path) -> Arrays:
    with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_safetensors(file: Path) -> Arrays:
    """Reads the format of https://github.com/huggingface/safetensors: header length, JSON header, bytes."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(_MOST_HEADER, len(content) - 8):
        raise Reason("truncated, or not a safetensors file")
    body = memoryview(content)[8 + length :]
    header = json.loads(content[8 : 8 + length])
    return {name: _safe_array(name, entry, body) for name, entry in header.items() if name != "__metadata__"}


def _safe_array(name: str, entry: Mapping[str, Any], body: memoryview) -> np.ndarray:
    if entry["dtype"] not in _SAFE_DTYPES:
        raise Reason(f"array {name!r} has dtype {entry['dtype']}; known: {', '.join(_SAFE_DTYPES)}")
    dtype, shape = np.dtype(_SAFE_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    start, end = entry["data_offsets"]
    if not 0 <= start <= end <= len(body):
        raise Reason(f"truncated: array {name!r} ends at byte {end} of {len(body)}; fetch the file again")
    if end - start != math.prod(shape) * dtype.itemsize:
        raise Reason(f"array {name!r} of shape {shape} has {end - start} bytes; the file is damaged")
    return np.frombuffer(body[start:end], dtype).reshape(shape)


def _state_dict(content: Any) -> Arrays:
    """Finds the named arrays in what a program saved."""
    if not isinstance(content, Mapping):
        raise Reason(f"holds a {type(content).__name__}; expected a state dict of named arrays")
    for name in NESTED_UNDER:
        if isinstance(content.get(name), Mapping):
            return _state_dict(content[name])
    odd = [str(name) for name, value in content.items() if not isinstance(value, np.ndarray)]
    if odd:
        raise Reason(f"{len(odd)} entries are no arrays, such as {odd[0]!r}: save model.state_dict() alone")
    return {str(name): value for name, value in content.items()}


def _without_prefixes(named: Arrays) -> Arrays:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in named):
            return _without_prefixes({name.removeprefix(prefix): array for name, array in named.items()})
    return named
