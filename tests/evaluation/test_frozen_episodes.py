"""Few-shot episodes on frozen features, and the command that judges them."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from fsl_jax.cli import app
from fsl_jax.data.augment import Preprocess
from fsl_jax.data.table import Coded, Table
from fsl_jax.embedder import Embedder
from fsl_jax.evaluation import frozen
from fsl_jax.evaluation.calibrated import BaseLabels, DistributionCalibration
from fsl_jax.mesh import data_mesh
from fsl_jax.sampling import episodes as episode_sampling
from fsl_jax.sampling.episodes import LabelRows
from fsl_jax.sampling.keys import named_key

SETTINGS = {"way": 3, "shot": 2, "queries": 4, "seed": 0}
CALIBRATION = DistributionCalibration(draws=20)


def columns(labels=16, count=10, dimensions=6):
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(labels), count)
    features = rng.standard_normal((labels, dimensions))[label] + rng.standard_normal(
        (len(label), dimensions)
    )
    return features.astype(np.float32), np.array([f"label_{i:02d}" for i in label])


@pytest.fixture(scope="module")
def table():
    features, names = columns()
    return Table("features", Coded.of(names), np.full(len(names), "test"), images=features[:, None, None, :])


@pytest.fixture(scope="module")
def base():
    rng = np.random.default_rng(1)
    return BaseLabels.of(rng.standard_normal((40, 6)), np.repeat(np.arange(5), 8))


def judge(table, name, base, *, devices=1, episodes=11, **settings):
    classify = frozen.classifier(name, neighbours=3, calibration=CALIBRATION)
    mesh = data_mesh(devices)
    return frozen.judge(
        table, classify, base, episodes=episodes, mesh=mesh, **{**SETTINGS, **settings}
    ).episodes


@pytest.mark.parametrize("name", ["prototype", frozen.CALIBRATION])
def test_an_episode_is_the_same_on_any_number_of_devices_and_of_episodes(table, base, name):
    one = judge(table, name, base)
    eight = judge(table, name, base, devices=8)
    np.testing.assert_array_equal(one.predicted, eight.predicted)
    np.testing.assert_array_equal(one.predicted[:3], judge(table, name, base, episodes=3).predicted)
    assert (one.predicted != judge(table, name, base, seed=1).predicted).any()


def test_prototypes_are_those_of_a_loop_over_the_drawn_photos(table):
    features = table.images[:, 0, 0]
    plan = episode_sampling.make(table, tasks=1, way=3, shot=2, queries=4)
    found = judge(table, "prototype", None)
    for number in range(11):
        rows = np.asarray(plan.rows(LabelRows.of(table), named_key(0, "episodes"), number)[0])
        means = features[rows[:, :2]].mean(axis=1)
        query = features[rows[:, 2:].reshape(-1)]
        nearest = np.linalg.norm(query[:, None] - means[None], axis=2).argmin(axis=1)
        np.testing.assert_array_equal(found.predicted[number], nearest)
    np.testing.assert_array_equal(found.labels[0], np.repeat(np.arange(3), 4))


def test_features_are_scaled_and_then_raised():
    scaled = frozen.prepared(np.array([[3.0, 4.0], [0.0, 0.0]]), normalise=True, power=0.5)
    np.testing.assert_allclose(scaled, [[0.6**0.5, 0.8**0.5], [0.0, 0.0]])
    np.testing.assert_array_equal(
        frozen.prepared(np.array([[3.0, 4.0]]), normalise=False, power=1.0), [[3, 4]]
    )


def test_features_that_cannot_be_raised_are_refused():
    with pytest.raises(ValueError, match="50% of these are negative, the smallest -2"):
        frozen.prepared(np.array([[-2.0, 4.0]]), normalise=False, power=0.5)
    with pytest.raises(ValueError, match="power is 0"):
        frozen.prepared(np.ones((1, 2)), normalise=False, power=0.0)
    with pytest.raises(ValueError, match="NaN or an infinity"):
        frozen.prepared(np.array([[np.nan, 4.0]]), normalise=False, power=1.0)


def test_labels_with_too_few_photos_are_left_out(table):
    some = table.take(np.arange(len(table)) >= 5)  # the first label keeps 5 of its 10
    kept, left_out = frozen.enough_photos(some, way=3, photos=6)
    assert left_out == 1
    assert "label_00" not in kept.label.names
    assert kept.label.counts().tolist() == [10] * 15
    with pytest.raises(ValueError, match="0 of the 16 labels of split 'test' have 11 photos"):
        frozen.enough_photos(table, way=3, photos=11)


@pytest.fixture
def file(tmp_path):
    features, names = columns()
    split = np.where(np.arange(len(names)) < 80, "train", "test")
    arrays = {
        "embedding": features,
        "label": names,
        "split": split,
        "path": names,
        "role": np.full(len(names), ""),
    }
    np.savez(tmp_path / "features.npz", **arrays, digest="")
    return tmp_path / "features.npz"


def run(*arguments):
    return CliRunner().invoke(app, ["few-shot", *map(str, arguments)])


def test_the_command_prints_one_record_a_classifier_and_shot(file):
    names = ("prototype", "k-nn", "logistic", frozen.CALIBRATION)
    chosen = [part for name in names for part in ("--classifier", name)]
    sizes = ["--way", 3, "--shot", 1, "--shot", 3, "--queries", 4, "--episodes", 24, "--draws", 30]
    result = run("--features", file, *sizes, *chosen, "--json")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["classifier"], row["shot"]) for row in rows] == [
        (name, shot) for name in names for shot in (1, 3)
    ]
    for row in rows:
        assert 1 / 3 < row["accuracy"] < 1
        assert 0 < row["ci95"] < 0.2
        assert (row["episodes"], row["labels"], row["way"]) == (24, 8, 3)


def test_joined_features_are_each_of_length_one(table):
    features = table.images.reshape(len(table), -1)
    other = dataclasses.replace(table, images=(3 * features[:, :2] + 1)[:, None, None, :])
    joined = frozen.joined([table, other]).images.reshape(len(table), -1)
    parts = [features, 3 * features[:, :2] + 1]
    expected = np.hstack([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts])
    np.testing.assert_allclose(joined, expected, atol=1e-6)


def drawn(monkeypatch, tmp_path, *models):
    """Judges models by name on small drawings: the mean colour of a photo, or of its middle."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sides = {}

    def load(spec):
        name = Path(spec.get("workdir", spec.get("published", ""))).name
        part = np.s_[:, 8:-8, 8:-8] if name == "middle" else np.s_[:]

        def embed(images):
            sides[name] = images.shape[1:3]
            return images[part].astype(np.float32).mean((1, 2))

        preprocess = Preprocess(size=32, channels=3, fit="pad", mean=(0.0,), std=(1.0,))
        return Embedder(jax.jit(embed), preprocess, name)

    monkeypatch.setattr("fsl_jax.search.models.load_model", load)
    source = ["--source", "catalogue", "--option", "labels=50", "--option", "photos=6", "--option", "seed=0"]
    sizes = ["--way", 5, "--shot", 1, "--queries", 2, "--episodes", 60, "--classifier", "1-nn", "--json"]
    return run(*source, *sizes, *models), sides


