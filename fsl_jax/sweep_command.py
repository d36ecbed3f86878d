"""The commands `fsl-jax sweep run` and `fsl-jax sweep table`: flags only."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fsl_jax.search.commands import plainly

if TYPE_CHECKING:
    from fsl_jax.sweep import Run
    from fsl_jax.sweep_launch import Outcome

sweep_app = typer.Typer(
    help="Runs a config with several settings and seeds, and compares.", no_args_is_help=True
)

_OWN = (
    "config",
    "workdir",
    "mode",
    "distributed",
    "coordinator",
    "num_processes",
    "process_id",
    "connect_timeout",
)
"""Flags of `fsl_jax.main` that a sweep gives itself, or that its runs, which are single processes, do not have."""


@sweep_app.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@plainly
def run(
    context: typer.Context,
    config: Annotated[str, typer.Option("--config", help="Config with a preset, as for fsl_jax.main.")],
    root: Annotated[Path, typer.Option("--root", help="Folder of the sweep; each run gets one inside.")],
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Run each setting with so many seeds, from 0.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Runs at a time; 1 by default on this machine.")
    ] = None,
    launcher: Annotated[str, typer.Option("--launcher", help="local or slurm.")] = "local",
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            "--slurm", metavar="KEY=VALUE", help="Such as timeout_min=240, partition=gpu; repeatable."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands, and run nothing.")] = False,
) -> None:
    """Runs what get_sweep of a config file lists, or its seeds alone; stopped, the same command goes on.

    Fields of the config are given as for a run, and hold for all: --config.train.steps=500.

    Exit status: 0, 1 nothing could be done, 3 some runs failed, 130 Ctrl-C.
    """
    from fsl_jax import sweep, sweep_launch
    from fsl_jax.cli import parse_options

    if launcher not in ("local", "slurm"):
        raise ValueError(f"no launcher {launcher!r}: local or slurm")
    if slurm and launcher != "slurm":
        raise ValueError("--slurm is for --launcher slurm")
    options = parse_options(slurm)
    overrides, more = split_flags(context.args)
    runs = sweep.expand(config, root, overrides=overrides, more=more, seeds=seeds)
    sweep.check_root(root, config, overrides, runs)
    queued = sweep_launch.still_queued(sweep.known_jobs(root))
    left = [each for each in runs if each.state != "done" and each.name not in queued]
    done = sum(each.state == "done" for each in runs)
    typer.echo(f"runs: {len(runs)}, {done} done, {len(left)} to go{_in_queue(queued)}", err=True)
    if dry_run:
        for each in left:
            typer.echo(each.command)
        return
    with sweep_launch.locked(root) as lock:
        sweep.write_sweep(root, config, overrides, runs)
        if launcher == "slurm":
            if left:
                parallel = {} if jobs is None else {"array_parallelism": jobs}
                submitted = sweep_launch.submit(left, root, {**parallel, **options})
                sweep.write_sweep(root, config, overrides, runs, submitted)
                _say_submitted(root, submitted)
            return
        outcome = sweep_launch.run_locally(left, jobs=jobs or 1, lock=lock, say=_say)
    _end(root, runs, outcome)


@sweep_app.command("table")
@plainly
def table(
    root: Annotated[Path, typer.Option("--root", help="Folder of a sweep, or of any workdirs.")],
    by: Annotated[
        list[str] | None,
        typer.Option("--by", help="Setting that makes a row, such as learning_rate; repeatable."),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="Figure of result.json, such as mAP; repeatable.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table in Markdown.")] = False,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write a CSV file.")] = None,
) -> None:
    """Gathers every result below a folder: settings that differ, and means over seeds with 95 % intervals.

    Exit status: 0, 1 there are no runs.
    """
    from fsl_jax import sweep_table

    if json + markdown + (csv is not None) > 1:
        raise ValueError("give one of --json, --markdown and --csv")
    made = sweep_table.tabulate(sweep_table.gather(root), by=by or (), metrics=metric or ())
    if json:
        import json as json_format

        typer.echo(json_format.dumps(sweep_table.as_json(made), ensure_ascii=False, indent=2))
        return
    if csv is not None:
        sweep_table.write_csv(made, csv)
        typer.echo(f"{csv}: {len(made.rows)} rows")
    elif markdown:
        typer.echo(sweep_table.markdown(made))
    else:
        _print(sweep_table.cells(made))
    for line in sweep_table.told(made):
        typer.echo(line, err=True)


def split_flags(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Parts overrides of the config from other flags of a run.

    Args:
      given: What is left of the command line: "--config.path=value", "--config.path value" or "--name=value".

    Raises:
      ValueError: It is no flag of a run, or one that a sweep gives itself.

    Example:
      >>> split_flags(["--config.train.steps", "5", "--cpu_devices=1"])
      (['--config.train.steps=5'], ['--cpu_devices=1'])
    """
    overrides: list[str] = []
    more: list[str] = []
    left = list(given)
    while left:
        argument = left.pop(0)
        if re.match(r"--?(no)?config\.", argument):
            takes_next = "=" not in argument and left and not left[0].startswith("--")
            overrides.append(f"{argument}={left.pop(0)}" if takes_next else argument)
        else:
            _check_flag(argument)
            more.append(argument)
    return overrides, more


def _check_flag(argument: str) -> None:
    """Checks a flag of `fsl_jax.main` besides the config's."""
    from fsl_jax.main import FLAGS

    name, _, value = argument.removeprefix("--").partition("=")
    known = [flag.name for flag in FLAGS.flags_by_module_dict()["fsl_jax.main"] if flag.name not in _OWN]
    if not argument.startswith("--") or name not in known:
        raise ValueError(
            f"{argument!r} is no flag of a sweep or of its runs: options are given as --config.part.name=value"
        )
    try:
        FLAGS[name].parser.parse(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{argument}: {error}; write --{name}=VALUE") from error


def _in_queue(queued: Sequence[str]) -> str:
    return f", {len(queued)} in SLURM's queue" if queued else ""


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _say_submitted(root: Path, submitted: dict[str, str]) -> None:
    first = next(iter(submitted.values())).partition("_")[0]
    _say(f"submitted {len(submitted)} runs as job {first}; each run's output.log lies in its folder")
    _say(f"look: squeue --job {first}; results: fsl-jax sweep table --root {root}")


def _end(root: Path, runs: Sequence["Run"], outcome: "Outcome") -> None:
    done = sum(each.state == "done" for each in runs)
    _say(f"{done} of {len(runs)} runs done; results: fsl-jax sweep table --root {root}")
    for name, reason in outcome.failed.items():
        _say(f"failed: {name}: {reason}")
    if outcome.asked_by is not None:
        _say(f"{outcome.asked_by.name}: the same command continues from there")
        raise typer.Exit(130 if outcome.asked_by.name == "SIGINT" else 0)
    if outcome.failed:
        _say("the same command tries them again")
        raise typer.Exit(3)


def _print(cells: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    head, *rows = cells
    made = Table(*head)
    for row in rows:
        made.add_row(*row)
    Console().print(made)
