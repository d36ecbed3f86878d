"""The embedding network of an earlier run as the start of another: self-distilled first, then fine-tuned."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsl_jax.models.pretrained import Loaded


def load(workdir: Path, *, options: Mapping[str, Any]) -> Loaded:
    """Takes the network of a run's best checkpoint, without its head.

    Args:
      workdir: Of the run.
      options: Of the network that shall be otherwise, such as {"drop_path": 0.1}; its weights must still fit.

    Returns:
      (model, variables, preprocess), as published weights are loaded.

    Raises:
      ValueError: There is no run in the workdir, it was trained on features, or the network has no such option.
    """
    # Imported here: a run is built from what this returns.
    from fsl_jax.run import restored

    run, variables = restored(workdir)
    place = [name for name in run.place.split("/") if name]
    found = {
        name: _inside(values, place) for name, values in run.algorithm.embedding_variables(variables).items()
    }
    try:
        body = run.body.clone(**options)
    except TypeError as error:
        raise ValueError(f"config.model.options do not fit the network of {workdir}: {error}") from None
    return Loaded(
        body, {name: values for name, values in found.items() if values is not None}, run.preprocess
    )


def _inside(tree: Any, place: list[str]) -> Any:
    """Follows names into a tree; None where they lead nowhere."""
    for name in place:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree
