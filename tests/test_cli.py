import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from fsl_jax.cli import app, parse_options


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    for label in "abc":
        for i in range(2):
            (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (ord(label), 0, i)).save(tmp_path / "photos" / label / f"{i}.png")
    return tmp_path / "photos"


def fsl_jax(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_options_are_literals_or_text():
    pairs = [
        "min_photos=2",
        "fractions=(0.5,0.2,0.3)",
        "levels=a,b",
        "name=cifar100",
        "splits={'x': 'val'}",
        "lists=",
    ]
    assert parse_options(pairs) == {
        "min_photos": 2,
        "fractions": (0.5, 0.2, 0.3),
        "levels": ("a", "b"),
        "name": "cifar100",
        "splits": {"x": "val"},
        "lists": "",
    }
    assert parse_options(None) == {}
    with pytest.raises(ValueError, match="'min_photos' is not key=value"):
        parse_options(["min_photos"])
    with pytest.raises(ValueError, match="'a' is given twice"):
        parse_options(["a=1", "a=2"])


def test_a_clean_set_ends_with_status_0(folder):
    result = fsl_jax("validate", "--source", "image_folder", "--root", folder, "--shot", 1, "--query", 1)
    assert result.exit_code == 0
    assert "no problems" in result.stdout


def test_problems_end_with_status_3(folder):
    (folder / "a" / "0.png").write_bytes(b"")
    result = fsl_jax("validate", "--source", "image_folder", "--root", folder)
    assert result.exit_code == 3
    assert "a/0.png (empty file)" in result.stdout


def test_json_holds_the_whole_report_and_what_was_left_out(folder):
    (folder / "b" / "._0.png").write_bytes(b"")
    result = fsl_jax("validate", "--source", "image_folder", "--root", folder, "--shot", 3, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 3
    assert report["problems"] == 3
    assert report["skipped"] == [["b/._0.png", "a stub that macOS adds to archives"]]


def test_options_reach_the_source(folder):
    (folder / "c" / "1.png").unlink()
    result = fsl_jax(
        "validate", "--source", "image_folder", "--root", folder, "--json", "--option", "min_photos=2"
    )
    assert sum(split["labels"] for split in json.loads(result.stdout)["splits"].values()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "image_folder", "--root", "gone"], "error: no folder gone"),
        (["--source", "image_fodler"], "did you mean 'image_folder'"),
        (["--source", "image_folder", "--option", "min=2"], "no option 'min'"),
        (["--source", "image_folder", "--option", "min_photos"], "not key=value"),
        (["--source", "csv_manifest", "--root", "gone"], "error: no file gone"),
    ],
)
def test_wrong_input_is_one_line_on_stderr_and_status_1(arguments, message):
    result = fsl_jax("validate", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_prepare_writes_what_validate_reads(tmp_path):
    options = [
        part for option in ("labels=6", "photos=3", "size=32", "seed=1") for part in ("--option", option)
    ]
    result = fsl_jax("prepare", "--source", "catalogue", "--root", tmp_path / "shop", *options)
    assert result.exit_code == 0
    assert "6 labels" in result.stdout
    assert fsl_jax("validate", "--source", "csv_manifest", "--root", tmp_path / "shop").exit_code == 0


def test_prepare_says_what_to_get_by_hand(tmp_path):
    result = fsl_jax("prepare", "--source", "fashion_mnist", "--root", tmp_path)
    assert result.exit_code == 1
    assert "Debian package" in result.stderr
