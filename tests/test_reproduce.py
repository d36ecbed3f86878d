"""Reproductions: every row's head and command are sound, one of each script takes two steps, the shortest all."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.main import get_command

from benchmarks.reproduce import records, rows, table
from benchmarks.reproduce.charts import intervals_chart
from fsl_jax.cli import app
from fsl_jax.config import config_module, flat
from fsl_jax.sweep_table import Interval

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_DATA = Path(os.environ.get("FSL_JAX_DATA", REPOSITORY.parent / "shared" / "data"))
ROWS = rows.all_rows()
DATA = {"OMNIGLOT": "omniglot", "LUMA": "luma", "FASHION": "fashion_small"}
FASHION_EVERY = 60
SHORTEST = "lake_one_shot/hausdorff"
# Each script's rows differ by their preset or their method, which the battery of configs runs for two steps each.
FIRST = [
    next(row for row in ROWS if row.script == script and row.name != SHORTEST)
    for script in sorted({row.script for row in ROWS})
]


def reproduce(*arguments, runs, environment):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.reproduce", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**environment, "RUNS": str(runs)},
        text=True,
        capture_output=True,
    )


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Names the real data, of one set a part; programs of one row are kept for the others."""
    there = {name: str(REAL_DATA / folder) for name, folder in DATA.items() if (REAL_DATA / folder).is_dir()}
    if "FASHION" in there:
        there["FASHION"] = str(part_of_fashion(Path(there["FASHION"]), tmp_path_factory.mktemp("fashion")))
    kept = tmp_path_factory.getbasetemp().parent / "programs"
    return {**os.environ, **there, "FSL_JAX_COMPILATION_CACHE": str(kept), "JAX_PLATFORMS": "cpu"}


