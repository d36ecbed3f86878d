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


def predictor_of_mean_red(workdir):
    """Stands for a trained run: a photo is "bright" to the degree of its red."""
    import jax

    from fsl_jax.data.augment import Preprocess
    from fsl_jax.predictor import Predictor
    from fsl_jax.taxonomy import Level, Taxonomy

    assert str(workdir) == "run"
    preprocess = Preprocess(size=4, channels=3, fit="pad", mean=(0.0,), std=(1.0,))
    taxonomy = Taxonomy((Level("kind", ("bright", "dark"), (), (5, 5)),), ("reddish",), (5,), (5,))

    @jax.jit
    def classify(images):
        red = preprocess(images)[..., 0].mean((1, 2))
        return {"levels": (jax.numpy.stack([red, 1 - red], 1),), "attributes": red[:, None]}

    return Predictor(classify, preprocess, taxonomy)


@pytest.fixture
def two(tmp_path, monkeypatch):
    """A bright photo and a dark one, and a model that tells them apart."""
    from fsl_jax import run

    monkeypatch.setattr(run, "predictor_of", predictor_of_mean_red)
    (tmp_path / "two").mkdir()
    for name, red in (("bright", 255), ("dark", 51)):
        Image.new("RGB", (4, 4), (red, 0, 0)).save(tmp_path / "two" / f"{name}.png")
    return tmp_path / "two"


def predict(*arguments):
    environment = {"COLUMNS": "200"}
    arguments = ["predict", *map(str, arguments), "--workdir", "run"]
    return CliRunner().invoke(app, arguments, env=environment)


def test_predict_shows_a_table_with_a_row_a_photo(two):
    result = predict(two / "dark.png", two / "bright.png")
    assert result.exit_code == 0
    dark, bright = (line for line in result.stdout.splitlines() if ".png" in line)
    assert "dark.png" in dark
    assert "dark 80%" in dark
    assert "bright 100%" in bright
    assert "reddish 100%" in bright
    assert "reddish" not in dark


def test_predict_prints_one_json_record_a_line(two):
    result = predict(two, "--json", "--top", 2, "--threshold", 0.1)
    assert result.exit_code == 0
    bright, dark = map(json.loads, result.stdout.splitlines())
    assert [one["photo"] for one in (bright, dark)] == [str(two / "bright.png"), str(two / "dark.png")]
    assert [name["name"] for name in dark["levels"]["kind"]] == ["dark", "bright"]
    assert dark["levels"]["kind"][1]["probability"] == pytest.approx(0.2, abs=1e-6)
    assert dark["attributes"] == [{"name": "reddish", "probability": pytest.approx(0.2, abs=1e-6)}]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_predict_names_photos_that_it_cannot_read_and_ends_with_status_3(two, options):
    (two / "broken.png").write_bytes(b"")
    result = predict(two, *options)
    assert result.exit_code == 3
    assert result.stderr == "1 of 3 photos could not be read\n"
    assert "empty file" in result.stdout
    for name in ("bright.png", "dark.png"):
        assert name in result.stdout


@pytest.mark.parametrize(
    ("place", "message"),
    [("gone.png", "gone.png is not there; expected a photo"), ("empty", "no photo in ")],
)
def test_predict_without_a_photo_is_one_line_on_stderr_and_status_1(two, place, message):
    (two / "empty").mkdir()
    result = predict(two / "dark.png", two / place)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_predict_without_a_run_is_one_line_on_stderr_and_status_1(folder, tmp_path):
    result = fsl_jax("predict", folder, "--workdir", tmp_path / "none")
    assert result.exit_code == 1
    assert "no run in" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("options", [("--top", 0), ("--threshold", 1.5), ("--threshold", "high")])
def test_predict_with_wrong_options_ends_with_status_2(two, options):
    assert predict(two, *options).exit_code == 2
