"""The command `fsl-jax one-shot`: flags, and what it prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fsl_jax.search.commands import plainly

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from fsl_jax.evaluation.one_shot import Classify, OneShotError

RUNS_AT_ONCE = 10
BASELINE = "modified Hausdorff distance"


@plainly
def one_shot(
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder of Omniglot, from which runs are drawn.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Or Lake's official runs: all_runs.zip, or its folder.")
    ] = None,
    workdir: Annotated[
        Path | None, typer.Option("--workdir", help="A training run on Omniglot; without, the baseline.")
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option("--repeats", min=1, help="Drawn runs of each of ten alphabets; 2 by default."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the drawn runs; 0 by default.")] = None,
    validation: Annotated[
        bool,
        typer.Option(
            "--validation", help="Draw from the ten evaluation alphabets that Lake's runs leave out."
        ),
    ] = False,
    views: Annotated[
        int,
        typer.Option(
            "--views", min=0, help="Further views of each drawing, changed as in training, that vote too."
        ),
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON record.")] = False,
) -> None:
    """Judges within-alphabet 20-way one-shot classification in the way of Lake: the error over runs, with its interval.

    Without --workdir it judges the modified Hausdorff distance, which has learnt nothing.

    Exit status: 0, 1 nothing could be done.
    """
    from fsl_jax import machine

    machine.use_compilation_cache()
    from fsl_jax.evaluation import one_shot as judging

    if (root is None) == (runs is None):
        raise ValueError("give either --root, a folder of Omniglot, or --runs, Lake's official runs")
    if runs is not None and (validation or repeats is not None or seed is not None):
        raise ValueError("--validation, --repeats and --seed go with --root: official runs are as they are")
    repeats, seed = repeats or 2, seed or 0
    if views and workdir is None:
        raise ValueError("--views are changed as in training: give the --workdir of a run")
    drawn: dict[str, Any] = {"side": 105}
    classify: Classify = judging.modified_hausdorff
    method = BASELINE
    if workdir is not None:
        config, classify = _learnt(workdir, views)
        options = config.data.omniglot
        drawn = {name: options[name] for name in ("inverted", "centred", "resample")}
        drawn["side"] = config.data.size
        method = config.algorithm.name
    if runs is not None:
        trials = judging.read_runs(runs, **drawn)
    else:
        alphabets = judging.OTHERS if validation else judging.ALPHABETS
        trials = judging.draw_runs(root or Path(), alphabets=alphabets, repeats=repeats, seed=seed, **drawn)
    error = judging.judge(trials, classify)
    kind = "validation alphabets" if validation else "Lake's alphabets"
    rule = f"{runs}" if runs is not None else f"drawn of {kind}, seed {seed}, {repeats} an alphabet"
    record = {
        "method": method,
        "runs": len(trials),
        "views": views,
        "rule": rule,
        "error": error.mean,
        **({"error_ci95": error.ci95} if len(trials) > 1 else {}),
        "error_of_chance": 1 - 1 / trials.support.shape[1],
        "by_name": error.by_name(),
    }
    if json:
        import json as json_format

        typer.echo(json_format.dumps(record))
    else:
        _print(record, error)


def _learnt(workdir: Path, views: int) -> "tuple[ConfigDict, Classify]":
    """Loads a run as a function from the drawings of several runs to its answers, and its config.

    With views, each drawing is also seen changed as in training, so many times, and probabilities are averaged.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from fsl_jax.data.augment import Augment, prepare_episode
    from fsl_jax.run import restored
    from fsl_jax.sampling.keys import named_key
    from fsl_jax.types import Batch, Episode

    run, variables = restored(workdir)
    if run.config.data.source != "omniglot":
        raise ValueError(f"{workdir} was trained on {run.config.data.source}: one-shot runs are of Omniglot")
    if (rule := run.config.data.omniglot.split_rule) != "lake":
        told = f"warning: split rule {rule!r} may have dealt characters of the evaluation alphabets into training"
        typer.echo(f"{told}: this is no test of new ones", err=True)

    augment = Augment(**run.config.augment)
    key = named_key(run.config.eval.seed, "views")

    @jax.jit
    def answers(support: Any, query: Any) -> Any:
        way = support.shape[1]
        label, none = jnp.arange(way), jnp.zeros(query.shape[:2], jnp.int32)
        episode = Episode(
            Batch(support, jnp.broadcast_to(label, support.shape[:2])), Batch(query, none), way=way
        )

        def seen(key: Any) -> Any:
            prepared = prepare_episode(episode, run.preprocess, augment, key)
            return jax.nn.softmax(run.algorithm.predict(variables, prepared), axis=2)

        keys = jax.random.split(key, views)
        votes, _ = jax.lax.scan(lambda total, key: (total + seen(key), None), seen(None), keys)
        return jnp.argmax(votes, axis=2)

    def classify(support: Any, query: Any) -> Any:
        if run.algorithm.way not in (None, support.shape[1]):
            raise ValueError(
                f"the head of {workdir} has {run.algorithm.way} labels, but a run has {support.shape[1]}: train with "
                f"--config.episode.way={support.shape[1]}"
            )
        if run.preprocess.channels == 3:
            support, query = (np.repeat(drawings, 3, axis=-1) for drawings in (support, query))
        starts = range(0, len(support), RUNS_AT_ONCE)
        parts = [answers(support[i : i + RUNS_AT_ONCE], query[i : i + RUNS_AT_ONCE]) for i in starts]
        return np.concatenate(parts)

    return run.config, classify


def _print(record: dict[str, Any], error: "OneShotError") -> None:
    from rich.console import Console
    from rich.table import Table as Shown

    shown = Shown("alphabet or run", "error", title=f"{record['method']}: within-alphabet 20-way one-shot")
    for name, value in record["by_name"].items():
        shown.add_row(name, f"{value:.1%}")
    shown.add_section()
    interval = f" ± {100 * error.ci95:.1f}" if record["runs"] > 1 else ""
    shown.add_row(f"mean of {record['runs']} run{'s' * (record['runs'] > 1)}", f"{error.mean:.1%}{interval}")
    Console().print(shown)
    typer.echo(f"runs: {record['rule']}; chance errs in {record['error_of_chance']:.0%}")
