"""Builds a network with published weights, and says how its photos are prepared."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import traverse_util

from fsl_jax.data.augment import Preprocess
from fsl_jax.lookup import find, with_options
from fsl_jax.models.heads import Classifier
from fsl_jax.models.pretrained import port_efficientnet, port_resnet, port_resnet12, port_vit
from fsl_jax.models.pretrained.fetching import locate
from fsl_jax.models.pretrained.files import read_arrays
from fsl_jax.models.pretrained.filling import filled
from fsl_jax.models.pretrained.port import Arrays, Port
from fsl_jax.types import Key

PORTS: tuple[Port, ...] = (
    *port_resnet.PORTS,
    *port_resnet12.PORTS,
    *port_efficientnet.PORTS,
    *port_vit.PORTS,
)
_HEAD = "params/head/"


class Loaded(NamedTuple):
    """A network with its weights.

    Attributes:
      model: Photos to (embedding, intermediates), or a `heads.Classifier` on that.
      variables: {"params": ...} and, where there are statistics, "batch_stats"; float32.
      preprocess: How its photos are prepared. Photos are cut to the centre square, as ImageNet's are judged; to keep
        all of a photo take `dataclasses.replace(preprocess, fit="pad")`.
    """

    model: nn.Module
    variables: dict[str, Any]
    preprocess: Preprocess


def load(
    name_or_path: str | Path,
    *,
    labels: int | None = None,
    sha256: str | None = None,
    key: Key | None = None,
    new: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Loaded:
    """Loads published weights into the network that they are of.

    Which network it is, and its depth, patch size and so on, is seen from the names and shapes of the arrays.

    Args:
      name_or_path: "efficientnet_lite0" (an installed package), "resnet18" to "resnet152" (fetched once), a file
        (.pth, .safetensors, .npz), a URL, or a Hugging Face id; see `fetching.locate`.
      labels: For a `Classifier` with so many logits; None for the embedding network alone. Where the file's classifier
        has another number, or there is none, a new one is made from `key`, and a warning says so.
      sha256: At least the first 8 hexadecimal digits of the file's checksum; a URL needs it.
      key: For what is made anew.
      new: Regular expressions of whole parameter names, such as "params/pool/power", that the file lacks and that
        keep their first values, from `key`; a warning names them.
      options: Further options of the network, such as {"pooling": "max", "frozen_norm": True, "dtype": "bfloat16"};
        normalisation is "running" unless they say otherwise.

    Returns:
      (model, variables, preprocess).

    Raises:
      ValueError: The file is not there, damaged, unsafe, of no known network, or does not fit it exactly; the message
        lists what is missing and left over.

    Example:
      >>> load("no_such_network")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
        ...
      ValueError: no weights 'no_such_network': give a .pth, ...
    """
    file = locate(str(name_or_path), sha256=sha256)
    try:
        return _load(file, str(name_or_path), labels=labels, key=key, new=new, options=options or {})
    except ValueError as error:
        raise ValueError(f"{error}" if str(file) in str(error) else f"{file}: {error}") from error


def _load(
    file: Path,
    name: str,
    *,
    labels: int | None,
    key: Key | None,
    new: Sequence[str],
    options: Mapping[str, Any],
) -> Loaded:
    loaded, head = _body(read_arrays(file), name, key=key, new=new, options=options)
    if labels is None:
        return loaded
    body, variables, preprocess = loaded
    dimensions = _dimensions(body, _one_photo(preprocess))
    classifier = _classifier_head(head, dimensions=dimensions, labels=labels, key=key, name=name)
    params = {"body": variables["params"], "head": classifier}
    collections = {name: {"body": values} for name, values in variables.items() if name != "params"}
    return Loaded(Classifier(body, labels), {"params": params, **collections}, preprocess)


def _body(
    named: Arrays, name: str, *, key: Key | None, new: Sequence[str], options: Mapping[str, Any]
) -> tuple[Loaded, dict[str, np.ndarray]]:
    """Returns the embedding network, and the file's classifier where it has one."""
    port = _port(named)
    of_file = port.options(named)
    if caution := port.caution(named):
        logging.warning("%s: %s", name, caution)
    body = _network(port, {**of_file, **options})
    preprocess = Preprocess(size=_side(port, of_file), channels=3, fit="crop", mean=port.mean, std=port.std)
    images = _one_photo(preprocess)
    expected = jax.eval_shape(lambda: _first_values(body, images, jax.random.key(0)))
    found = filled(port.prepare(named), port, port.places(of_file), expected, new=new)
    head = {path.removeprefix(_HEAD): found.pop(path) for path in list(found) if path.startswith(_HEAD)}
    made = _made_anew(body, images, [path for path in expected if path not in found], key, name)
    variables = traverse_util.unflatten_dict({**found, **made}, sep="/")
    return Loaded(body, jax.tree.map(jnp.asarray, variables), preprocess), head


