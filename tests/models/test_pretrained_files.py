"""Reading weight files: real ones of torch and safetensors, broken ones, and ones that try to run code."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from fsl_jax.models.pretrained.files import read_arrays

GOLDEN = Path(__file__).parent.parent / "parity" / "golden"
BASE = np.arange(24, dtype=np.float32).reshape(4, 6)
SMALL = {
    # as make_golden.py's small_tensors
    "float32": BASE + 0.5,
    "view": BASE[1:3, ::2],
    "turned": BASE.T,
    "parameter": np.linspace(-1, 1, 5, dtype=np.float32),
    "float64": np.array([1e-300, 2.0]),
    "float16": np.array([0.5, -2.0], np.float16),
    "bfloat16": np.array([1.0, 3.140625], ml_dtypes.bfloat16),
    "int64": np.array([[2**40, -1]]),
    "uint8": np.array([0, 255], np.uint8),
    "bool": np.array([True, False]),
    "scalar": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
}
FILES = ("small_zip.pth", "small_legacy.pth", "nested_zip.pth", "nested_legacy.pth", "small.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_files_that_torch_and_safetensors_wrote_are_read_exactly(name):
    arrays = read_arrays(GOLDEN / name)
    assert set(arrays) == set(SMALL)
    for key, expected in SMALL.items():
        assert arrays[key].dtype == expected.dtype, key
        np.testing.assert_array_equal(arrays[key], expected, err_msg=key)


def test_npz_files_are_read(tmp_path):
    np.savez(tmp_path / "weights.npz", **{key: SMALL[key] for key in ("float32", "view", "scalar")})
    np.testing.assert_array_equal(read_arrays(tmp_path / "weights.npz")["view"], SMALL["view"])


@pytest.mark.parametrize("name", ["small_zip.pth", "small_legacy.pth", "small.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.6, 0.9, 0.999])
def test_truncated_files_are_refused_in_one_line(tmp_path, name, share):
    content = (GOLDEN / name).read_bytes()
    file = tmp_path / name
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"truncated|damaged|not a safetensors") as caught:
        read_arrays(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_damaged_byte_gives_anything_but_arrays_or_a_value_error(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("small_zip.pth", "small_legacy.pth", "small.safetensors"):
        content = bytearray((GOLDEN / name).read_bytes())
        for _ in range(150):
            broken = bytearray(content)
            broken[rng.integers(len(broken))] = rng.integers(256)
            file = tmp_path / name
            file.write_bytes(broken)
            try:
                read_arrays(file)
            except ValueError as error:
                assert str(file) in str(error)  # noqa: PT017


class Runs:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def zip_with(payload, folder="archive"):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", payload)
        archive.writestr(f"{folder}/version", "3")
    return stream.getvalue()


def legacy_with(payload):
    header = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join(header) + payload + pickle.dumps([], 2)


ATTACKS = {
    "os.system": lambda mark: Runs(os.system, f"touch {mark}"),
    "builtins.eval": lambda mark: Runs(eval, f"open({str(mark)!r}, 'w')"),
    "builtins.exec": lambda mark: Runs(exec, f"open({str(mark)!r}, 'w')"),
    "hidden in a state dict": lambda mark: OrderedDict(weight=[Runs(os.system, f"touch {mark}")]),
    "builtins.getattr": lambda mark: Runs(getattr, Runs(__import__, "os"), "system"),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("wrap", [zip_with, legacy_with, bytes], ids=["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_files_that_try_to_run_code_are_refused_and_run_nothing(tmp_path, attack, wrap, protocol):
    mark = tmp_path / "was_run"
    payload = pickle.dumps(ATTACKS[attack](mark), protocol)
    file = tmp_path / "weights.pth"
    file.write_bytes(wrap(payload))
    with pytest.raises(
        ValueError, match=r"refused: it asks for '\w+\.\w+'.*may run code; save model.state_dict"
    ):
        read_arrays(file)
    assert not mark.exists()


def test_the_attacks_of_these_tests_are_real(tmp_path):
    mark = tmp_path / "was_run"
    pickle.loads(pickle.dumps(ATTACKS["os.system"](mark)))
    assert mark.exists()


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path):
    content = (GOLDEN / "small_zip.pth").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in parts if name.endswith("data.pkl"))
    assert parts[name].count(b"K\x04K\x06\x86") == 1  # the pickled shape (4, 6)
    parts[name] = parts[name].replace(b"K\x04K\x06\x86", b"K\x40K\x06\x86")
    with zipfile.ZipFile(tmp_path / "far.pth", "w") as archive:
        for part, inside in parts.items():
            archive.writestr(part, inside)
    with pytest.raises(ValueError, match=r"damaged: a tensor of shape .64, 6. reaches beyond its 24 values"):
        read_arrays(tmp_path / "far.pth")


def safetensors(header, body=b""):
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<Q", 2**60) + b"{}", "truncated, or not a safetensors file"),
        (safetensors("[1]"), "truncated or damaged"),
        (safetensors('{"a": {"dtype": "F32"}}'), "truncated or damaged"),
        (
            safetensors('{"a": {"dtype": "F8", "shape": [1], "data_offsets": [0, 1]}}', b"0"),
            "has dtype F8; known: F64",
        ),
        (
            safetensors('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', b"0000"),
            "ends at byte 8 of 4",
        ),
        (
            safetensors('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', b"0000"),
            "has 4 bytes",
        ),
        (safetensors("{}"), "no named arrays in it"),
    ],
)
def test_wrong_safetensors_are_refused(tmp_path, content, message):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_arrays(file)


def test_npz_files_with_pickled_objects_are_refused(tmp_path):
    mark = tmp_path / "was_run"
    objects = np.array([Runs(os.system, f"touch {mark}")], dtype=object)
    np.savez(tmp_path / "weights.npz", weights=objects)
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        read_arrays(tmp_path / "weights.npz")
    assert not mark.exists()


def test_other_content_is_named(tmp_path):
    file = tmp_path / "weights.pth"
    for content, message in (
        (zip_with(pickle.dumps([1, 2], 2)), "holds a list; expected a state dict"),
        (zip_with(pickle.dumps({"epoch": 3, "lr": 0.1}, 2)), "2 entries are no arrays, such as 'epoch'"),
        (zip_with(pickle.dumps({}, 2)), "no named arrays in it"),
        (b"hello", "truncated, or no checkpoint"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_arrays(file)
    with pytest.raises(ValueError, match="no weights file"):
        read_arrays(tmp_path / "none.pth")
