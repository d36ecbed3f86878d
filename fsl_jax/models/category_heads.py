"""Heads that say what a photo shows: a name at each level of a tree, and attributes.

Each takes the features of an embedding network and returns logits by name: "levels", a tuple from coarse to fine, and
"attributes" where there are any. Dropout acts where the call is given a "dropout" key.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsl_jax.ops.norm import at_least_float32

Logits = dict[str, Any]
"""{"levels": (Float[n, names], ...), "attributes": Float[n, attributes]}, without what there is none of."""
ABSENT = -1e9
"""Logit of a category under which no name lies; finite, so that its gradient is 0."""


class _Heads(nn.Module):
    """What all heads know.

    Attributes:
      sizes: Names of each level, from coarse to fine.
      attributes: Number of attributes; 0 for none.
      width: Outputs of each dense layer; 1,024 in the paper.
      dropout: Share that is dropped of what a branch's last dense layer gives; 0.3 in the paper.
    """

    sizes: Sequence[int]
    attributes: int
    width: int
    dropout: float

    def _nodes(self) -> list[str]:
        return [
            *(f"level{i + 1}" for i in range(len(self.sizes))),
            *(["attributes"] if self.attributes else []),
        ]

    def _dense(self, name: str, features: Array) -> Array:
        """One dense layer with ReLU, started as Keras starts it."""
        layer = nn.Dense(self.width, kernel_init=nn.initializers.glorot_uniform(), name=name)
        return nn.relu(layer(features))

    def _dropped(self, features: Array) -> Array:
        if not self.dropout:
            return features
        return nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(features)

    def _logits(self, node: str, features: Array) -> Array:
        outputs = self.attributes if node == "attributes" else self.sizes[int(node.removeprefix("level")) - 1]
        layer = nn.Dense(outputs, kernel_init=nn.initializers.glorot_uniform(), name=f"{node}_logits")
        return at_least_float32(layer(features))


def _by_name(logits: dict[str, Array]) -> Logits:
    levels = tuple(value for node, value in logits.items() if node != "attributes")
    named: Logits = {"levels": levels} if levels else {}
    return named | ({"attributes": logits["attributes"]} if "attributes" in logits else {})


class StructuredHeads(_Heads):
    """Levels and attributes that pass messages to each other along the tree.

    Every level, and the attributes, enter the block through a dense layer of their own. Messages go down, from each
    level to the next and from the first level to the attributes, and up again; the other way round they are not the
    same, and the finest level and the attributes exchange none. With dense layers D, all different:

      down_1 = D(x_1)            down_k = D(x_k) + D(down_{k-1})      down_a = D(x_a) + D(down_1)
      up_K = D(x_K)              up_k = D(x_k) + D(up_{k+1})          up_a = D(x_a)
      up_1 = D(x_1) + D(up_2) + D(up_a)
      logits = linear(D(down) + D(up)), with dropout behind these two

    With two levels and attributes these are the 16 dense layers of 1,024 that the paper counts.

    References:
      Ferreira et al. 2018, https://arxiv.org/abs/1806.09445; Hu et al. 2016, https://arxiv.org/abs/1511.05616.
    """

    @nn.compact
    def __call__(self, features: Float[Array, "n d"]) -> Logits:
        """Classifies embeddings."""
        nodes = self._nodes()
        entered = {node: self._dense(f"{node}_enter", features) for node in nodes}
        down = self._pass(entered, "down", nodes)
        up = self._pass(entered, "up", nodes[::-1])
        logits = {}
        for node in nodes:
            both = self._dropped(self._dense(f"{node}_down_out", down[node]))
            both = both + self._dropped(self._dense(f"{node}_up_out", up[node]))
            logits[node] = self._logits(node, both)
        return _by_name(logits)

    def _pass(self, entered: dict[str, Array], way: str, order: list[str]) -> dict[str, Array]:
        """Goes through the nodes once, each of which hears those before it that are next to it in the tree."""
        told: dict[str, Array] = {}
        for node in order:
            told[node] = self._dense(f"{node}_{way}", entered[node])
            for other in told:
                if other in _neighbours(node):
                    told[node] = told[node] + self._dense(f"{node}_{way}_from_{other}", told[other])
        return told


def _neighbours(node: str) -> tuple[str, ...]:
    """Returns the nodes that one may hear: the levels around it; the attributes and the first level hear each other."""
    if node == "attributes":
        return ("level1",)
    place = int(node.removeprefix("level"))
    around = (f"level{place - 1}", f"level{place + 1}")
    return (*around, "attributes") if place == 1 else around


class IndependentHeads(_Heads):
    """The same without messages: each level, and the attributes, by two dense layers of their own."""

    @nn.compact
    def __call__(self, features: Float[Array, "n d"]) -> Logits:
        """Classifies embeddings."""
        logits = {}
        for node in self._nodes():
            entered = self._dense(f"{node}_enter", features)
            logits[node] = self._logits(node, self._dropped(self._dense(f"{node}_out", entered)))
        return _by_name(logits)


class FlatHeads(_Heads):
    """One softmax over the finest names; a coarser category has the probabilities of what lies under it.

    Attributes:
      parents: Places of the parents, a level; see `taxonomy.Level`.
    """

    parents: Sequence[Sequence[int]] = ()

    @nn.compact
    def __call__(self, features: Float[Array, "n d"]) -> Logits:
        """Classifies embeddings."""
        finest = f"level{len(self.sizes)}"
        logits = {}
        for node in [finest, *(["attributes"] if self.attributes else [])]:
            entered = self._dense(f"{node}_enter", features)
            logits[node] = self._logits(node, self._dropped(self._dense(f"{node}_out", entered)))
        levels = [logits.pop(finest)]
        for size, parents in zip(self.sizes[-2::-1], self.parents[:0:-1], strict=True):
            levels.insert(0, _summed(levels[0], jnp.asarray(parents), size))
        return _by_name({**{f"level{i + 1}": level for i, level in enumerate(levels)}, **logits})


def _summed(logits: Float[Array, "n fine"], parents: Array, size: int) -> Float[Array, "n coarse"]:
    """Adds probabilities of names under each category, as logits."""
    under = parents[None, :] == jnp.arange(size)[:, None]
    apart = jnp.where(under[None, :, :], logits[:, None, :], ABSENT)
    return jax.nn.logsumexp(apart, axis=-1)


HEADS: dict[str, type[_Heads]] = {
    "structured": StructuredHeads,
    "independent": IndependentHeads,
    "flat": FlatHeads,
}
