"""Attributes of a photo, any number at once: spatial guidance by a semantic map, and attention over channels.

The options are those of an ablation: where the map comes from, how it is used, and whether groups of attributes have
gates over the channels. `fusion="none", squeeze=0` is the plain baseline, one linear layer on the embedding.

References:
  Shen et al. 2023, https://arxiv.org/abs/2305.05228; see `models.attention`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn

from fsl_jax.algorithms._categories import CategoryAlgorithm, checked
from fsl_jax.losses.balance import Rule
from fsl_jax.models.attention import Fusion, GatedHeads, Semantic, SemanticNetwork
from fsl_jax.taxonomy import Taxonomy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attributes(CategoryAlgorithm):
    """Multi-label classification.

    Attributes:
      fusion: How the semantic map is used.
      semantic: Where it comes from.
      gated: Whether groups of attributes have gates over the channels.
    """

    fusion: str
    semantic: str
    gated: bool
    body_place: ClassVar[tuple[str, ...]] = ("network", "body")

    def facts(self) -> dict[str, str | int | float | bool]:
        """Adds what is composed."""
        told = {**super().facts(), "fusion": self.fusion, "attention": self.gated}
        return {**told, **({} if self.fusion == "none" else {"semantic": self.semantic})}


def make(
    body: nn.Module,
    *,
    labels: int,
    taxonomy: Taxonomy,
    fusion: Fusion,
    semantic: Semantic = "learned",
    parts: int = 4,
    width: int = 64,
    squeeze: int = 16,
    dropout: float = 0.0,
    penalty: float = 0.0,
    loss: str = "binary_cross_entropy",
    loss_options: Mapping[str, Any] | None = None,
    balance: Rule = "none",
    beta: float = 0.999,
    distance: str = "cosine",
) -> Attributes:
    """Builds multi-label classification on an embedding network.

    Args:
      body: Photos to (embedding, intermediates).
      labels: Labels that are trained on.
      taxonomy: Its attributes are what there is to tell apart; levels are left alone.
      fusion: "embed", "concatenate", "multiply", "mask_input" or "none"; see `models.attention.SemanticNetwork`.
      semantic: "learned", "border" or "given"; see `models.attention.SemanticMap`.
      parts: Parts of a learned map.
      width: Channels of the embedded map.
      squeeze: Divides the channels inside the gates; 0 is without gates.
      dropout: Before the last layer.
      penalty: Times the squares of the heads' kernels is added to the loss.
      loss: Of `losses.multilabel.LOSSES`.
      loss_options: Its own.
      balance: Weights of having and not having each attribute; see `losses.balance`.
      beta: Of "class_balanced".
      distance: By which embeddings are compared in test.

    Raises:
      ValueError: A name or option is unknown, or the taxonomy has no attribute.
    """
    if not taxonomy.attributes:
        raise ValueError(
            "method 'attributes' needs attributes, such as a csv column attributes; see also "
            "config.data.targets.attributes and .least"
        )
    attribute_loss = checked(
        loss=loss,
        loss_options=dict(loss_options or {}),
        rule=balance,
        beta=beta,
        shares={"dropout": dropout},
        penalty=penalty,
    )
    return Attributes(
        network=SemanticNetwork(body, fusion, semantic, parts, width),
        norm=body.norm,
        labels=labels,
        distance=distance,
        normalised=False,
        taxonomy=dataclasses.replace(taxonomy, levels=()),
        heads=GatedHeads(taxonomy.group_places, squeeze, dropout),
        judged=(),
        loss_name=loss,
        attribute_loss=attribute_loss,
        balance=balance,
        beta=beta,
        smoothing=0.0,
        penalty=penalty,
        fusion=fusion,
        semantic=semantic,
        gated=squeeze > 0,
    )
