"""Runs rows, and keeps what came out: one JSON file a row, in `records/`."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from benchmarks.reproduce.rows import HERE, Row

# Of scripts that judge by many drawn runs or episodes: few of each, to prove that they work. A kept row has all.
SHORT = {"REPEATS": "1", "EPISODES": "8"}
CURVES = ("eval/accuracy", "eval/mAP", "eval/knn")


def short(row: Row) -> list[str]:
    """Returns the flags of a run of two steps, which proves that a row's command works."""
    fields = {"steps": 2, "steps_per_call": 1, "log_every": 1, "save_every": 2}
    flags = [f"--config.train.{name}={value}" for name, value in fields.items()]
    flags += [
        "--config.data.catalogue.labels=200",
        "--config.eval.every=0",
        "--config.eval.episodes_during=0",
        "--config.eval.grid.ways=()",
    ]
    if all(figure.place[1] in ("accuracy", "error") for figure in row.figures):
        flags += ["--config.eval.episodes=8", "--config.eval.retrieval=False"]
    return flags


def run(
    row: Row,
    runs: Path,
    flags: list[str],
    *,
    seeds: tuple[int, ...],
    environment: dict[str, str] | None = None,
) -> None:
    """Runs a row's script; stopped, the same call goes on where it was.

    Args:
      environment: What the script is given besides.

    Raises:
      ValueError: Its data is not named, or its script fails.
    """
    if missing := row.missing():
        told = " and ".join(f"{name}=FOLDER" for name in missing)
        raise ValueError(
            f"{row.name} needs data: set {told} in the environment; see the head of {row.script}"
        )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    own = {name: value for name, value in os.environ.items() if name not in SHORT}
    given = {**own, "RUNS": str(runs), "SEEDS": " ".join(map(str, seeds)), "PATH": path}
    given |= environment or {}
    done = subprocess.run(["bash", str(row.script), row.variant, *flags], cwd=HERE.parents[1], env=given)
    if done.returncode:
        raise ValueError(f"{row.name} ended with status {done.returncode}; what it said stands above")


def gather(row: Row, runs: Path, *, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Reads what a row's runs left.

    Returns:
      "figures": values of each key, a seed each; "within": the 95 % intervals that runs state of themselves;
      "curves": of the first seed, [step, value] of each logged figure; seconds, commit, device, date.

    Raises:
      ValueError: A result is not there, or has not the figure.
    """
    figures: dict[str, list[float]] = {figure.key: [] for figure in row.figures}
    within: dict[str, list[float]] = {}
    seconds = []
    for seed in seeds:
        folder = row.folder(runs, seed)
        for figure in row.figures:
            file, name = figure.place
            result = _read(folder / file)
            if result.get(name) is None:
                raise ValueError(f"{folder / file} has no figure {name!r}: the head of {row.script} is wrong")
            figures[figure.key].append(result[name])
            # `fsl-jax few-shot` has one accuracy a line, and its interval beside it.
            interval = result.get(f"{name}_ci95", result.get("ci95") if name == "accuracy" else None)
            if interval is not None:
                within.setdefault(figure.key, []).append(interval)
        of_run = folder / "result.json"
        seconds.append(_read(of_run).get("seconds") if of_run.exists() else None)
    return {
        "row": row.name,
        "seeds": list(seeds),
        "figures": figures,
        "within": within,
        "curves": _curves(row.folder(runs, seeds[0]) / "metrics.jsonl"),
        "seconds": seconds,
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        "jax": jax.__version__,
    }


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise ValueError(f"no {file}: the run has not ended")
    return json.loads(file.read_text())


def _curves(log: Path) -> dict[str, list[list[float]]]:
    curves: dict[str, list[list[float]]] = {}
    for line in log.read_text().splitlines() if log.exists() else []:
        record = json.loads(line)
        for name in CURVES:
            if name in record:
                curves.setdefault(name, []).append([record["step"], record[name]])
    return curves


def _commit() -> str:
    """Returns the checkout's commit, with + behind it where files differ from it; "unknown" without one."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "fsl_jax", "configs", "*.sh")
    return f"{commit}{'+' if changed else ''}" if commit else "unknown"
