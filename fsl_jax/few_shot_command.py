"""The command `fsl-jax few-shot`: flags, and what it prints."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fsl_jax.search.commands import plainly

if TYPE_CHECKING:
    from fsl_jax.data.table import Table
    from fsl_jax.embedder import Embedder
    from fsl_jax.evaluation.calibrated import BaseLabels


@plainly
def few_shot(
    features: Annotated[
        Path | None, typer.Option("--features", help="Features that fsl-jax embed wrote.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="Or a data source, whose photos are embedded.")
    ] = None,
    root: Annotated[str | None, typer.Option("--root", help="Folder or file that the source reads.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Published weights that embed them: efficientnet_lite0 by default."),
    ] = None,
    workdir: Annotated[
        list[Path] | None,
        typer.Option("--workdir", help="Or a training run; repeatable: their embeddings are joined."),
    ] = None,
    fit: Annotated[
        str, typer.Option("--fit", help="How --model gets its squares: pad, crop or stretch.")
    ] = "pad",
    size: Annotated[
        int, typer.Option("--size", min=0, help="Pixels a side that --model gets; 0 for its own.")
    ] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="Option of the source; repeatable."),
    ] = None,
    base: Annotated[
        str, typer.Option("--base", help="Split whose labels distribution-calibration borrows from.")
    ] = "train",
    novel: Annotated[str, typer.Option("--novel", help="Split that episodes are drawn from.")] = "test",
    classifier: Annotated[
        list[str] | None,
        typer.Option(
            "--classifier",
            help="prototype, 1-nn, k-nn, logistic or distribution-calibration; repeatable. By default the first and "
            "the last.",
        ),
    ] = None,
    way: Annotated[int, typer.Option("--way", min=2, help="Labels an episode.")] = 5,
    shot: Annotated[
        list[int] | None, typer.Option("--shot", min=1, help="Support photos a label; repeatable. 1 and 5.")
    ] = None,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Query photos a label.")] = 15,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="Episodes of each line.")] = 10_000,
    seed: Annotated[int, typer.Option("--seed", help="Of the episodes and draws.")] = 0,
    normalise: Annotated[
        bool, typer.Option("--normalise/--no-normalise", help="Scale features to length 1 first.")
    ] = True,
    power: Annotated[
        float, typer.Option("--power", help="Power that support and queries are raised to; 1: as they are.")
    ] = 1.0,
    neighbours: Annotated[int, typer.Option("--neighbours", min=1, help="Photos that vote, of k-nn.")] = 3,
    nearest: Annotated[
        int, typer.Option("--nearest", min=1, help="Base labels that a support photo borrows from.")
    ] = 2,
    alpha: Annotated[
        float, typer.Option("--alpha", min=0, help="Added to every entry of a covariance.")
    ] = 0.21,
    draws: Annotated[int, typer.Option("--draws", min=1, help="Draws a label.")] = 750,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON record a line.")] = False,
) -> None:
    """Judges few-shot classifiers on frozen features: accuracy over thousands of episodes, with 95 % intervals.

    Exit status: 0, 1 nothing could be done.
    """
    from fsl_jax import machine

    machine.use_compilation_cache()
    machine.use_cpu_devices(0)
    import jax

    from fsl_jax.evaluation import frozen
    from fsl_jax.evaluation.calibrated import DistributionCalibration
    from fsl_jax.mesh import data_mesh

    names, shots = classifier or ["prototype", frozen.CALIBRATION], shot or [1, 5]
    calibration = DistributionCalibration(nearest=nearest, alpha=alpha, draws=draws)
    if frozen.CALIBRATION in names:
        calibration.check(shots)
    classifiers = {
        name: frozen.classifier(name, neighbours=neighbours, calibration=calibration) for name in names
    }
    borrows = frozen.CALIBRATION in names
    splits = "+".join(dict.fromkeys(f"{base}+{novel}".split("+"))) if borrows else novel
    both = _read(features, source, root, option, splits, model, workdir, fit, size)
    judged = frozen.with_features(both.select(novel), normalise=normalise, power=power)
    borrowed = None
    if borrows:
        borrowed = _base(
            frozen.with_features(both.select(base), normalise=normalise, power=1.0), judged, nearest
        )
    mesh, rows = data_mesh(jax.device_count()), []
    for name in names:
        for count in shots:
            table, left_out = frozen.enough_photos(judged, way=way, photos=count + queries)
            if left_out and name == names[0]:
                _say(f"{count}-shot: {left_out} labels with fewer than {count + queries} photos are left out")
            settings = {"way": way, "shot": count, "queries": queries, "episodes": episodes, "seed": seed}
            figures = frozen.judge(table, classifiers[name], borrowed, mesh=mesh, **settings)
            row = frozen.as_row(name, figures, **settings, labels=len(table.label.names))
            rows.append(row)
            if json:
                import json as json_format

                typer.echo(json_format.dumps(row))
    if not json:
        _print(rows)


def _read(
    features: Path | None,
    source: str | None,
    root: str | None,
    option: list[str] | None,
    split: str,
    model: str | None,
    workdirs: list[Path] | None,
    fit: str,
    size: int,
) -> "Table":
    """Reads features, or takes them of a source's photos, of each model scaled to length 1 where there are several."""
    from fsl_jax.cli import parse_options
    from fsl_jax.data.source import load_source

    if (features is None) == (source is None):
        raise ValueError(
            "give either --features, or --source with the --model or --workdir that embeds its photos"
        )
    options = parse_options(option)
    if source is None:
        if root is not None or model is not None or workdirs or size:
            raise ValueError(
                "--root, --model, --size and --workdir go with --source: features are embedded already"
            )
        return load_source("features", str(features), split, options)
    import jax

    from fsl_jax.embedder import features_of
    from fsl_jax.evaluation import frozen
    from fsl_jax.mesh import data_mesh
    from fsl_jax.search.models import load_model, spec_of

    table = load_source(source, root, split, options)
    if table.has_features:
        raise ValueError(f"source {source!r} gives features: name their file with --features")
    models = [load_model(spec_of(model=None, workdir=workdir, fit=fit)) for workdir in workdirs or []]
    if model is not None or not models:
        models.append(_of_size(load_model(spec_of(model=model, workdir=None, fit=fit)), size))
    elif size:
        raise ValueError("--size is of --model: a run's photos have its own size")
    mesh = data_mesh(jax.device_count())
    tables = [features_of(embedder, table, mesh=mesh, block=32) for embedder in models]
    return tables[0] if len(tables) == 1 else frozen.joined(tables)


