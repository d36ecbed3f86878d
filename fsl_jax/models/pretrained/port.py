"""How the arrays of a published file become the variables of a network here."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

Arrays = Mapping[str, np.ndarray]
Kind = Literal["conv", "depthwise", "linear", "norm", "layer_norm", "patches", "array"]

BODY, HEAD = "body", "head"
_NORM = {
    "weight": "params:scale",
    "bias": "params:bias",
    "running_mean": "batch_stats:mean",
    "running_var": "batch_stats:var",
}
_LINEAR = {"weight": "params:kernel", "bias": "params:bias"}
_LEAVES: dict[Kind, dict[str, str]] = {
    "conv": _LINEAR,
    "depthwise": _LINEAR,
    "linear": _LINEAR,
    "patches": _LINEAR,
    "norm": _NORM,
    "layer_norm": {"weight": "params:scale", "bias": "params:bias"},
}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the arrays of one source module go.

    Attributes:
      path: Of the module here, with "/" between names; "head" is the classifier.
      kind: Says how its arrays are laid out and called; "array" is a single one.
    """

    path: str
    kind: Kind


@dataclasses.dataclass(frozen=True)
class Port:
    """What is known of one family of files.

    Attributes:
      family: For messages.
      model: Module in `fsl_jax.models`.
      matches: Whether these names are of this family.
      options: The network's options, seen from the arrays.
      places: Place of every source module, for these options.
      unused: Regular expressions of whole names that the network here has no need of.
      side: Of its photos in pixels, about: a ViT takes whole patches.
      mean: Of prepared photos; see `data.augment.Preprocess`.
      std: The same.
      prepare: Makes of the file's arrays those that `places` speaks of.
      defaults: Options of the network that no array shows.
      caution: What the user should know of these arrays, for the log; "" where nothing.
    """

    family: str
    model: str
    matches: Callable[[Arrays], bool]
    options: Callable[[Arrays], dict]
    places: Callable[[dict], dict[str, Place]]
    unused: tuple[str, ...]
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    prepare: Callable[[Arrays], Arrays] = dict
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    caution: Callable[[Arrays], str] = lambda named: ""

    def needs(self, name: str) -> bool:
        """Whether an array of this name is a parameter or a statistic."""
        return not any(re.fullmatch(pattern, name) for pattern in self.unused)


def target(name: str, places: Mapping[str, Place]) -> tuple[str, Kind] | None:
    """Returns where an array goes, such as "params/stem/conv/kernel", and how it is laid out; None if nowhere."""
    if name in places and places[name].kind == "array":
        return f"params/{places[name].path}", "array"
    module, _, leaf = name.rpartition(".")
    place = places.get(module)
    if place is None or leaf not in _LEAVES.get(place.kind, {}):
        return None
    collection, own = _LEAVES[place.kind][leaf].split(":")
    # A depthwise kernel is a parameter of the module that also normalises; a head has no name of its own.
    return f"{collection}/{place.path}/{own}", place.kind if leaf == "weight" else "array"


def laid_out(array: np.ndarray, kind: Kind) -> np.ndarray:
    """Turns a weight from PyTorch's layout into that of this package.

    Raises:
      ValueError: It has another rank than its kind.
    """
    ranks = {"conv": (4,), "depthwise": (4,), "patches": (4,), "linear": (2, 4)}.get(kind)
    if ranks and array.ndim not in ranks:
        raise ValueError(f"has shape {array.shape}; expected {' or '.join(map(str, ranks))} axes")
    if kind == "conv":
        return array.transpose(2, 3, 1, 0)
    if kind == "depthwise":
        return array[:, 0].transpose(1, 2, 0)
    if kind == "patches":
        return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
    if kind == "linear":  # a 1 x 1 convolution of a single place is a linear layer
        return array.reshape(array.shape[:2]).T
    return array
