"""The folder of a run: its config, what it may be continued with, and what a judgement leaves in it."""

import json
import math
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fsl_jax import distributed
from fsl_jax.config import as_json, base_config, differences
from fsl_jax.data.cache import write_whole

FREE_TO_CHANGE = ("train.steps",)
FREE_IN_EVALUATION = (
    "train.", "eval.", "data.root", "data.min_photos", "data.unreadable", "data.resident_gb", "data.reading_threads",
    "data.steps_ahead",
)  # fmt: skip
SHOWN = (
    "accuracy", "accuracy_ci95", "chance", "way", "shot", "queries", "episodes", "norm_mode", "transductive",
    "eval_inner_steps", "loss", "mining", "heads", "fusion", "labels_seen_in_training", "embedding", "mAP",
    "mAP_of_chance", "R@1", "R@5", "consistency", "hierarchical_precision", "checkpoint_step", "steps", "seconds",
)  # fmt: skip
"""Figures of the table that a run ends with; result.json and the report have all."""
SHOWN_OF_EACH = ("accuracy", "f1", "auc", "ap")
"""The same of each level of categories, and of the attributes, such as "subcategory/f1"."""


def open_workdir(config: ConfigDict, workdir: Path) -> None:
    """Makes a workdir, or checks that an old one belongs to the same config; of several processes the first does.

    Raises:
      ValueError: It was made with another config; the message says where they differ.
      OSError: It cannot be written.
    """
    distributed.by_first(lambda: _open(config, workdir))
    if not (workdir / "config.json").exists():
        raise ValueError(
            f"{workdir} is not the same folder in all processes: give a --workdir that they share"
        )


def _open(config: ConfigDict, workdir: Path) -> None:
    if (workdir / "config.json").exists():
        different = differences(as_json(kept_config(workdir)), as_json(config), but=FREE_TO_CHANGE)
        if different:
            raise ValueError(
                f"{workdir} was made with another config ({'; '.join(different)}): "
                "choose another --workdir, or remove this one"
            )
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "config.json", as_json(config))


def kept_config(workdir: Path) -> ConfigDict:
    """Reads the config of a run; fields that are younger than the run have their defaults.

    Raises:
      ValueError: There is no run in the workdir.
    """
    file = workdir / "config.json"
    if not file.exists():
        raise ValueError(
            f"no run in {workdir} (config.json is missing): give the --workdir of a training run"
        )
    config = ConfigDict(as_json(base_config()))
    with config.ignore_type():
        config.update(json.loads(file.read_text()))
    return config


def config_for_evaluation(workdir: Path, config: ConfigDict | None) -> ConfigDict:
    """Returns the config with which a workdir is judged: its own, or one that changes how, not what.

    Raises:
      ValueError: `config` differs in more than that; the message says where.
    """
    kept = kept_config(workdir)
    if config is None:
        kept.train.devices = 0  # this machine may have fewer than the one that trained
        return kept
    different = differences(as_json(kept), as_json(config), but=FREE_IN_EVALUATION)
    if different:
        raise ValueError(f"{workdir} was made with another config: {'; '.join(different)}")
    return config


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Writes JSON whole or not at all; NaN, the figure of what could not be measured, becomes null."""
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    write_whole(file, lambda stream: stream.write((json.dumps(plain, indent=2) + "\n").encode()))


def keep_result(
    workdir: Path, result: dict[str, Any], parts: list[Any], command: list[str], *, kept_in: Path
) -> None:
    """Writes result.json and report.html, and prints the table.

    Args:
      workdir: Of the run, whose log has the curves.
      result: Figures by name.
      parts: Further parts of the report.
      command: As typed.
      kept_in: Folder of both files; it is made.
    """
    from rich.console import Console
    from rich.table import Table

    from fsl_jax.evaluation import report

    judged = "retrieval" if "mAP" in result else "categories and attributes"
    task = f"{result['way']}-way {result['shot']}-shot" if "way" in result else judged
    title = f"{result['method']} on {result['source']}, {task}"
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    write_json(kept_in / "result.json", result)
    figures = report.result_figures({name: value for name, value in result.items() if "/" not in name})
    log, file = workdir / "metrics.jsonl", kept_in / "report.html"
    curves = [c for c in report.curves_from_log(log) if not c.title.endswith("ci95")] if log.exists() else []
    note = report.environment_note(shlex.join(command), date=date)
    report.write(file, title, [figures, *curves, *parts, note])
    table = Table(title=title, show_header=False)
    of_each = [name for name in result if name.count("/") == 1 and name.split("/")[1] in SHOWN_OF_EACH]
    names = [name for name in (*SHOWN[:-3], *of_each, *SHOWN[-3:]) if name in result]
    shown = report.result_figures({name: result[name] for name in names})
    for row in shown.rows.items():
        table.add_row(*row)
    table.add_row("checkpoint", str(workdir / "checkpoints" / str(result["checkpoint_step"])))
    table.add_row("report", str(file))
    Console().print(table)


def seconds_so_far(workdir: Path) -> float:
    """Returns the time that earlier runs of a workdir took, as its result.json says; 0 without one."""
    file = workdir / "result.json"
    return float(json.loads(file.read_text()).get("seconds") or 0.0) if file.exists() else 0.0