def part_of_fashion(whole, folder):
    """The features of all its 44,072 photos take eight minutes."""
    head, *lines = (whole / "styles.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "styles.csv").write_text("".join([head, *lines[::FASHION_EVERY]]), encoding="utf-8")
    (folder / "images.zip").symlink_to(whole / "images.zip")
    return folder


def script(tmp_path, head, body="for seed in ${SEEDS:-0 1}; do :; done"):
    file = tmp_path / "made.sh"
    file.write_text(f"#!/usr/bin/env bash\n{head}\n{body}\n")
    return file


HEAD = """\
# title = "Made"
# protocol = "On nothing"
# source = "Nobody 2026"
# needs = ["MADE"]
# time = "a moment"
# [rows.one]
# figures."accuracy" = { name = "5-way", published = "98.0", expected = [97, 99] }
# [rows.two]
# needs = []
# figures."sub/figures.json:mAP" = { name = "mAP", percent = false }"""


def test_a_script_says_what_its_rows_are(tmp_path):
    one, two = rows.read_script(script(tmp_path, HEAD))
    assert (one.name, one.needs, one.seeds, one.title) == ("made/one", ("MADE",), (0, 1), "Made")
    assert (two.name, two.needs) == ("made/two", ())
    assert one.figures == (rows.Figure("accuracy", "5-way", "98.0", "", (97, 99)),)
    assert one.figures[0].place == ("result.json", "accuracy")
    assert two.figures[0].place == ("sub/figures.json", "mAP")


@pytest.mark.parametrize(
    ("head", "body", "message"),
    [
        ("# title = ", "for seed in ${SEEDS:-0}; do :; done", "no TOML"),
        (HEAD, "true", r"has no \$\{SEEDS:-0 1 2\}"),
    ],
)
def test_a_head_that_is_wrong_is_named(tmp_path, head, body, message):
    with pytest.raises(ValueError, match=message):
        rows.read_script(script(tmp_path, head, body))


def test_rows_are_found_by_name_and_by_script():
    (row,) = rows.find_rows(["maml_omniglot/maml_5way_1shot"])
    assert row.name == "maml_omniglot/maml_5way_1shot"
    assert len(rows.find_rows(["maml_omniglot"])) == 12
    with pytest.raises(ValueError, match=r"no row 'maml_omniglot/maml_5way'"):
        rows.find_rows(["maml_omniglot/maml_5way"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_states_its_protocol_and_what_is_expected_of_it(row):
    assert row.protocol
    assert row.source
    assert row.time
    assert row.seeds
    assert row.figures
    for figure in row.figures:
        assert figure.name
        assert len(figure.expected) in (0, 2)
        if figure.published and figure.expected:
            low, high = figure.expected
            value = float(re.match(r"[\d.]+", figure.published)[0])
            goal_is_stricter = row.script.stem == "lake_one_shot"
            assert low <= value <= high or (goal_is_stricter and value > high)


@pytest.mark.parametrize("file", sorted({row.script for row in ROWS}), ids=lambda file: file.stem)
def test_scripts_are_sound_shell(file):
    assert subprocess.run(["bash", "-n", str(file)]).returncode == 0
    without = subprocess.run(["bash", str(file)], capture_output=True, text=True)
    assert without.returncode != 0
    assert re.search(r"line \d+: 1: \w+", without.stderr)  # says which rows there are


@pytest.fixture(scope="session")
def told(tmp_path_factory):
    """Returns the commands that a row's script would run."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("python", "fsl-jax"):
        file = folder / name
        file.write_text('#!/bin/sh\n{ printf "%s\\037" "$0" "$@"; echo; } >> "$TOLD"\n')
        file.chmod(0o755)

    def commands(row):
        runs = tmp_path_factory.mktemp("runs")
        everything = dict.fromkeys((*DATA, *row.needs, "RESNET50"), str(runs))
        given = {**os.environ, **everything, "PATH": f"{folder}:{os.environ['PATH']}", "RUNS": str(runs)}
        given |= {"TOLD": str(runs / "told"), "SEEDS": "7"}
        done = subprocess.run(
            ["bash", str(row.script), row.variant, "--config.train.steps=2"], env=given, text=True
        )
        assert done.returncode == 0
        lines = (runs / "told").read_text().splitlines()
        return runs, [line.removesuffix("\037").split("\037")[1:] for line in lines]

    return commands


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_names_configs_and_fields_that_exist(row, told):
    """Whether a preset can be trained, the battery of configs asks; here it is whether scripts name what there is."""
    runs, commands = told(row)
    for program, *arguments in (command for command in commands if command[0] != "-m"):
        with get_command(app).commands[program].make_context(program, arguments) as context:
            assert context.params  # an unknown option ends in an error
    trained = [command for command in commands if command[:2] == ["-m", "fsl_jax.main"]]
    assert trained or row.variant in ("hausdorff", "luma_frozen", "catalogue_frozen", "fashion_small_frozen")
    for command in trained:
        flags = dict(itertools.pairwise(command))
        file, _, preset = flags["--config"].partition(":")
        config = config_module(REPOSITORY / file).get_config(preset)
        fields = flat(config.to_dict())
        assert Path(flags["--workdir"]).name == "seed7"
        assert Path(flags["--workdir"]).is_relative_to(runs)
        named = [flag.removeprefix("--config.").split("=")[0] for flag in command if "--config." in flag]
        assert {"seed", "train.steps"} <= set(named)
        assert set(named) - {"eval.grid.ways"} <= set(fields)
        assert "2" in [flag.split("=")[1] for flag in command if flag.startswith("--config.train.steps")][-1]


def made_row(tmp_path, variant="one"):
    return next(row for row in rows.read_script(script(tmp_path, HEAD)) if row.variant == variant)


def keep_result(tmp_path, row, seed, **figures):
    folder = row.folder(tmp_path / "runs", seed)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(figures))
    return folder


def test_figures_of_all_seeds_are_gathered_with_intervals_and_curves(tmp_path):
    row = made_row(tmp_path)
    folder = keep_result(tmp_path, row, 0, accuracy=0.98, accuracy_ci95=0.004, seconds=60)
    (folder / "metrics.jsonl").write_text(
        '{"step": 10, "eval/accuracy": 0.9}\n{"step": 15, "train/loss": 1}\n{"step": 20, "eval/accuracy": 0.95}\n'
    )
    keep_result(tmp_path, row, 1, accuracy=0.96, accuracy_ci95=0.005, seconds=120)
    found = records.gather(row, tmp_path / "runs", seeds=(0, 1))
    assert found["figures"] == {"accuracy": [0.98, 0.96]}
    assert found["within"] == {"accuracy": [0.004, 0.005]}
    assert found["curves"] == {"eval/accuracy": [[10, 0.9], [20, 0.95]]}
    assert found["seconds"] == [60, 120]
    # Student's t with one degree of freedom: 12.706 standard errors of 0.01.
    interval = table.interval_of(found, row.figures[0])
    np.testing.assert_allclose((interval.mean, interval.ci95), (0.97, 0.12706), rtol=1e-4)
    alone = table.interval_of(records.gather(row, tmp_path / "runs", seeds=(0,)), row.figures[0])
    assert (alone.mean, alone.ci95) == (0.98, 0.004)


def test_a_cell_of_few_shot_has_its_interval_beside_its_accuracy(tmp_path):
    """As `fsl-jax few-shot --json` writes it."""
    row = made_row(tmp_path)
    keep_result(tmp_path, row, 0, classifier="prototype", accuracy=0.6, ci95=0.012)
    found = records.gather(row, tmp_path / "runs", seeds=(0,))
    assert found["within"] == {"accuracy": [0.012]}
    assert table.interval_of(found, row.figures[0]).ci95 == 0.012


def test_a_kept_row_has_all_runs_and_a_short_one_few(tmp_path, monkeypatch):
    (row,) = (
        row
        for row in rows.read_script(script(tmp_path, HEAD, "echo ${REPEATS:-all} ${SEEDS:-0} > $RUNS/told"))
        if row.variant == "two"
    )
    monkeypatch.setenv("REPEATS", "3")
    records.run(row, tmp_path, [], seeds=(5,))
    assert (tmp_path / "told").read_text().split() == ["all", "5"]
    records.run(row, tmp_path, [], seeds=(5,), environment=records.SHORT)
    assert (tmp_path / "told").read_text().split() == ["1", "5"]


def test_a_run_that_has_not_ended_or_lacks_the_figure_is_no_result(tmp_path):
    row = made_row(tmp_path)
    with pytest.raises(ValueError, match="the run has not ended"):
        records.gather(row, tmp_path / "runs", seeds=(0,))
    keep_result(tmp_path, row, 0, mAP=0.5)
    with pytest.raises(ValueError, match="has no figure 'accuracy'"):
        records.gather(row, tmp_path / "runs", seeds=(0,))


def test_a_row_without_its_data_says_what_to_name(tmp_path, monkeypatch):
    monkeypatch.delenv("MADE", raising=False)
    with pytest.raises(ValueError, match="set MADE=FOLDER in the environment"):
        records.run(made_row(tmp_path), tmp_path / "runs", [], seeds=(0,))


def test_a_script_that_fails_is_told(tmp_path):
    two = next(
        row for row in rows.read_script(script(tmp_path, HEAD, "exit ${SEEDS:-3 4}")) if row.variant == "two"
    )
    with pytest.raises(ValueError, match="made/two ended with status 7"):
        records.run(two, tmp_path / "runs", [], seeds=(7,))


def test_the_table_has_what_was_run_and_says_what_was_not(tmp_path, monkeypatch):
    row, other = rows.read_script(script(tmp_path, HEAD))
    keep_result(tmp_path, row, 0, accuracy=0.95, accuracy_ci95=0.004, seconds=600)
    found = {**records.gather(row, tmp_path / "runs", seeds=(0,)), "flags": ["--config.train.steps=9"]}
    monkeypatch.setattr(table, "read_record", lambda each: found if each == row else None)
    text = table.tables([row, other])
    ran, never = [line for line in text.splitlines() if line.startswith("| `")]
    assert "| `one` | 5-way | 98.0 | **95.00 ± 0.40 %**, **below** | 97 to 99 | 0 | 10, " in ran
    assert "`--config.train.steps=9`" in ran
    assert "| `two` | mAP |  | not run |" in never
    assert "MADE=FOLDER python -m benchmarks.reproduce --run made" in text


def test_curves_and_methods_are_drawn(tmp_path, monkeypatch):
    one = 'figures."mAP" = { name = "mAP", percent = false }'
    compared = HEAD.split("# [rows")[0] + "\n".join(
        f"# [rows.{name}]\n# {one}" for name in ("one", "two", "three")
    )
    rows_of = rows.read_script(script(tmp_path, compared))
    values = {"one": 0.9, "two": 0.5, "three": 0.7}

    def record(row):
        figure = row.figures[0].key
        curves = {"eval/accuracy": [[10, 0.2], [20, values[row.variant]]]} if row.variant != "two" else {}
        return {"figures": {figure: [values[row.variant]]}, "within": {}, "curves": curves}

    monkeypatch.setattr(table, "read_record", record)
    drawn = table.charts(rows_of)
    assert set(drawn) == {"made_accuracy", "made_compared"}
    for chart in drawn.values():
        ElementTree.fromstring(chart)
    assert "three" in drawn["made_accuracy"]
    assert "two" not in drawn["made_accuracy"]
    assert drawn["made_compared"].index(">one<") < drawn["made_compared"].index(">three<")
    others = rows.read_script(
        script(tmp_path, compared.replace('"mAP", percent', '"mAP of others", percent', 1))
    )
    assert set(table.charts(others)) == {"made_accuracy"}
    monkeypatch.setattr(table, "read_record", lambda row: None)
    assert table.charts(rows_of) == {}


def test_the_recorded_tables_are_those_of_the_records():
    """Whoever keeps a figure writes the tables anew."""
    text = table.RESULTS.read_text()
    inside = text[text.index(table.BEGIN) + len(table.BEGIN) : text.index(table.END)]
    assert inside.strip() == table.tables(ROWS).strip()


def test_intervals_are_drawn_highest_first():
    chart = intervals_chart(
        {"worse": Interval(0.5, 0.1, 3), "better": Interval(0.9, float("nan"), 1)}, "mAP", percent=False
    )
    assert chart.index("better") < chart.index("worse")
    assert "0.500 ± 0.100" in chart
    assert ">0.900<" in chart
    assert ">mAP, with 95 % intervals<" in chart
    alone = intervals_chart({"one": Interval(0.5, float("nan"), 1)}, "mAP", percent=False)
    assert ">mAP, one run each<" in alone
    (line,) = re.findall(r'class="interval" x1="([\d.]+)" x2="([\d.]+)" y1="70"', chart)
    left, right = map(float, line)
    # 0.4 to 0.6 on an axis that goes from there to 0.9, with a margin of a twentieth each side.
    np.testing.assert_allclose((right - left) / (720 - 230 - 90), 0.2 / (0.5 * 1.1), atol=1e-3)


def of_its_time(row):
    """Rows that fine-tune large networks take minutes for two steps."""
    large = {"LUMA", "FASHION"} & set(row.needs)
    return pytest.param(row, id=row.name, marks=pytest.mark.release if large else pytest.mark.slow)


@pytest.mark.parametrize("row", [of_its_time(row) for row in FIRST])
def test_a_row_of_each_script_takes_two_steps(row, tmp_path, environment):
    missing = [name for name in row.needs if name not in environment]
    if missing:
        pytest.skip(f"no data for {', '.join(missing)}")
    done = reproduce("--run", row.name, "--short", runs=tmp_path, environment=environment)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    assert f"{row.name}: two steps are well" in done.stdout


@pytest.mark.slow
def test_the_shortest_row_gives_what_is_expected(tmp_path, environment, real_data):
    real_data("omniglot")
    (row,) = rows.find_rows([SHORTEST])
    done = reproduce(
        "--run", row.name, "--records", tmp_path / "kept", runs=tmp_path, environment=environment
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(row.record(tmp_path / "kept").read_text())
    (figure,) = row.figures
    low, high = figure.expected
    assert low <= 100 * found["figures"][figure.key][0] <= high
