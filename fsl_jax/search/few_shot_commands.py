"""The commands classify and enrol: flags, and what is said on stderr."""

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fsl_jax.search.commands import plainly

if TYPE_CHECKING:
    from fsl_jax.embedder import Embedder
    from fsl_jax.search.few_shot import Classifier, Support

Model = Annotated[
    str | None,
    typer.Option(
        "--model", help="Published weights: efficientnet_lite0 (where nothing is said), resnet50, or a file."
    ),
]
Workdir = Annotated[Path | None, typer.Option("--workdir", help="Or a training run.")]
Fit = Annotated[str, typer.Option("--fit", help="How --model gets its squares: pad, crop or stretch.")]


class Head(enum.StrEnum):
    """How labels are told apart."""

    PROTOTYPE = "prototype"
    NEAREST = "k-nn"
    LOGISTIC = "logistic"


@plainly
def classify(
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTO_OR_FOLDER...", help="Photos, or folders of photos.")
    ],
    support: Annotated[
        Path, typer.Option("--support", help="Folder with one folder of photos a label, or an index.")
    ],
    model: Model = None,
    workdir: Workdir = None,
    fit: Fit = "pad",
    head: Annotated[Head, typer.Option("--head", help="How labels are told apart.")] = Head.PROTOTYPE,
    neighbours: Annotated[
        int, typer.Option("--neighbours", min=1, help="Photos that vote, of --head k-nn.")
    ] = 3,
    unknown_below: Annotated[
        float | None,
        typer.Option(
            "--unknown-below",
            min=-1,
            max=1,
            help="Score below which a photo is unknown; learnt from labels with two photos or more. -1: never.",
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Labels that --json ranks.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON record a photo, a line each.")] = False,
) -> None:
    """Says which of a few labels photos show, from one photo a label or more, without training.

    Exit status: 0, 1 nothing could be done, 3 some photos could not be read.
    """
    from fsl_jax.data.source import photos_in
    from fsl_jax.search import _few_shot_results, few_shot

    files = photos_in(photos)
    embedder, learnt_from = _support(support, model, workdir, fit)
    for photo, reason in learnt_from.unreadable:
        typer.echo(f"left out {photo}: {reason}", err=True)
    classifier = few_shot.fit(learnt_from, head=head.value, neighbours=neighbours)
    classifier.limit(unknown_below)
    if unknown_below is None:
        typer.echo(_about_unknown(classifier), err=True)
    told = _few_shot_results.classify_photos(classifier, embedder, files, unknown_below=unknown_below)
    if json:
        import json as json_format

        broken = 0
        for each in told:
            broken += each.guess is None
            typer.echo(json_format.dumps(each.as_json(top=top), ensure_ascii=False))
    else:
        from rich.console import Console

        done = list(told)
        broken = sum(each.guess is None for each in done)
        Console().print(_few_shot_results.as_table(done))
    if broken:
        typer.echo(f"{broken} of {len(files)} photos could not be read", err=True)
    if broken == len(files):
        raise typer.Exit(1)
    if broken or learnt_from.unreadable:
        raise typer.Exit(3)


@plainly
def enrol(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with one folder of photos a label.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The index to make.")],
    model: Model = None,
    workdir: Workdir = None,
    fit: Fit = "pad",
) -> None:
    """Makes an index of a few photos a label, to classify by, search, add to and serve.

    Exit status: 0, 1 nothing could be done, 3 some photos could not be read.
    """
    from fsl_jax.search import _filling, few_shot
    from fsl_jax.search.models import load_model, spec_of

    few_shot.support_table(folder)  # finds what is amiss before the model is loaded
    _filling.check_new(out)
    spec = spec_of(model=model, workdir=workdir, fit=fit)
    index, added = few_shot.enrol(folder, out, load_model(spec), model=spec)
    for photo, reason in (*added.unreadable, *added.duplicates):
        typer.echo(f"left out {photo}: {reason}", err=True)
    labels = len(set(index.labels.tolist()))
    typer.echo(f"{out}: {added.added:,} photos of {labels:,} {'label' if labels == 1 else 'labels'}")
    if added.unreadable:
        raise typer.Exit(3)


def _support(place: Path, model: str | None, workdir: Path | None, fit: str) -> tuple["Embedder", "Support"]:
    """Loads the support and the model, which an index names itself."""
    from fsl_jax.search import few_shot
    from fsl_jax.search.models import load_model, spec_of

    if not (place / "index.json").is_file():
        few_shot.support_table(place)  # finds what is amiss before the model is loaded
        embedder = load_model(spec_of(model=model, workdir=workdir, fit=fit))
        return embedder, few_shot.support_of(place, embedder)
    from fsl_jax.search.index import Index

    index = Index.open(place)
    given = model is not None or workdir is not None
    embedder = load_model(spec_of(model=model, workdir=workdir, fit=fit) if given else index.model)
    index.check_digest(embedder.digest)
    return embedder, few_shot.support_of_index(index)


def _about_unknown(classifier: "Classifier") -> str:
    """Says which photos are unknown where the user has not."""
    learnt = classifier.threshold
    if learnt is None:
        return (
            "note: no photo is called unknown, since no label has two photos to learn from how near is near; "
            "add some, or give --unknown-below"
        )
    passing = (
        ""
        if learnt.strangers is None
        else f"; of photos of further labels, about {learnt.strangers:.0%} would pass"
    )
    return f"note: unknown is what scores below {learnt.score:.3f}, learnt from {learnt.photos} support photos{passing}"
