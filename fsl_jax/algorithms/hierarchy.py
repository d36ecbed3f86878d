"""Category, subcategory and attributes in one model, whose branches pass messages along the tree.

One network, three or more branches (`models.category_heads`), and the sum of their losses:

    loss = sum over levels of cross entropy + loss of the attributes + penalty * |kernels of the heads|^2

each weighted by the inverse frequency of the true name. The baselines that the paper compares with in kind are
branches without messages ("independent"), and one softmax over the finest names ("flat").

References:
  Ferreira et al. 2018, https://arxiv.org/abs/1806.09445.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from fsl_jax.algorithms._categories import SECTION, CategoryAlgorithm, checked
from fsl_jax.lookup import closest
from fsl_jax.losses.balance import Rule
from fsl_jax.models.category_heads import HEADS, FlatHeads
from fsl_jax.taxonomy import Taxonomy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hierarchy(CategoryAlgorithm):
    """The unified model; its embedding is the network's, before the branches.

    Attributes:
      structure: "structured", "independent" or "flat".
    """

    structure: str

    def facts(self) -> dict[str, str | int | float | bool]:
        """Adds how the branches hang together."""
        return {**super().facts(), "heads": self.structure}


def make(
    body: nn.Module,
    *,
    labels: int,
    taxonomy: Taxonomy,
    heads: str = "structured",
    width: int = 1024,
    dropout: float = 0.3,
    penalty: float = 5e-4,
    loss: str = "binary_cross_entropy",
    loss_options: Mapping[str, Any] | None = None,
    balance: Rule = "inverse",
    beta: float = 0.999,
    smoothing: float = 0.0,
    distance: str = "cosine",
) -> Hierarchy:
    """Builds the unified model on an embedding network; defaults are the paper's.

    Args:
      body: Photos to (embedding, intermediates).
      labels: Labels that are trained on.
      taxonomy: What there is to tell apart.
      heads: Of `models.category_heads.HEADS`.
      width: Of every dense layer.
      dropout: Behind the last dense layers of each branch.
      penalty: Times the squares of the heads' kernels is added to the loss.
      loss: Of the attributes, of `losses.multilabel.LOSSES`.
      loss_options: Its own.
      balance: "inverse", "inverse_root", "class_balanced" or "none"; see `losses.balance`.
      beta: Of "class_balanced".
      smoothing: Of the levels' cross entropy.
      distance: By which embeddings are compared in test.

    Raises:
      ValueError: A name or option is unknown, or the taxonomy has no level.
    """
    if heads not in HEADS:
        raise ValueError(f"{SECTION}.heads is {heads!r}; {closest(heads, list(HEADS))}")
    if not taxonomy.levels:
        raise ValueError(
            "method 'hierarchy' needs levels, such as a csv column category: without any, take method 'attributes'"
        )
    sizes = tuple(len(level.names) for level in taxonomy.levels)
    attribute_loss = checked(
        loss=loss,
        loss_options=dict(loss_options or {}),
        rule=balance,
        beta=beta,
        shares={"dropout": dropout, "smoothing": smoothing},
        penalty=penalty,
    )
    options: dict[str, Any] = {"width": width, "dropout": dropout}
    options |= {"parents": taxonomy.parents} if HEADS[heads] is FlatHeads else {}
    return Hierarchy(
        network=body,
        norm=body.norm,
        labels=labels,
        distance=distance,
        normalised=False,
        taxonomy=taxonomy,
        heads=HEADS[heads](sizes, len(taxonomy.attributes), **options),
        # Of the flat model the coarser levels are sums of the finest one's probabilities.
        judged=tuple(range(len(sizes)))[-1 if heads == "flat" else 0 :],
        loss_name=loss,
        attribute_loss=attribute_loss,
        balance=balance,
        beta=beta,
        smoothing=smoothing,
        penalty=penalty,
        structure=heads,
    )