def _of_size(embedder: "Embedder", size: int) -> "Embedder":
    """Lets a published network take smaller or larger photos than it was trained on."""
    if not size:
        return embedder
    preprocess = dataclasses.replace(embedder.preprocess, size=size)
    return dataclasses.replace(embedder, preprocess=preprocess, digest=f"{embedder.digest}, {size} px")


def _base(base: "Table", judged: "Table", nearest: int) -> "BaseLabels":
    """Measures the base labels, and says what is amiss with them."""
    from fsl_jax.evaluation.calibrated import BaseLabels

    names, counts = base.label.names, base.label.counts()
    if len(names) < nearest:
        raise ValueError(
            f"the base split has {len(names)} labels, but a support photo borrows from {nearest}: lower --nearest, or "
            "take another --base"
        )
    if seen := len(set(names) & set(judged.label.names)):
        _say(f"warning: {seen} novel labels are base labels too: this is no test of new ones")
    if single := int((counts == 1).sum()):
        _say(f"note: {single} of {len(names)} base labels have a single photo, and with it the covariance 0")
    assert base.images is not None
    return BaseLabels.of(base.images.reshape(len(base), -1), base.label.codes)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _print(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Column
    from rich.table import Table as Shown

    name = Column("classifier", no_wrap=True)
    shown = Shown(name, "way", "shot", "accuracy, 95 % interval", "episodes", "episodes a second")
    for row in rows:
        interval = f" ± {100 * row['ci95']:.2f}" if "ci95" in row else ""
        shown.add_row(
            row["classifier"],
            str(row["way"]),
            str(row["shot"]),
            f"{100 * row['accuracy']:.2f}{interval} %",
            f"{row['episodes']:,}",
            f"{row['episodes_a_second']:,.1f}",
        )
    Console().print(shown)
