"""The command `fsl-jax export`."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    format: Annotated[str, typer.Option("--format", help="stablehlo, onnx or safetensors.")],
    out: Annotated[Path, typer.Option("--out", help="A file that ends in the format, or a folder.")],
    workdir: Annotated[Path | None, typer.Option("--workdir", help="A training run.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Or published weights: efficientnet_lite0, resnet50, or a file."),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option("--fit", help="How --model gets its squares: pad (the default), crop or stretch."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Exports a model for other programs: uint8 photos in; embedding, categories and attributes out.

    It is compared with the live model on random photos; where it differs, nothing is written.
    """
    from fsl_jax.serving import export as exporting

    if (model is None) == (workdir is None):
        raise ValueError("give either --model or --workdir")
    if workdir is not None and fit is not None:
        raise ValueError(f"--fit {fit} is for --model; a run prepares photos as it was trained")

    def make() -> exporting.Served:
        if workdir is not None:
            return exporting.served_run(workdir)
        return exporting.served_published(str(model), fit=fit or "pad")

    done = exporting.export(make, kind=format, out=out, force=force)
    typer.echo(f"{' and '.join(map(str, done.files))}: {', '.join(done.outputs)}")
    batches = " and ".join(map(str, exporting.BATCHES))
    typer.echo(
        f"largest error against the live model, on random photos in batches of {batches}: {done.error:.1e}"
    )
    if format == "stablehlo":
        typer.echo(
            "JAX reads artifacts of jax.export for 6 months after it was made: keep the checkpoint and its config, "
            "and export again"
        )
    typer.echo(f"\nTo load it:\n\n{done.code}", nl=False)
