"""Results of a sweep as one table, against NumPy, SciPy and sums by hand."""

import csv
import json

import numpy as np
import pytest
import scipy.stats
from typer.testing import CliRunner

from fsl_jax import sweep_table
from fsl_jax.cli import app
from fsl_jax.sweep_table import gather, mean_interval, t_quantile, tabulate


def write(file, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values))


def config(settings):
    values = {"seed": 0, "optimizer": {"learning_rate": 0.1}, "eval": {"way": 5}, "train": {"steps": 10}}
    for path, value in settings.items():
        *groups, name = path.split(".")
        inner = values
        for group in groups:
            inner = inner[group]
        inner[name] = value
    return values


def finish(workdir, settings, **figures):
    write(workdir / "config.json", config(settings))
    write(workdir / "result.json", {"steps": 10, **figures})


def list_runs(root, runs):
    listed = [{"name": name, "settings": settings, "command": ""} for name, settings in runs.items()]
    write(root / "sweep.json", {"config": "maml", "overrides": [], "runs": listed})


RATES = (0.1, 0.2)
ACCURACY = np.random.default_rng(0).uniform(0.4, 0.9, (2, 4))


@pytest.fixture
def root(tmp_path):
    """Two rates, four seeds each."""
    runs = {
        f"r{i}s{seed}": {"optimizer.learning_rate": rate, "seed": seed}
        for i, rate in enumerate(RATES)
        for seed in range(4)
    }
    list_runs(tmp_path, runs)
    for name, settings in runs.items():
        i, seed = RATES.index(settings["optimizer.learning_rate"]), settings["seed"]
        finish(tmp_path / name, settings, accuracy=ACCURACY[i, seed], mAP=0.5, loss=2.0 * seed, method="maml")
    return tmp_path


def test_quantiles_are_those_of_scipy():
    freedom = [*range(1, 130), 1000, 2001]
    wanted = scipy.stats.t.ppf(0.975, freedom)
    np.testing.assert_allclose([t_quantile(n) for n in freedom], wanted, atol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 10, 50])
def test_an_interval_is_that_of_scipy(n):
    values = np.random.default_rng(n).normal(3, 2, n)
    interval = mean_interval(values)
    low, high = scipy.stats.t.interval(0.95, n - 1, loc=values.mean(), scale=scipy.stats.sem(values))
    assert (interval.mean - interval.ci95, interval.mean + interval.ci95) == pytest.approx(
        (low, high), rel=1e-9
    )
    assert interval.n == n


def test_one_value_has_no_interval():
    interval = mean_interval(np.array([0.25]))
    assert (interval.mean, interval.n) == (0.25, 1)
    assert np.isnan(interval.ci95)


def test_rows_are_settings_without_the_seed(root):
    table = tabulate(gather(root))
    assert table.columns == ("optimizer.learning_rate",)
    assert table.metrics == ("accuracy", "mAP")
    assert [row.settings for row in table.rows] == [{"optimizer.learning_rate": rate} for rate in RATES]
    for row, values in zip(table.rows, ACCURACY, strict=True):
        assert row.n == 4
        assert row.metrics["accuracy"].mean == pytest.approx(values.mean())
        half = scipy.stats.t.ppf(0.975, 3) * values.std(ddof=1) / 2
        assert row.metrics["accuracy"].ci95 == pytest.approx(half)
    assert table.others == table.pooled == ()


def test_settings_that_do_not_differ_are_no_columns(tmp_path):
    list_runs(tmp_path, {f"s{seed}": {"eval.way": 5, "seed": seed} for seed in range(2)})
    for seed in range(2):
        finish(tmp_path / f"s{seed}", {"seed": seed}, accuracy=0.5)
    table = tabulate(gather(tmp_path))
    assert table.columns == ()
    assert [(row.settings, row.n) for row in table.rows] == [({}, 2)]


def test_other_rows_and_figures_are_taken_on_request(root):
    table = tabulate(gather(root), by=["seed"], metrics=["loss"])
    assert table.columns == ("seed",)
    assert [(row.settings["seed"], row.n, row.metrics["loss"].mean) for row in table.rows] == [
        (seed, 2, 2.0 * seed) for seed in range(4)
    ]
    assert table.pooled == ("optimizer.learning_rate",)
    assert "means over seeds and optimizer.learning_rate " in sweep_table.told(table)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": ["learning_rat"]}, "no setting 'learning_rat'.*did you mean 'optimizer.learning_rate'"),
        ({"metrics": ["accurcy"]}, "no figure 'accurcy' in the results.*did you mean 'accuracy'"),
        ({"metrics": ["method"]}, "no figure 'method'"),
    ],
)
def test_what_is_not_there_is_refused(root, options, message):
    with pytest.raises(ValueError, match=message):
        tabulate(gather(root), **options)


def test_an_ambiguous_setting_is_refused(tmp_path):
    list_runs(tmp_path, {"a": {"eval.way": 5, "episode.way": 5}})
    finish(tmp_path / "a", {}, accuracy=0.5)
    with pytest.raises(ValueError, match=r"--by way may be eval.way or episode.way"):
        tabulate(gather(tmp_path), by=["way"])