def _port(named: Arrays) -> Port:
    for port in PORTS:
        if port.matches(named):
            return port
    shown = ", ".join(list(named)[:4])
    raise ValueError(
        f"arrays such as {shown} are of no known network; known: {'; '.join(p.family for p in PORTS)}"
    )


def _network(port: Port, options: Mapping[str, Any]) -> nn.Module:
    network = find("fsl_jax.models", port.model, "Model")
    return with_options(network, {**port.defaults, **options}, f"options of {port.family}")


def _side(port: Port, options: Mapping[str, Any]) -> int:
    patch = options.get("patch", 1)
    return port.side // patch * patch


def _one_photo(preprocess: Preprocess) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, preprocess.size, preprocess.size, preprocess.channels), jnp.float32)


def _zeros(images: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(images.shape, images.dtype)


def _dimensions(body: nn.Module, images: jax.ShapeDtypeStruct) -> int:
    def embedding() -> jax.Array:
        return body.init_with_output(jax.random.key(0), _zeros(images), statistics="running")[0][0]

    return jax.eval_shape(embedding).shape[-1]


def _first_values(body: nn.Module, images: jax.ShapeDtypeStruct, key: Key) -> dict[str, jax.Array]:
    return traverse_util.flatten_dict(dict(body.init(key, _zeros(images), statistics="running")), sep="/")


def _made_anew(
    body: nn.Module, images: jax.ShapeDtypeStruct, paths: Sequence[str], key: Key | None, name: str
) -> dict[str, jax.Array]:
    """Returns first values of the parameters that the file is allowed to lack."""
    if not paths:
        return {}
    if key is None:
        raise ValueError(f"{', '.join(paths)} must be made anew: pass key=jax.random.key(...)")
    logging.warning("%s: made anew, since the file lacks them: %s", name, ", ".join(paths))

    # Inside jit the forward pass, and all values that are not asked for, are dropped before they are computed.
    @jax.jit
    def asked_for(key: Key) -> dict[str, jax.Array]:
        values = _first_values(body, images, key)
        return {path: values[path] for path in paths}

    return asked_for(key)


def _classifier_head(
    found: Mapping[str, np.ndarray], *, dimensions: int, labels: int, key: Key | None, name: str
) -> dict[str, jax.Array]:
    """Returns the file's classifier, or a new one where its number of labels is another."""
    if found and set(found) != {"kernel", "bias"}:
        raise ValueError(f"half of the classifier is missing; there is {', '.join(found)}")
    if found and found["bias"].shape == (labels,):
        if found["kernel"].shape != (dimensions, labels):
            raise ValueError(
                f"the classifier takes {found['kernel'].shape[0]} dimensions, the network gives {dimensions}: "
                "load without labels=, and train a head of your own"
            )
        return {part: jnp.asarray(array) for part, array in found.items()}
    had = f"has {len(found['bias'])} labels" if found else "is not in the file"
    if key is None:
        raise ValueError(
            f"the classifier {had}, and one with {labels} must be made anew: pass key=jax.random.key(...)"
        )
    logging.warning("%s: its classifier %s; made a new one with %d", name, had, labels)
    return nn.Dense(labels).init(key, jnp.zeros((1, dimensions)))["params"]
