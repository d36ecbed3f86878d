"""The commands on an index: what they print, write and refuse. The model is a jitted function, so nothing is loaded."""

import json
import os
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from fsl_jax.data.augment import Preprocess
from fsl_jax.embedder import Embedder
from fsl_jax.search import _filling, commands, models, searching
from fsl_jax.search.index import Index

PREPROCESS = Preprocess(size=16, channels=3, fit="pad", mean=(0.5,), std=(0.5,))
DRAWN = [part for option in ("labels=6", "photos=3", "size=32") for part in ("--option", option)]


@jax.jit
def every_fourth_pixel(images):
    return PREPROCESS(images)[:, ::4, ::4].reshape(len(images), -1)


class Calibrated:
    """A calibration that can be checked by hand: the probability is (1 + score) / 2, the threshold 0.9."""

    threshold, false_accept_rate = 0.9, 0.01

    def probability(self, score):
        return (1 + score) / 2

    def as_json(self):
        return {"threshold": self.threshold, "false_accept_rate": self.false_accept_rate}

    @classmethod
    def from_json(cls, values):
        made = cls()
        made.threshold, made.false_accept_rate = values["threshold"], values["false_accept_rate"]
        return made


@pytest.fixture(autouse=True)
def model(monkeypatch):
    """Stands for the loaded model; remembers which one was asked for."""
    asked_for = []

    def load(spec):
        asked_for.append(dict(spec))
        return Embedder(every_fourth_pixel, PREPROCESS, "digest-of-every-fourth-pixel")

    monkeypatch.setattr(models, "load_model", load)
    monkeypatch.setattr(searching, "load_model", load)
    monkeypatch.setenv("COLUMNS", "200")
    return asked_for


@pytest.fixture(autouse=True)
def calibration(monkeypatch):
    """Stands for the fit; remembers what it was given."""
    import sys

    calls = []

    def fit(embeddings, labels, *, false_accept_rate):
        calls.append((len(embeddings), len(labels), false_accept_rate))
        return Calibrated.from_json({"threshold": 0.9, "false_accept_rate": false_accept_rate})

    def fit_with(queries, query_labels, embeddings, labels, *, false_accept_rate):
        calls.append((sorted(query_labels), len(queries), len(embeddings), len(labels), false_accept_rate))
        return Calibrated.from_json({"threshold": 0.8, "false_accept_rate": false_accept_rate})

    module = SimpleNamespace(fit=fit, fit_with=fit_with, Calibration=Calibrated)
    monkeypatch.setitem(sys.modules, "fsl_jax.search.calibration", module)
    import fsl_jax.search

    monkeypatch.setattr(fsl_jax.search, "calibration", module, raising=False)
    return calls


app = typer.Typer()
app.add_typer(commands.index_app, name="index")
app.command()(commands.search)


def fsl_jax(*arguments, status=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def shop(tmp_path):
    """Two photos of each of four labels, which look alike within a label."""
    rng = np.random.default_rng(0)
    for label in ("boot", "coat", "dress", "hat"):
        (tmp_path / "shop" / label).mkdir(parents=True)
        centre = rng.integers(20, 236, (16, 16, 3))
        for photo in range(2):
            image = (centre + rng.integers(-20, 20, (16, 16, 3))).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "shop" / label / f"{photo}.png")
    return tmp_path / "shop"


@pytest.fixture
def index(shop, tmp_path):
    fsl_jax("index", "build", "--source", "image_folder", "--root", shop, "--out", tmp_path / "index")
    return tmp_path / "index"


def test_the_catalogue_is_indexed_where_nothing_is_said(tmp_path, model, monkeypatch):
    monkeypatch.setattr(commands, "DRAWN", {**commands.DRAWN, "labels": 10})
    result = fsl_jax("index", "build", "--out", tmp_path / "index")
    assert model == [{"published": "efficientnet_lite0", "fit": "pad"}]
    index = Index.open(tmp_path / "index")
    assert index.label_codes.max() == 9
    assert re.fullmatch(r"[\w-]+/[0-9a-f]{16}", index.ids[0])
    assert f"{len(index)} photos of 10 labels" in result.stdout


def test_the_defaults_of_the_catalogue_are_options_that_it_has():
    from fsl_jax.data.source import load_source

    table = load_source("catalogue", None, "train+val+test", {**commands.DRAWN, "labels": 1})
    assert table.images.shape[1:] == (96, 96, 3)
    assert commands.DRAWN["labels"] == 200


