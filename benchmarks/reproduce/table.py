"""The tables and charts of what was reproduced."""

import itertools
import json
from typing import Any

import numpy as np

from benchmarks.plot_meta_step import as_file
from benchmarks.reproduce.charts import intervals_chart
from benchmarks.reproduce.rows import HERE, Figure, Row
from fsl_jax.evaluation.report import Curve
from fsl_jax.sweep_table import Interval, mean_interval

RESULTS = HERE.parent / "results.md"
CHARTS = HERE.parents[1] / "docs" / "figures"
FILES = ("RESNET50", "SYNSETS")
"""Variables that name a file; the others name folders."""
BEGIN, END = "<!-- reproduced: begin -->", "<!-- reproduced: end -->"
COLUMNS = (
    "row",
    "figure",
    "published",
    "peer",
    "ours",
    "expected",
    "seeds",
    "minutes a run",
    "flags",
    "commit, date",
)


def write(rows: list[Row]) -> None:
    """Writes the tables into benchmarks/results.md between their marks, and the charts into docs/figures.

    Raises:
      ValueError: The marks are not there.
    """
    text = RESULTS.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{RESULTS} has no {BEGIN} and {END}, between which the tables belong")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    RESULTS.write_text(f"{before}{BEGIN}\n\n{tables(rows)}\n{after}", encoding="utf-8")
    CHARTS.mkdir(parents=True, exist_ok=True)
    for name, chart in charts(rows).items():
        (CHARTS / f"{name}.svg").write_text(chart, encoding="utf-8")


def tables(rows: list[Row]) -> str:
    """Returns one table a script, in Markdown."""
    parts = []
    for _, of_script in itertools.groupby(rows, key=lambda row: row.script):
        several = list(of_script)
        first = several[0]
        lines = [f"### {first.title} ({first.source})", "", f"{first.protocol}. {first.time}."]
        needs = dict.fromkeys(name for row in several for name in row.needs)
        data = " ".join(f"{name}={'FILE' if name in FILES else 'FOLDER'}" for name in needs)
        lines[-1] += f" `{data}{' ' if data else ''}python -m benchmarks.reproduce --run {first.script.stem}`"
        used = _columns(several)
        lines += ["", _line(used), _line(["---"] * len(used))]
        lines += [_line([cells[name] for name in used]) for row in several for cells in _cells(row)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _columns(rows: list[Row]) -> list[str]:
    """Leaves out what none of the rows has."""
    cells = [each for row in rows for each in _cells(row)]
    return [name for name in COLUMNS if any(each[name] for each in cells)]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _cells(row: Row) -> list[dict[str, str]]:
    record = read_record(row)
    return [_of_figure(row, figure, record, is_first=i == 0) for i, figure in enumerate(row.figures)]


def _of_figure(row: Row, figure: Figure, record: dict[str, Any] | None, *, is_first: bool) -> dict[str, str]:
    cells = {
        "row": f"`{row.variant}`" if is_first else "",
        "figure": figure.name,
        "published": figure.published,
        "peer": figure.peer,
        "expected": " to ".join(f"{bound:g}" for bound in figure.expected),
        "ours": "not run",
        **dict.fromkeys(("seeds", "minutes a run", "flags", "commit, date"), ""),
    }
    if record is None or figure.key not in record["figures"]:
        return cells
    interval = interval_of(record, figure)
    seconds = [each for each in record["seconds"] if each]
    return cells | {
        "ours": f"**{shown(interval, figure)}**{_beside(interval, figure)}",
        "flags": " ".join(f"`{flag}`" for flag in record.get("flags", [])) if is_first else "",
        "seeds": ", ".join(map(str, record["seeds"])),
        "minutes a run": f"{np.mean(seconds) / 60:.0f}, {record['device']}" if seconds and is_first else "",
        "commit, date": f"{record['commit']}, {record['date']}" if is_first else "",
    }


def read_record(row: Row) -> dict[str, Any] | None:
    """Reads what was kept of a row; None where it was never run."""
    return json.loads(row.record().read_text()) if row.record().exists() else None


def interval_of(record: dict[str, Any], figure: Figure) -> Interval:
    """Returns the mean over seeds with its t-interval; of one seed the run's own interval, over its episodes."""
    values = np.asarray(record["figures"][figure.key], float)
    over_seeds = mean_interval(values)
    within = record["within"].get(figure.key)
    if len(values) == 1 and within:
        return Interval(over_seeds.mean, within[0], 1)
    return over_seeds


def shown(interval: Interval, figure: Figure) -> str:
    """Writes a figure with its interval, such as "98.70 ± 0.23 %"."""
    scale, digits, unit = (100, 2, " %") if figure.percent else (1, 3, "")
    half = "" if np.isnan(interval.ci95) else f" ± {scale * interval.ci95:.{digits}f}"
    return f"{scale * interval.mean:.{digits}f}{half}{unit}"


def _beside(interval: Interval, figure: Figure) -> str:
    """Says where a figure misses what was expected."""
    if not figure.expected:
        return ""
    value, (low, high) = (100 if figure.percent else 1) * interval.mean, figure.expected
    return "" if low <= value <= high else ", above" if value > high else ", **below**"


def charts(rows: list[Row]) -> dict[str, str]:
    """Draws accuracy and mAP against steps, and a script's rows beside each other, where all have one figure."""
    drawn = {}
    for script, of_script in itertools.groupby(rows, key=lambda row: row.script):
        records = {row: record for row in of_script if (record := read_record(row)) is not None}
        name = script.stem
        for logged, what in (("eval/accuracy", "accuracy"), ("eval/mAP", "mAP")):
            lines = {
                row.variant: tuple(zip(*record["curves"][logged], strict=True))
                for row, record in records.items()
                if len(record["curves"].get(logged, [])) > 1
            }
            if lines:
                title = f"{next(iter(records)).title}: {what} on validation labels"
                drawn[f"{name}_{what}"] = as_file(Curve(title, lines, "steps", what))
        figure = next((row.figures[0] for row in records), None)
        # Rows of other ways, or on other data, are not to be compared.
        if figure is not None and len(records) > 2 and len({row.figures[0].name for row in records}) == 1:
            values = {row.variant: interval_of(record, row.figures[0]) for row, record in records.items()}
            drawn[f"{name}_compared"] = intervals_chart(values, figure.name, percent=figure.percent)
    return drawn
