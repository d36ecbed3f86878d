"""The console script fsl-jax: flags only; each command is one call."""

import ast
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from fsl_jax.few_shot_command import few_shot
from fsl_jax.one_shot_command import one_shot
from fsl_jax.search import commands as search_commands
from fsl_jax.search import few_shot_commands
from fsl_jax.serving import commands as serving_commands
from fsl_jax.serving import export_command
from fsl_jax.sweep_command import sweep_app

app = typer.Typer(
    help="Few-shot learning and image retrieval.", no_args_is_help=True, pretty_exceptions_show_locals=False
)

Source = Annotated[str, typer.Option("--source", help="Data source, such as image_folder or omniglot.")]
Root = Annotated[str | None, typer.Option("--root", help="Folder or file that the source reads.")]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option", metavar="KEY=VALUE", help="Option of the source, such as min_photos=2; repeatable."
    ),
]


@contextmanager
def plain_errors() -> Iterator[None]:
    """Ends a command whose input is wrong with one line on stderr and status 1; use it as a decorator too."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(1) from error


def parse_options(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Reads "key=value" pairs.

    Values are Python literals where they can be: numbers, True, None, (0.8, 0.1, 0.1), {"train": "train"}.
    Anything else is text, or several texts where it has commas.

    Raises:
      ValueError: A pair has no "=", or a key is there twice.

    Example:
      >>> parse_options(["min_photos=2", "levels=category,subcategory", "name=cifar100"])
      {'min_photos': 2, 'levels': ('category', 'subcategory'), 'name': 'cifar100'}
    """
    options: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"option {pair!r} is not key=value, such as min_photos=2")
        if key in options:
            raise ValueError(f"option {key!r} is given twice; keep one")
        options[key] = _value(value)
    return options


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):  # not a literal: plain text
        return tuple(text.split(",")) if "," in text else text


