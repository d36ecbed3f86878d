"""Which model an index, or a few-shot support, was made with: a few words that can be written down and loaded."""

from collections.abc import Mapping
from pathlib import Path

from fsl_jax.embedder import Embedder

DEFAULT = "efficientnet_lite0"
"""What is used where nothing is said; its weights are a package, so that it needs no download."""


def spec_of(*, model: str | None, workdir: Path | None, fit: str) -> dict[str, str]:
    """Says in a few words which model is meant.

    Args:
      model: Published weights: a name, or a file; `DEFAULT` where neither it nor a workdir is given.
      workdir: Or a training run.
      fit: How published weights get their squares: "pad", "crop" or "stretch"; a run has its own way.

    Returns:
      {"published": name, "fit": fit} or {"workdir": path}; paths are absolute.

    Raises:
      ValueError: Both are given.

    Example:
      >>> spec_of(model=None, workdir=None, fit="pad")
      {'published': 'efficientnet_lite0', 'fit': 'pad'}
    """
    if model is not None and workdir is not None:
        raise ValueError(f"model {model!r} and workdir {str(workdir)!r} are given; expected one of them")
    if workdir is not None:
        return {"workdir": str(workdir.absolute())}
    name = DEFAULT if model is None else model
    return {"published": str(Path(name).absolute()) if Path(name).is_file() else name, "fit": fit}


def load_model(spec: Mapping[str, str]) -> Embedder:
    """Loads the model that `spec_of` described.

    Raises:
      ValueError: It is not there any more, or nothing that `spec_of` returns.
    """
    if set(spec) == {"workdir"}:
        from fsl_jax.run import embedder_of

        workdir = Path(spec["workdir"])
        if not workdir.is_dir():
            raise ValueError(f"the training run {workdir} is not there: put it back where it was")
        return embedder_of(workdir)
    if set(spec) == {"published", "fit"}:
        from fsl_jax import embedder

        return embedder.published(spec["published"], fit=spec["fit"])
    raise ValueError(f"model is {dict(spec)}; expected published and fit, or workdir")
