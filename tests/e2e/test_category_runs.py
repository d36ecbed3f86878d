"""A classifier by a taxonomy as a user starts it: trained, judged again, and asked about photos."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fsl_jax.cli import app

pytestmark = pytest.mark.slow  # each run compiles for a minute

REPOSITORY = Path(__file__).resolve().parents[2]
# A smaller network, which compiles faster.
CONFIG = ["--config", "configs/hierarchy.py:smoke", "--config.model.options.filters=8"]
CONFIG += ["--config.model.options.reduction=stride", "--config.model.options.formulation=lax"]


def finished(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "fsl_jax.main", *map(str, arguments)],
        cwd=REPOSITORY, env={**os.environ, "JAX_PLATFORMS": "cpu"}, text=True, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "hierarchy"
    out, err = finished(*CONFIG, "--workdir", workdir)
    return workdir, out, err


def result_of(workdir):
    return json.loads((workdir / "result.json").read_text())


def test_a_run_leaves_figures_of_every_level_and_of_the_attributes(trained):
    workdir, out, err = trained
    result = result_of(workdir)
    names = ("accuracy", "precision", "recall", "f1", "macro_f1", "top5", "count")
    assert {f"{level}/{name}" for level in ("category", "subcategory") for name in names} <= set(result)
    assert {"attributes/f1", "attributes/auc", "attributes/ap", "attributes/judged"} <= set(result)
    assert {"levels/f1", "consistency", "hierarchical_precision"} <= set(result)
    assert result["steps"] == 20
    assert result["heads"] == "structured"
    assert 0 < result["subcategory/count"] <= result["photos"]
    assert not {"accuracy", "mAP", "way"} & set(result)
    assert "to tell apart: category (" in err
    assert "categories and attributes" in out
    for name in ("subcategory/f1", "attributes/auc", "consistency"):
        assert name in out


def test_figures_are_logged_while_it_trains_and_choose_the_checkpoint(trained):
    workdir = trained[0]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    judged = {line["step"]: line for line in lines if "eval/levels/f1" in line}
    assert sorted(judged) == [10, 20]
    assert "eval/attributes/auc" in judged[10]
    assert "train/subcategory_accuracy" in {name for line in lines for name in line}
    # Of equal ones the later.
    best = max(judged, key=lambda step: (judged[step]["eval/levels/f1"], step))
    assert result_of(workdir)["checkpoint_step"] == best


def test_the_report_shows_confusions_and_attributes(trained):
    page = (trained[0] / "report.html").read_text()
    for heading in (
        "Categories", "Confusions of category", "Confusions of subcategory", "F1 by subcategory",
        "The surest mistakes of subcategory", "AUC by attribute", "Average precision by attribute",
    ):  # fmt: skip
        assert f">{heading}</h2>" in page


def test_judging_the_workdir_alone_gives_the_same_figures(trained):
    before = result_of(trained[0])
    finished("--mode=evaluate", "--workdir", trained[0])
    assert result_of(trained[0]) == before


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("dress", (40, 30)), ("bag", (28, 28))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"{name}.png")
    return [tmp_path / "dress.png", tmp_path / "bag.png"]


def predict(workdir, *arguments):
    arguments = ["predict", *map(str, arguments), "--workdir", str(workdir)]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def test_photos_are_named_by_what_was_trained(trained, photos):
    done = predict(trained[0], *photos, "--json", "--top", 99, "--threshold", 0)
    assert done.exit_code == 0, done.output
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["photo"] for one in said] == [str(photo) for photo in photos]
    for one in said:
        assert list(one["levels"]) == ["category", "subcategory"]
        for names in one["levels"].values():
            shares = [name["probability"] for name in names]
            assert shares == sorted(shares, reverse=True)
            assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert len(one["attributes"]) == trained_attributes(trained[2])
        assert all("=" in attribute["name"] for attribute in one["attributes"])
    assert said[0]["levels"] != said[1]["levels"]


def trained_attributes(err):
    """The number that the run has said, such as in "subcategory (13), 64 attributes (accent, brand)"."""
    (line,) = [line for line in err.splitlines() if line.startswith("to tell apart: ")]
    return int(line.partition(" attributes")[0].rpartition(" ")[2])


def test_a_table_is_printed_and_a_photo_that_cannot_be_read_is_named(trained, photos):
    photos[0].write_bytes(b"")
    done = predict(trained[0], photos[0].parent)
    assert done.exit_code == 3, done.output
    assert "1 of 2 photos could not be read" in done.stderr
    (broken,) = [line for line in done.stdout.splitlines() if "dress.png" in line]
    assert "empty file" in broken
    assert "subcategory" in done.stdout
    assert "bag.png" in done.stdout