def test_runs_without_a_result_are_named(root):
    (root / "r0s0" / "result.json").unlink()
    write(root / "r0s1" / "failed.json", {"status": 2, "reason": "status 2: error: no photos"})
    (root / "r1s2" / "result.json").unlink()
    (root / "r1s2" / "config.json").unlink()
    write(root / "r1s3" / "result.json", {"steps": 4, "accuracy": 0.0})
    table = tabulate(gather(root))
    assert [row.n for row in table.rows] == [2, 2]
    assert table.rows[1].metrics["accuracy"].mean == pytest.approx(ACCURACY[1, :2].mean())
    assert sweep_table.told(table)[1:] == [
        "failed: r0s1 (status 2: error: no photos)",
        "unfinished: r0s0",
        "unfinished: r1s3",
        "not started: r1s2",
    ]


def test_a_figure_that_could_not_be_measured_does_not_count(root):
    finish(root / "r0s0", {"seed": 0}, accuracy=0.5, mAP=None)
    row = tabulate(gather(root)).rows[0]
    assert (row.n, row.metrics["mAP"].n) == (4, 3)
    assert "50.0 % ± 0.0 (n 3)" in sweep_table.cells(tabulate(gather(root)))[1]


def test_parts_of_a_chained_sweep_are_filled_from_their_configs(tmp_path):
    runs = {
        "a": {"optimizer.learning_rate": 0.2},
        "b": {"eval.way": 20},
        "c": {"optimizer.learning_rate": 0.1},
    }
    list_runs(tmp_path, runs)
    for name, settings in runs.items():
        finish(tmp_path / name, settings, accuracy=0.5)
    rows = [row.settings for row in tabulate(gather(tmp_path)).rows]
    assert rows == [
        {"optimizer.learning_rate": rate, "eval.way": way} for rate, way in ((0.2, 5), (0.1, 20), (0.1, 5))
    ]


def test_the_same_run_in_two_places_counts_once(root):
    finish(root / "again" / "r0s0", {"optimizer.learning_rate": 0.1, "seed": 0}, accuracy=0.0)
    assert [row.n for row in tabulate(gather(root)).rows] == [4, 4]


def test_workdirs_without_a_sweep_are_compared_by_their_configs(tmp_path):
    for way in (5, 20):
        for seed in range(3):
            finish(tmp_path / f"way{way}" / str(seed), {"eval.way": way, "seed": seed}, accuracy=way / 100)
    finish(tmp_path / "way5" / "0" / "checkpoints" / "x", {}, accuracy=0.0)
    table = tabulate(gather(tmp_path))
    assert table.columns == ("eval.way",)
    assert [(row.settings["eval.way"], row.n) for row in table.rows] == [(20, 3), (5, 3)]


def test_two_sweeps_are_compared_by_their_configs(tmp_path):
    for way in (5, 20):
        list_runs(tmp_path / f"way{way}", {"s0": {"seed": 0}, "s1": {"seed": 1}})
        for seed in range(2):
            finish(tmp_path / f"way{way}" / f"s{seed}", {"eval.way": way, "seed": seed}, accuracy=0.5)
    assert tabulate(gather(tmp_path)).columns == ("eval.way",)


def test_levels_are_shown_where_nothing_else_was_measured(tmp_path):
    finish(tmp_path / "a", {}, **{"category/f1": 0.5, "category/f1/shoes": 0.1, "category/loss": 1.0})
    assert tabulate(gather(tmp_path)).metrics == ("category/f1",)


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no run below"):
        gather(tmp_path)


def table_of(root, *arguments):
    return CliRunner().invoke(
        app, ["sweep", "table", "--root", str(root), *arguments], env={"COLUMNS": "200"}
    )


def test_the_command_prints_a_table_and_says_what_n_is(root):
    (root / "r0s0" / "result.json").unlink()
    done = table_of(root)
    assert done.exit_code == 0
    assert "learning_rate" in done.stdout
    assert f"{100 * ACCURACY[1].mean():.1f} % ± " in done.stdout
    assert "unfinished: r0s0" in done.stderr


def test_json_has_means_and_intervals(root):
    made = json.loads(table_of(root, "--json", "--metric", "accuracy").stdout)
    assert made["rows"][0]["settings"] == {"optimizer.learning_rate": 0.1}
    assert made["rows"][0]["metrics"]["accuracy"] == {
        "mean": pytest.approx(ACCURACY[0].mean()),
        "ci95": pytest.approx(mean_interval(ACCURACY[0]).ci95),
        "n": 4,
    }
    made = json.loads(table_of(root, "--json", "--by", "seed", "--by", "learning_rate").stdout)
    assert [row["metrics"]["accuracy"]["ci95"] for row in made["rows"]] == [None] * 8


def test_csv_has_full_figures(root, tmp_path):
    file = tmp_path / "out" / "table.csv"
    done = table_of(root, "--csv", str(file), "--metric", "accuracy", "--metric", "loss")
    assert done.stdout == f"{file}: 2 rows\n"
    lines = list(csv.DictReader(file.read_text().splitlines()))
    assert list(lines[0]) == [
        "optimizer.learning_rate", "accuracy", "accuracy_ci95", "accuracy_n", "loss", "loss_ci95", "loss_n"
    ]  # fmt: skip
    assert float(lines[1]["accuracy"]) == pytest.approx(ACCURACY[1].mean(), rel=1e-15)
    assert lines[1]["loss_n"] == "4"


def test_markdown_has_one_line_a_row(root):
    lines = table_of(root, "--markdown", "--metric", "mAP").stdout.splitlines()
    assert lines[:3] == ["| learning_rate | n | mAP |", "| --- | --- | --- |", "| 0.1 | 4 | 50.0 % ± 0.0 |"]
    assert len(lines) == 4


def test_two_forms_at_once_are_refused(root):
    done = table_of(root, "--json", "--markdown")
    assert done.exit_code == 1
    assert "give one of --json, --markdown and --csv" in done.stderr