def test_all_photos_of_a_folder_are_taken_whatever_their_split(shop, index):
    opened = Index.open(index)
    assert sorted(opened.ids) == sorted(
        f"{label}/{i}.png" for label in ("boot", "coat", "dress", "hat") for i in (0, 1)
    )
    assert (shop / "boot" / "0.png").samefile(opened.paths[opened.ids.tolist().index("boot/0.png")])


def test_a_condition_chooses_photos_and_a_second_source_adds_the_others(tmp_path):
    place = tmp_path / "index"
    fsl_jax("index", "build", "--out", place, *DRAWN, "--where", "role=gallery")
    before = len(Index.open(place))
    result = fsl_jax("index", "add", place, "--source", "catalogue", *DRAWN, "--where", "role=query")
    assert before == 6
    assert len(Index.open(place)) > 10
    assert result.stderr == ""
    result = fsl_jax("index", "add", place, "--source", "catalogue", *DRAWN)
    assert "0 photos added" in result.stdout
    assert result.stderr.count("left out") == 13
    assert result.stderr.splitlines()[-1].endswith("more")


def test_a_build_says_which_model_it_was_given(shop, tmp_path, model):
    arguments = ["--source", "image_folder", "--root", shop, "--out"]
    fsl_jax("index", "build", "--workdir", "run", *arguments, tmp_path / "a")
    fsl_jax("index", "build", "--model", "resnet50", "--fit", "crop", *arguments, tmp_path / "b")
    assert Index.open(tmp_path / "a").model == {"workdir": os.path.abspath("run")}
    assert Index.open(tmp_path / "b").model == {"published": "resnet50", "fit": "crop"}
    assert (
        "are given; expected one of them"
        in fsl_jax(
            "index", "build", "--workdir", "run", "--model", "x", *arguments, tmp_path / "c", status=1
        ).stderr
    )


def test_a_build_calibrates_and_says_the_threshold(shop, tmp_path, calibration):
    arguments = ["index", "build", "--source", "image_folder", "--root", shop, "--out", tmp_path / "index"]
    result = fsl_jax(*arguments, "--false-accept-rate", 0.05)
    assert calibration == [(8, 8, 0.05)]
    assert "same article from a score of 0.900 on, at which 5 % of the pairs" in result.stdout
    assert Index.open(tmp_path / "index").calibration.threshold == 0.9


def test_labels_with_one_photo_each_are_not_calibrated(shop, tmp_path, calibration):
    for label in ("boot", "coat", "dress", "hat"):
        (shop / label / "1.png").unlink()
    result = fsl_jax(
        "index", "build", "--source", "image_folder", "--root", shop, "--out", tmp_path / "index"
    )
    assert calibration == []
    assert "not calibrated" in result.stdout
    assert fsl_jax("index", "calibrate", tmp_path / "index", status=1).stderr == ""
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(tmp_path / "new.png")
    fsl_jax("index", "add", tmp_path / "index", "--label", "hat", tmp_path / "new.png")
    assert calibration == [(5, 5, 0.01)]


def test_where_scores_tell_no_articles_apart_the_index_stands_without_a_calibration(
    shop, tmp_path, monkeypatch, caplog
):
    import sys

    def fit(embeddings, labels, *, false_accept_rate):
        raise ValueError("the scores do not separate")

    monkeypatch.setattr(sys.modules["fsl_jax.search.calibration"], "fit", fit)
    fsl_jax("index", "build", "--source", "image_folder", "--root", shop, "--out", tmp_path / "index")
    assert "is not calibrated: the scores do not separate" in caplog.text
    assert len(Index.open(tmp_path / "index")) == 8
    result = fsl_jax("index", "calibrate", tmp_path / "index", status=1)
    assert "the scores do not separate" in result.stderr


def test_an_index_can_be_calibrated_anew(index, calibration):
    fsl_jax("index", "calibrate", index, "--false-accept-rate", 0.001)
    assert calibration[-1] == (8, 8, 0.001)
    assert Index.open(index).calibration.false_accept_rate == 0.001


def test_an_index_is_calibrated_with_photos_beside_it(index, shop, tmp_path, calibration):
    calibration.clear()
    asked = tmp_path / "asked"
    for label in ("cap", "shoe"):
        (asked / label).mkdir(parents=True)
        Image.new("RGB", (20, 20), (200, 30, len(label))).save(asked / label / "0.png")
    (asked / "shoe" / "1.png").write_bytes(b"no photo")
    arguments = ["--source", "image_folder", "--root", asked, "--false-accept-rate", 0.05]
    done = fsl_jax("index", "calibrate", index, *arguments, status=3)
    photos = len(Index.open(index))
    assert calibration == [(["cap", "shoe"], 2, photos, photos, 0.05)]
    assert "1.png" in done.stderr
    assert "from a score of 0.800 on" in done.stdout
    assert Index.open(index).calibration.threshold == 0.8


@pytest.mark.parametrize("rate", [0, 1, -0.1])
def test_a_rate_that_is_none_is_refused_before_anything_is_done(shop, tmp_path, rate, model):
    result = fsl_jax("index", "build", "--out", tmp_path / "index", "--false-accept-rate", rate, status=1)
    assert "expected a share above 0 and below 1" in result.stderr
    assert model == []
    assert not (tmp_path / "index").exists()


def test_an_index_is_never_built_over(index, shop, model):
    model.clear()
    result = fsl_jax("index", "build", "--source", "image_folder", "--root", shop, "--out", index, status=1)
    assert "there is an index" in result.stderr
    assert model == []


def test_photos_that_cannot_be_read_are_named_and_the_others_indexed(shop, tmp_path):
    (shop / "coat" / "1.png").write_bytes(b"")
    arguments = ["index", "build", "--source", "image_folder", "--root", shop, "--out", tmp_path / "index"]
    result = fsl_jax(*arguments, status=3)
    assert "left out coat/1.png: empty file" in result.stderr
    assert len(Index.open(tmp_path / "index")) == 7


def test_nothing_is_left_of_an_index_without_a_photo(shop, tmp_path):
    for photo in shop.rglob("*.png"):
        photo.write_bytes(b"")
    arguments = ["index", "build", "--source", "image_folder", "--root", shop, "--out", tmp_path / "index"]
    result = fsl_jax(*arguments, status=1)
    assert "none of 8 photos can be read; the first: boot/0.png (empty file)" in result.stderr
    assert not (tmp_path / "index").exists()


def test_plain_photos_are_added_under_a_label(index, tmp_path):
    for i in range(3):
        (tmp_path / "new").mkdir(exist_ok=True)
        pixels = np.random.default_rng(9 + i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "new" / f"{i}.png")
    result = fsl_jax(
        "index", "add", index, "--label", "glove", tmp_path / "new" / "0.png", tmp_path / "new", status=0
    )
    opened = Index.open(index)
    assert (opened.labels == "glove").sum() == 3
    assert opened.ids.tolist()[-1] == str(tmp_path / "new" / "2.png")
    assert "twice among the new photos" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--label", "x"],
        ["photo.png"],
        ["photo.png", "--source", "catalogue"],
        ["--source", "catalogue", "--label", "x"],
    ],
)
def test_an_add_takes_either_photos_or_a_source(index, arguments):
    result = fsl_jax("index", "add", index, *arguments, status=1)
    assert "give either photos with their --label, or --source" in result.stderr


def test_an_add_of_what_is_not_there_is_one_line(index):
    result = fsl_jax("index", "add", index, "--label", "x", "gone.png", status=1)
    assert result.stderr == "error: gone.png is not there; expected a photo, or a folder of photos\n"
    assert (
        "label is empty"
        in fsl_jax("index", "add", index, "--label", " ", index.parent / "shop", status=1).stderr
    )


def test_photos_and_labels_are_removed(index):
    result = fsl_jax("index", "remove", index, "--id", "coat/0.png", "--label", "boot", "--label", "hat")
    assert "5 photos removed, 3 left" in result.stdout
    assert Index.open(index).ids.tolist() == ["coat/1.png", "dress/0.png", "dress/1.png"]
    assert (
        "did you mean 'coat/1.png'"
        in fsl_jax("index", "remove", index, "--id", "coat/2.png", status=1).stderr
    )
    assert "give what to remove" in fsl_jax("index", "remove", index, status=1).stderr


def test_info_tells_a_person_and_a_program(index):
    told = fsl_jax("index", "info", index).stdout
    assert "efficientnet_lite0" in told
    assert "same article from a score of 0.900 on" in told
    values = json.loads(fsl_jax("index", "info", index, "--json").stdout)
    assert (values["photos"], values["labels"], values["calibration"]["threshold"]) == (8, 4, 0.9)
    assert "no index in gone" in fsl_jax("index", "info", "gone", status=1).stderr


def test_a_search_finds_the_article_and_says_whether_it_is_the_same(index, shop):
    result = fsl_jax("search", index, shop / "coat" / "1.png", shop / "hat", "--k", 2, "--json")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["photo"] for record in records] == [
        str(shop / name) for name in ("coat/1.png", "hat/0.png", "hat/1.png")
    ]
    first = records[0]
    assert (first["threshold"], first["false_accept_rate"]) == (0.9, 0.01)
    best, second = first["hits"]
    assert best["label"] == "coat"
    assert best["id"] == "coat/1.png"
    assert best["score"] == pytest.approx(1, abs=1e-5)
    assert best["probability"] == pytest.approx(1, abs=1e-5)
    assert (best["same"], second["same"], best["photos"]) == (True, False, 2)