def test_several_runs_are_judged_as_one_ensemble(monkeypatch, tmp_path):
    both = ["--option", "size=32", "--workdir", tmp_path / "whole", "--workdir", tmp_path / "middle"]
    result, sides = drawn(monkeypatch, tmp_path, *both)
    assert result.exit_code == 0, result.output
    assert set(sides) == {"whole", "middle"}
    alone = [drawn(monkeypatch, tmp_path, *both[:2], *both[i : i + 2])[0] for i in (2, 4)]
    figures = [json.loads(each.stdout)["accuracy"] for each in (result, *alone)]
    assert len(set(figures)) == 3
    assert all(0.2 < figure <= 1 for figure in figures)


def test_a_published_network_is_given_the_size_that_was_asked_for(monkeypatch, tmp_path):
    result, sides = drawn(monkeypatch, tmp_path, "--option", "size=48", "--size", 48, "--model", "whole")
    assert result.exit_code == 0, result.output
    assert sides == {"whole": (48, 48)}
    result, _ = drawn(monkeypatch, tmp_path, "--option", "size=32", "--workdir", tmp_path, "--size", 48)
    assert result.exit_code == 1
    assert "--size is of --model" in result.output


def test_the_command_prints_a_table(file):
    result = run(
        "--features", file, "--way", 3, "--shot", 1, "--queries", 4, "--episodes", 8, "--classifier", "1-nn"
    )
    assert result.exit_code == 0, result.output
    assert "1-nn" in result.stdout
    assert "±" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --features, or --source"),
        (["--features", "FILE", "--workdir", "run"], "go with --source"),
        (["--features", "FILE", "--classifier", "svm"], "no classifier 'svm': choose of 1-nn"),
        (["--features", "FILE", "--power", "0.5"], "are negative"),
        (["--features", "FILE", "--queries", "30"], "0 of the 8 labels of split 'test' have 31 photos"),
        (
            ["--features", "FILE", "--nearest", "9"],
            "the base split has 8 labels, but a support photo borrows from 9",
        ),
        (["--features", "FILE", "--draws", "3"], "3 draws a label are shared by 5 shots"),
        (["--features", "FILE", "--novel", "val"], "no photo in split 'val'"),
    ],
)
def test_the_command_says_what_is_wrong(file, arguments, message):
    result = run(*[file if argument == "FILE" else argument for argument in arguments])
    assert result.exit_code == 1
    assert message in result.stderr


def test_the_command_warns_of_base_labels_that_are_novel_too(file):
    sizes = ["--way", 2, "--shot", 1, "--queries", 2, "--episodes", 1, "--draws", 5]
    result = run("--features", file, *sizes, "--base", "test", "--classifier", frozen.CALIBRATION)
    assert "warning: 8 novel labels are base labels too" in result.stderr


def test_base_labels_of_a_single_photo_are_told(tmp_path, file):
    with np.load(file) as arrays:
        kept = np.r_[0, 10:160]
        np.savez(tmp_path / "few.npz", **{name: a[kept] if a.ndim else a for name, a in arrays.items()})
    sizes = ["--way", 2, "--shot", 1, "--queries", 2, "--episodes", 1, "--draws", 5]
    result = run("--features", tmp_path / "few.npz", *sizes, "--classifier", frozen.CALIBRATION)
    assert "1 of 8 base labels have a single photo" in result.stderr


def test_devices_share_the_episodes(table):
    assert len(jax.devices()) == 8
    assert judge(table, "1-nn", None, devices=8, episodes=20).accuracies.shape == (20,)
