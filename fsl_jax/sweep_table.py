"""The results of runs as one table: settings, and metrics as mean ± 95 % interval over seeds."""

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fsl_jax.config import flat
from fsl_jax.data.cache import write_whole
from fsl_jax.lookup import closest
from fsl_jax.sweep import FAILED, RESULT, SEED, SWEEP, canonical, read_json, shortened, state_of
from fsl_jax.workdir import SHOWN_OF_EACH

MEASURES = ("accuracy", "mAP", "R@1")
"""Shown where they are measured and no others are asked for; without any of them, those of each level."""
_NO_RUNS = frozenset({"checkpoints", "tensorboard", "slurm"})
"""Folders below which no runs lie."""


@dataclasses.dataclass(frozen=True)
class Found:
    """A run below the root.

    Attributes:
      name: Its folder, from the root.
      state: As of `sweep.state_of`.
      swept: Its settings, where it is of the one sweep.json below the root.
      config: Its whole config with one dotted name a value; empty where it has not begun.
      result: Its figures; empty where it is not done.
      reason: Why it has failed.
    """

    name: str
    state: str
    swept: dict[str, Any] | None
    config: dict[str, Any]
    result: dict[str, Any]
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean of n values and half the width of its 95 % interval, which is NaN for one value."""

    mean: float
    ci95: float
    n: int


@dataclasses.dataclass(frozen=True)
class Row:
    """Runs with the same settings."""

    settings: dict[str, Any]
    n: int
    metrics: dict[str, Interval]


@dataclasses.dataclass(frozen=True)
class SweepTable:
    """All that is told of the runs below a root.

    Attributes:
      columns: Settings that differ, or that were asked for, as config paths.
      metrics: Names of figures.
      rows: One for each combination of settings that has a result.
      pooled: Settings besides the seed over which the means are taken too.
      others: Runs without a result that counts.
    """

    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    pooled: tuple[str, ...]
    others: tuple[Found, ...]


def t_quantile(freedom: int) -> float:
    """Returns the number of standard errors within which Student's t lies in 95 % of cases.

    Args:
      freedom: Degrees of freedom, from 1.

    Returns:
      12.71 for 1, 4.30 for 2, 1.96 for very many; exact to 1e-9.

    References:
      Abramowitz and Stegun, 26.7.3 and 26.7.4, halved until it fits.
    """
    low, high = 1.9, 13.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _share_within(middle, freedom) < 0.95 else (low, middle)
    return (low + high) / 2


def _share_within(t: float, freedom: int) -> float:
    """Returns the probability that Student's t lies between -t and t."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine, odd = math.sin(angle), math.cos(angle), freedom % 2
    term, total = cosine if odd else 1.0, 0.0
    for k in range(freedom // 2):
        total += term
        term *= cosine**2 * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def mean_interval(values: Float[np.ndarray, "n"]) -> Interval:
    """Returns the mean of values and half the width of its 95 % t-interval.

    Args:
      values: At least one, finite.

    Example:
      >>> round(mean_interval(np.array([1.0, 2.0, 3.0])).ci95, 3)
      2.484
    """
    n = len(values)
    half = t_quantile(n - 1) * values.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
    return Interval(float(values.mean()), float(half), n)


def gather(root: Path) -> list[Found]:
    """Finds the runs below a folder: those that a sweep.json lists, and whatever else has a result.json.

    Raises:
      ValueError: There are none.
    """
    listed: dict[Path, dict[str, Any]] = {}
    sweeps = 0
    with_result: list[Path] = []
    for folder, inner, files in os.walk(root):
        inner[:] = sorted(set(inner) - _NO_RUNS)
        if SWEEP in files:
            sweeps += 1
            runs = read_json(Path(folder) / SWEEP)["runs"]
            listed |= {Path(folder) / run["name"]: run["settings"] for run in runs}
        if RESULT in files:
            with_result.append(Path(folder))
    workdirs = [*listed, *(folder for folder in with_result if folder not in listed)]
    if not workdirs:
        raise ValueError(f"no run below {root}: give the --root of a sweep, or a folder of workdirs")
    # Two sweeps may differ in what neither of them swept.
    return [_found(root, workdir, listed.get(workdir) if sweeps == 1 else None) for workdir in workdirs]


def _found(root: Path, workdir: Path, swept: dict[str, Any] | None) -> Found:
    state, config = state_of(workdir), workdir / "config.json"
    return Found(
        name=str(workdir.relative_to(root)),
        state=state,
        swept=swept,
        config=flat(read_json(config)) if config.exists() else {},
        result=read_json(workdir / RESULT) if state == "done" else {},
        reason=read_json(workdir / FAILED)["reason"] if state == "failed" else "",
    )


def tabulate(found: Sequence[Found], *, by: Sequence[str] = (), metrics: Sequence[str] = ()) -> SweepTable:
    """Joins runs that differ in their seed alone.

    Args:
      found: At least one.
      by: Settings that make a row, as config paths or their ends; by default all that differ, but the seed.
      metrics: Names of figures; by default those of `MEASURES` that were measured.

    Raises:
      ValueError: There is no such setting or figure; the message lists what there is.
    """
    done = _once(each for each in found if each.state == "done")
    others = tuple(each for each in found if each.state != "done")
    settings = _settings(found, done)
    paths = list(dict.fromkeys(path for each in settings for path in each))
    differing = [path for path in paths if len({_text(each.get(path)) for each in settings}) > 1]
    varied = [path for path in differing if path != SEED]
    columns = tuple(_resolved(name, paths) for name in by) or tuple(varied)
    chosen = _metrics(done, metrics)
    groups: dict[str, list[int]] = {}
    for i, each in enumerate(settings):
        groups.setdefault(canonical({path: each.get(path) for path in columns}), []).append(i)
    rows = tuple(
        Row(
            {path: settings[places[0]].get(path) for path in columns},
            len(places),
            _intervals([done[i].result for i in places], chosen),
        )
        for places in groups.values()
    )
    return SweepTable(columns, chosen, rows, tuple(p for p in varied if p not in columns), others)


def _once(runs: Iterator[Found]) -> list[Found]:
    """Leaves runs out whose config another one has, so that no run counts twice."""
    kept: dict[str, Found] = {}
    for run in runs:
        kept.setdefault(canonical(run.config) if run.config else run.name, run)
    return list(kept.values())


def _settings(found: Sequence[Found], done: Sequence[Found]) -> list[dict[str, Any]]:
    """Returns what is compared: what was swept, where one sweep has it all, otherwise whole configs."""
    if any(each.swept is None for each in found):
        return [each.config for each in done]
    paths = list(dict.fromkeys(path for each in found for path in each.swept or {}))
    # What one part of a chained sweep leaves as it is, another one changes.
    return [{path: (each.swept or {}).get(path, each.config.get(path)) for path in paths} for each in done]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _resolved(name: str, paths: Collection[str]) -> str:
    """Finds a config path by its end."""
    fitting = [path for path in paths if f".{path}".endswith(f".{name}")]
    if name in paths or len(fitting) == 1:
        return name if name in paths else fitting[0]
    if fitting:
        raise ValueError(f"--by {name} may be {' or '.join(fitting)}: give one of them")
    raise ValueError(f"no setting {name!r}; {closest(name, list(paths))}")


def _metrics(done: Sequence[Found], asked: Sequence[str]) -> tuple[str, ...]:
    measured = list(
        dict.fromkeys(name for each in done for name, value in each.result.items() if _is_number(value))
    )
    for name in asked:
        if done and name not in measured:
            raise ValueError(f"no figure {name!r} in the results; {closest(name, measured)}")
    of_levels = [n for n in measured if n.count("/") == 1 and n.split("/")[1] in SHOWN_OF_EACH]
    return tuple(asked) or tuple(name for name in MEASURES if name in measured) or tuple(of_levels)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _intervals(results: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> dict[str, Interval]:
    """Returns each figure's interval; figures that could not be measured do not count."""
    values = {name: [r[name] for r in results if _is_number(r.get(name))] for name in metrics}
    return {name: mean_interval(np.asarray(numbers, float)) for name, numbers in values.items() if numbers}


def as_json(table: SweepTable) -> dict[str, Any]:
    """Returns the table as JSON values: "rows", and "others" without a result."""
    rows = [
        {
            "settings": row.settings,
            "n": row.n,
            "metrics": {
                name: {"mean": each.mean, "ci95": None if each.n == 1 else each.ci95, "n": each.n}
                for name, each in row.metrics.items()
            },
        }
        for row in table.rows
    ]
    others = [{"name": each.name, "state": each.state, "reason": each.reason} for each in table.others]
    return {"rows": rows, "pooled": list(table.pooled), "others": others}


def write_csv(table: SweepTable, file: Path) -> None:
    """Writes one line a row: settings, then each figure's mean, "_ci95" and "_n"; what is not there is empty."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*table.columns, *(f"{m}{end}" for m in table.metrics for end in ("", "_ci95", "_n"))])
    for row in table.rows:
        cells = [_shown(row.settings[path]) for path in table.columns]
        for name in table.metrics:
            each = row.metrics.get(name)
            cells += ["", "", "0"] if each is None else [repr(each.mean), _or_empty(each.ci95), str(each.n)]
        writer.writerow(cells)
    write_whole(file, lambda stream: stream.write(text.getvalue().encode()))


def _or_empty(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _text(value)


def cells(table: SweepTable) -> list[list[str]]:
    """Returns the table as text, its head first."""
    short = shortened(table.columns)
    head = [*(short[path] for path in table.columns), "n", *table.metrics]
    return [head, *(_cells(row, table) for row in table.rows)]


def _cells(row: Row, table: SweepTable) -> list[str]:
    return [
        *(_shown(row.settings[path]) for path in table.columns),
        str(row.n),
        *(_figure(name, row.metrics.get(name), row.n) for name in table.metrics),
    ]


def _figure(name: str, interval: Interval | None, n: int) -> str:
    from fsl_jax.evaluation import report

    if interval is None:
        return "–"
    figures = report.result_figures({name: interval.mean, f"{name}_ci95": interval.ci95})
    fewer = "" if interval.n == n else f" (n {interval.n})"
    return f"{next(iter(figures.rows.values()))}{fewer}"


def markdown(table: SweepTable) -> str:
    """Returns the table in Markdown."""
    head, *rows = [[cell.replace("|", r"\|") for cell in line] for line in cells(table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def told(table: SweepTable) -> list[str]:
    """Says over what means are taken, and names the runs without a result."""
    over = " and ".join(("seeds", *table.pooled))
    lines = [f"means over {over} ± half of the 95 % t-interval; n: runs"] if table.rows else []
    states = ("failed", "unfinished", "not started")
    for state in states:
        for each in table.others:
            if each.state == state:
                lines.append(f"{state}: {each.name}{f' ({each.reason})' if each.reason else ''}")
    return lines