def test_a_second_look_is_asked_for_by_flags(index, shop, monkeypatch):
    seen = {}
    opened = searching.open_searcher

    def open_searcher(folder, **options):
        seen.update(options)
        return opened(folder, **options)

    monkeypatch.setattr(searching, "open_searcher", open_searcher)
    photo = sorted(shop.glob("*/*.png"))[0]
    arguments = ("--expand", 2, "--rerank", 30, "--whiten", 2, "--json")
    found = json.loads(fsl_jax("search", index, photo, *arguments).stdout)
    assert seen["refinement"] == searching.Refinement(expand=2, rerank=30)
    assert seen["whiten"] == 2
    assert found["hits"][0]["label"] == photo.parent.name
    wrong = fsl_jax("search", index, photo, "--rerank", 5, status=1)
    assert "rerank is 5 candidates; expected more than k1" in wrong.stderr


def test_an_index_without_calibration_gives_scores_alone(index, shop):
    Index.open(index).calibrated(None)
    record = json.loads(fsl_jax("search", index, shop / "coat" / "1.png", "--json").stdout)
    assert (record["threshold"], record["hits"][0]["probability"], record["hits"][0]["same"]) == (
        None,
        None,
        None,
    )
    assert "without a probability" in fsl_jax("search", index, shop / "coat" / "1.png").stdout


def test_a_search_prints_a_table(index, shop):
    told = fsl_jax("search", index, shop / "coat" / "1.png", "--k", 2).stdout
    assert re.search(r"1 .* coat .* 1\.000 .* 100 % .* yes .* 2 .* coat/1\.png", told)
    assert re.search(r"2 .* no ", told)
    assert "1 % of the pairs" in told


def test_a_page_holds_all_pictures_and_loads_nothing(index, shop, tmp_path):
    page = tmp_path / "pages" / "found.html"
    result = fsl_jax("search", index, shop / "coat", "--k", 3, "--html", page)
    text = page.read_text()
    assert f"{page}: 2 photos" in result.stdout
    assert text.count("<img") == text.count("data:image/") == 2 * (1 + 3)
    assert "coat, score 1.000, 100 %, same article" in text
    assert "below the threshold" in text
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)


def test_photos_that_cannot_be_read_are_reported_and_the_others_searched(index, shop, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    result = fsl_jax("search", index, tmp_path / "broken.png", shop / "coat" / "0.png", "--json", status=3)
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert first == {"photo": str(tmp_path / "broken.png"), "error": "not an image that Pillow knows"}
    assert second["hits"][0]["label"] == "coat"
    assert "1 of 2 photos could not be read" in result.stderr
    page = tmp_path / "page.html"
    fsl_jax("search", index, tmp_path / "broken.png", "--html", page, status=1)
    assert "not an image that Pillow knows" in page.read_text()
    assert "not an image" in fsl_jax("search", index, tmp_path / "broken.png", status=1).stdout


def test_an_empty_index_is_searched_without_a_hit(index, shop):
    fsl_jax(
        "index",
        "remove",
        index,
        *(part for label in ("boot", "coat", "dress", "hat") for part in ("--label", label)),
    )
    record = json.loads(fsl_jax("search", index, shop / "coat" / "0.png", "--json").stdout)
    assert record["hits"] == []
    assert "nothing found" in fsl_jax("search", index, shop / "coat" / "0.png").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "exakt"], "did you mean 'exact'"),
        (["--engine-option", "speed=1"], "has no option 'speed'"),
        (["--json", "--html", "page.html"], "give either --json or --html"),
    ],
)
def test_a_wrong_search_is_one_line(index, shop, arguments, message):
    result = fsl_jax("search", index, shop / "coat" / "0.png", *arguments, status=1)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_name_that_looks_like_markup_is_shown_as_it_is(index, shop, tmp_path):
    name = tmp_path / "<b>[red]x.png"
    name.write_bytes((shop / "coat" / "0.png").read_bytes())
    page = tmp_path / "page.html"
    fsl_jax("search", index, name, "--html", page)
    assert "<b>" not in page.read_text()
    assert "[red]x.png" in fsl_jax("search", index, name).stdout


def test_importing_the_commands_imports_nothing_heavy():
    import subprocess
    import sys

    heavy = ("jax", "numpy", "polars", "PIL")
    code = f"import sys, fsl_jax.search.commands; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_the_checks_of_a_new_place_come_before_the_photos(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="is not empty"):
        _filling.check_new(tmp_path)