@app.command()
@plain_errors()
def validate(
    source: Source,
    root: Root = None,
    shot: Annotated[
        int | None, typer.Option(min=0, help="Support photos a label that episodes need.")
    ] = None,
    query: Annotated[int | None, typer.Option(min=0, help="Query photos a label that episodes need.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
    option: Options = None,
) -> None:
    """Looks every photo of a data set over: broken files, equal photos, rare labels, queries without a match.

    Exit status: 0 no problems, 1 the set cannot be read at all, 2 wrong usage, 3 problems were found.
    """
    from fsl_jax.data.source import ALL_SPLITS, load_source, skipped_by
    from fsl_jax.data.validate import validate as look_over

    options = parse_options(option)
    table = load_source(source, root, ALL_SPLITS, options)
    report = look_over(table, shot=shot, query=query, skipped=skipped_by(source, root, options))
    if json:
        import json as json_format

        typer.echo(json_format.dumps(report.as_json(), ensure_ascii=False, indent=2))
    else:
        from rich.console import Console

        from fsl_jax.data.report import print_report

        print_report(report, Console())
    if report.problems:
        raise typer.Exit(3)


@app.command()
@plain_errors()
def prepare(source: Source, root: Root = None, option: Options = None) -> None:
    """Downloads, draws or converts a data set, or says what to get, from where, and where to put it."""
    from fsl_jax.data.prepare import prepare as put_in_place

    typer.echo(put_in_place(source, root, parse_options(option)))


@app.command()
@plain_errors()
def embed(
    source: Source,
    out: Annotated[Path, typer.Option("--out", help="The .npz file to write.")],
    root: Root = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Published weights: efficientnet_lite0, resnet50, or a file."),
    ] = None,
    workdir: Annotated[Path | None, typer.Option("--workdir", help="Or a training run.")] = None,
    split: Annotated[
        str, typer.Option("--split", help="Splits joined by +; all by default.")
    ] = "train+val+test",
    fit: Annotated[
        str, typer.Option("--fit", help="How --model gets its squares: pad, crop or stretch.")
    ] = "pad",
    block: Annotated[int, typer.Option("--block", min=1, help="Photos at once on each device.")] = 32,
    option: Options = None,
) -> None:
    """Embeds every photo of a source on all devices, and writes embedding, path, label, split and the model's digest.

    Stopped at any moment, the same command goes on where it was. Photos that cannot be read are named and left out.
    """
    from fsl_jax import embedder
    from fsl_jax.data.source import load_source

    if (model is None) == (workdir is None):
        raise ValueError("give either --model or --workdir")
    table = load_source(source, root, split, parse_options(option))
    if workdir is not None:
        from fsl_jax.run import embedder_of

        made = embedder_of(workdir)
    else:
        made = embedder.published(str(model), fit=fit)
    done = embedder.embed_to_file(made, table, out, block=block)
    for photo, reason in done["unreadable"]:
        typer.echo(f"left out {photo}: {reason}", err=True)
    typer.echo(
        f"{out}: {done['photos'] - len(done['unreadable']):,} photos, {done['photos_a_second']:.1f} photos/s"
    )


@app.command()
@plain_errors()
def predict(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Photos, or folders of photos.")],
    workdir: Annotated[Path, typer.Option("--workdir", help="A training run of hierarchy or attributes.")],
    top: Annotated[int, typer.Option("--top", min=1, help="Names of each level.")] = 1,
    threshold: Annotated[
        float,
        typer.Option("--threshold", min=0, max=1, help="Probability from which on attributes are named."),
    ] = 0.5,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON record a photo, a line each.")] = False,
) -> None:
    """Says what photos show: category, subcategory and attributes, with their probabilities.

    Exit status: 0, 1 nothing could be done, 3 some photos could not be read.
    """
    from fsl_jax.data.source import photos_in
    from fsl_jax.run import predictor_of

    files = photos_in(photos)
    predictions = predictor_of(workdir)(files, top=top, threshold=threshold)
    broken = 0
    if json:
        import json as json_format

        for prediction in predictions:
            broken += prediction.error is not None
            typer.echo(json_format.dumps(prediction.as_json(), ensure_ascii=False))
    else:
        from rich.console import Console

        from fsl_jax.predictor import as_table

        done = list(predictions)
        broken = sum(prediction.error is not None for prediction in done)
        Console().print(as_table(done))
    if broken:
        typer.echo(f"{broken} of {len(files)} photos could not be read", err=True)
        raise typer.Exit(3)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@plain_errors()
def profile(
    context: typer.Context,
    config: Annotated[str, typer.Option("--config", help="Config with a preset, as for fsl_jax.main.")],
    calls: Annotated[
        int, typer.Option(min=0, help="Timed calls of the compiled steps; 0 only compiles.")
    ] = 5,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="Folder for a trace, for TensorBoard or Perfetto.")
    ] = None,
    cpu_devices: Annotated[int, typer.Option("--cpu-devices", min=0, help="As for fsl_jax.main.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Says what a training step costs: arithmetic, bytes, memory, compile time, seconds.

    Fields of the config are given as for a run: --config.episode.tasks=8.
    """
    from fsl_jax.main import configured

    given = ["--config", config, f"--cpu_devices={cpu_devices}", *context.args]
    values, _, _ = configured(["fsl-jax profile", *given])
    from fsl_jax.profiling import as_table
    from fsl_jax.profiling import profile as measure

    if values is None:
        raise ValueError("give a --config, such as configs/maml.py")
    figures = measure(values.lock(), calls=calls, trace=trace)
    if json:
        import json as json_format

        typer.echo(json_format.dumps(figures))
        return
    from rich.console import Console

    Console().print(as_table(figures))
    if trace is not None:
        typer.echo(f"trace: {trace}")


# Their modules import no more than typer before they are called.
app.add_typer(search_commands.index_app, name="index")
app.add_typer(sweep_app, name="sweep")
app.command()(search_commands.search)
app.command()(few_shot)
app.command()(one_shot)
app.command()(few_shot_commands.classify)
app.command()(few_shot_commands.enrol)
app.command()(serving_commands.serve)
app.command()(plain_errors()(export_command.export))
