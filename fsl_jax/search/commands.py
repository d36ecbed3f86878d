"""Commands that build, change and search an index: flags only."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fsl_jax.data.table import Table
    from fsl_jax.search._adding import Reported
    from fsl_jax.search.index import Added, Index

CATALOGUE = "catalogue"
DRAWN = {"labels": 200, "photos": 5, "size": 96, "seed": 0}
"""Options of the built-in catalogue that need not be given."""

index_app = typer.Typer(help="Builds an index of photos, and changes it.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index.")]
Root = Annotated[str | None, typer.Option("--root", help="Folder or file that the source reads.")]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option", metavar="KEY=VALUE", help="Option of the source, such as min_photos=2; repeatable."
    ),
]
Split = Annotated[str, typer.Option("--split", help="Splits joined by +; all by default.")]
Where = Annotated[
    str, typer.Option("--where", help="Only photos whose columns say so, such as role=gallery.")
]
Block = Annotated[int, typer.Option("--block", min=1, help="Photos at once on each device.")]
Rate = Annotated[
    float,
    typer.Option(
        "--false-accept-rate",
        help="Share of pairs of different articles that the threshold may take for the same, above 0 and below 1.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def plainly(command: Callable[..., None]) -> Callable[..., None]:
    """Ends a command whose input is wrong with one line on stderr; see `cli.plain_errors`."""

    @functools.wraps(command)
    def run(*arguments: Any, **keywords: Any) -> None:
        from fsl_jax.cli import plain_errors  # which imports this module

        with plain_errors():
            command(*arguments, **keywords)

    return run


@index_app.command()
@plainly
def build(
    out: Annotated[Path, typer.Option("--out", metavar="INDEX", help="Folder to make.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="Published weights: efficientnet_lite0 by default, resnet50, or a file."
        ),
    ] = None,
    workdir: Annotated[Path | None, typer.Option("--workdir", help="Or a training run.")] = None,
    fit: Annotated[
        str, typer.Option("--fit", help="How --model gets its squares: pad, crop or stretch.")
    ] = "pad",
    source: Annotated[
        str,
        typer.Option(
            "--source", help="Data source, such as image_folder; the built-in catalogue by default."
        ),
    ] = CATALOGUE,
    root: Root = None,
    option: Options = None,
    split: Split = "train+val+test",
    where: Where = "",
    false_accept_rate: Rate = 0.01,
    block: Block = 32,
) -> None:
    """Makes an index of the photos of a source, and calibrates it where labels have several photos.

    Without --source it indexes the built-in catalogue, which is drawn.

    Exit status: 0, 1 nothing could be done, 3 some photos could not be read.
    """
    from fsl_jax.search import _filling
    from fsl_jax.search.models import load_model, spec_of

    spec = spec_of(model=model, workdir=workdir, fit=fit)
    _filling.check_rate(false_accept_rate)
    _filling.check_new(out)
    table = _table(source, root, option, split, where)
    index, added = _filling.build(out, load_model(spec), spec, table, block=block)
    _report(index, added)
    index = _filling.calibrate_where_possible(index, false_accept_rate=false_accept_rate)
    _say_calibration(index)
    _end(added)


@index_app.command()
@plainly
def add(
    index: Folder,
    photos: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PHOTO]...", help="Photos, or folders of photos, with --label."),
    ] = None,
    label: Annotated[str | None, typer.Option("--label", help="Label of the photos.")] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="Or a data source, such as image_folder.")
    ] = None,
    root: Root = None,
    option: Options = None,
    split: Split = "train+val+test",
    where: Where = "",
    false_accept_rate: Rate = 0.01,
    block: Block = 32,
) -> None:
    """Adds photos: those of a source, or files of one label; calibrates the index where it is not yet.

    Photos that are in the index already are named and left out, so that an interrupted command can be given again.

    Exit status: 0, 1 nothing could be done, 3 some photos could not be read.
    """
    from fsl_jax.search import _filling
    from fsl_jax.search.index import Index
    from fsl_jax.search.models import load_model

    _filling.check_rate(false_accept_rate)
    opened = Index.open(index)
    if bool(photos) == (source is not None) or bool(photos) != (label is not None):
        raise ValueError("give either photos with their --label, or --source")
    if source is not None:
        table = _table(source, root, option, split, where)
    else:
        from fsl_jax.data.source import photos_in

        table = _filling.photos_table(photos_in(photos or []), label or "")
    added = _filling.add(opened, load_model(opened.model), table, block=block)
    opened = Index.open(index)
    _report(opened, added)
    if opened.calibration is None:
        opened = _filling.calibrate_where_possible(opened, false_accept_rate=false_accept_rate)
        _say_calibration(opened)
    _end(added)


@index_app.command()
@plainly
def remove(
    index: Folder,
    id: Annotated[list[str] | None, typer.Option("--id", help="Photo to remove; repeatable.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="Label, all of whose photos to remove; repeatable.")
    ] = None,
) -> None:
    """Removes photos, by their ids or by their labels."""
    from fsl_jax.search.index import Index

    if not id and not label:
        raise ValueError("give what to remove: --id or --label")
    left, count = Index.open(index).remove(ids=id or (), labels=label or ())
    typer.echo(f"{index}: {count:,} photos removed, {len(left):,} left")


@index_app.command()
@plainly
def info(index: Folder, json: Json = False) -> None:
    """Says what an index holds, and of which model."""
    from fsl_jax.search.index import Index

    opened = Index.open(index)
    if json:
        import json as json_format

        typer.echo(json_format.dumps(opened.info(), ensure_ascii=False, indent=2))
        return
    from rich.console import Console

    from fsl_jax.search._results import info_table

    Console().print(info_table(opened))


@index_app.command()
@plainly
def calibrate(
    index: Folder,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", help="Photos like those that will be asked about; the index's own by default."
        ),
    ] = None,
    root: Root = None,
    option: Options = None,
    split: Split = "train+val+test",
    where: Where = "",
    false_accept_rate: Rate = 0.01,
    block: Block = 32,
) -> None:
    """Calibrates an index anew, such as after many photos were added or for another false-accept rate.

    Best with --source: labelled photos that are not in the index and look like those that will be asked about.

    Exit status: 0, 1 nothing could be done, 3 some photos could not be read.
    """
    from fsl_jax.search import _filling, _results
    from fsl_jax.search.index import Index
    from fsl_jax.search.models import load_model

    _filling.check_rate(false_accept_rate)
    opened = Index.open(index)
    broken: list[Reported] = []
    if source is None:
        opened = _filling.calibrate(opened, false_accept_rate=false_accept_rate)
    else:
        opened, broken = _filling.calibrate_with(
            opened,
            load_model(opened.model),
            _table(source, root, option, split, where),
            false_accept_rate=false_accept_rate,
            block=block,
        )
    for line in _results.listed(broken):
        typer.echo(line, err=True)
    _say_calibration(opened)
    if opened.calibration is None:
        raise typer.Exit(1)
    if broken:
        raise typer.Exit(3)


@plainly
def search(
    index: Folder,
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTO_OR_FOLDER...", help="Photos, or folders of photos.")
    ],
    k: Annotated[int, typer.Option("--k", min=1, help="Labels a photo.")] = 10,
    engine: Annotated[str, typer.Option("--engine", help="exact, faiss or milvus.")] = "exact",
    engine_option: Annotated[
        list[str] | None,
        typer.Option("--engine-option", metavar="KEY=VALUE", help="Option of the engine; repeatable."),
    ] = None,
    expand: Annotated[
        int,
        typer.Option("--expand", min=0, help="Search again with the query and so many photos found first."),
    ] = 0,
    rerank: Annotated[
        int,
        typer.Option(
            "--rerank", min=0, help="Order so many candidates, such as 100, by the neighbours they share."
        ),
    ] = 0,
    whiten: Annotated[
        int, typer.Option("--whiten", min=0, help="Make so many directions of the embeddings vary alike.")
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON record a photo, a line each.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with the pictures.")] = None,
) -> None:
    """Finds what photos show: the labels whose photos are nearest, each with its nearest photo.

    --expand, --rerank and --whiten look a second time, without a model; with several photos a label they may find more.

    Exit status: 0, 1 nothing could be done, 3 some photos could not be read.
    """
    import shlex
    import sys

    from fsl_jax.cli import parse_options
    from fsl_jax.data.source import photos_in
    from fsl_jax.search import _results
    from fsl_jax.search.searching import Refinement, open_searcher

    if json and html is not None:
        raise ValueError("give either --json or --html")
    files = photos_in(photos)
    refinement = Refinement(expand=expand, rerank=rerank)
    searcher = open_searcher(
        index, engine=engine, refinement=refinement, whiten=whiten, **parse_options(engine_option)
    )
    calibration, found = searcher.calibration, []
    with contextlib.closing(searcher.engine):
        for each in _results.search_photos(searcher, files, k=k):
            found.append(each)
            if json:
                import json as json_format

                typer.echo(json_format.dumps(each.as_json(calibration), ensure_ascii=False))
    if html is not None:
        from fsl_jax.evaluation import report

        parts = _results.as_parts(found, searcher, shlex.join(sys.argv))
        report.write(html, f"Nearest articles in {index}", parts)
        typer.echo(f"{html}: {len(found)} photos")
    elif not json:
        from rich.console import Console

        Console().print(_results.as_table(found, calibration))
        typer.echo(_results.told(calibration))
    broken = sum(each.error is not None for each in found)
    if broken:
        typer.echo(f"{broken} of {len(files)} photos could not be read", err=True)
        raise typer.Exit(1 if broken == len(files) else 3)


def _table(source: str, root: str | None, option: list[str] | None, split: str, where: str) -> "Table":
    from fsl_jax.cli import parse_options
    from fsl_jax.data.filter import matching
    from fsl_jax.data.source import load_source

    options = parse_options(option)
    return matching(
        load_source(source, root, split, {**DRAWN, **options} if source == CATALOGUE else options), where
    )


def _report(index: "Index", added: "Added") -> None:
    from fsl_jax.search import _results

    for line in (*_results.listed(added.unreadable), *_results.listed(added.duplicates)):
        typer.echo(line, err=True)
    labels = len(set(index.labels.tolist()))
    typer.echo(f"{index.folder}: {added.added:,} photos added; {len(index):,} photos of {labels:,} labels")


def _say_calibration(index: "Index") -> None:
    from fsl_jax.search import _results

    typer.echo(f"{index.folder}: {_results.told(index.calibration)}")


def _end(added: "Added") -> None:
    if added.unreadable:
        raise typer.Exit(3)
