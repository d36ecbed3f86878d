"""Metric learning: an embedding in which photos of one article are near and others far.

    loss = reducer(loss function(mining(distances of a batch's embeddings)))

where mining, loss and reducer are named in the config. Siamese networks with the contrastive loss, FaceNet, the triplet
loss with every mining of Hermans et al. 2017, Ristani and Tomasi 2018 and Kumar et al. 2019, three streams with hard
negatives, adaptive margins, and proxies differ in these names and in how a batch is drawn; docs/methods.md has each.

References:
  Cross-batch memory: Wang et al. 2020, https://arxiv.org/abs/1912.06798.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fsl_jax.algorithms._batches import BatchAlgorithm
from fsl_jax.algorithms._objectives import BATCH_ALL, LOSSES, MININGS, Seen, Terms, first_params
from fsl_jax.lookup import bound, closest
from fsl_jax.losses.distances import DISTANCES
from fsl_jax.losses.reduce import REDUCERS
from fsl_jax.mining.gallery import nearest_negatives
from fsl_jax.mining.masks import pair_masks
from fsl_jax.types import Batch, Key, Mean, Params, PerAnchor, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding(BatchAlgorithm):
    """Metric learning by composition.

    Attributes:
      loss_name: Of `LOSSES`.
      mining: Of `MININGS`, "batch_all", "all", or "" where the loss looks at all pairs itself.
      reducer: Of `losses.reduce.REDUCERS`.
      terms: From (seen, params) to what the reducer is given.
      reduce: The reducer with its options.
      first: From (key, dimensions) to the loss's own parameters.
      memory: Embeddings of earlier steps that a batch is also compared with; 0 is none.
      duplicate: Euclidean distance up to which a wrong gallery photo is taken for the same photo.
    """

    loss_name: str
    mining: str
    reducer: str
    terms: Callable[[Seen, Params], Terms]
    reduce: Callable[[Any], Scalar]
    first: Callable[[Key, int], Params]
    memory: int
    duplicate: float

    def objective_params(self, key: Key, dimensions: int) -> Params:
        """Makes proxies or boundaries, where the loss has them."""
        return self.first(key, dimensions)

    def objective(
        self, params: Params, embedding: Float[Array, "b d"], batch: Batch, memory: Any, key: Key
    ) -> tuple[Scalar, dict[str, Mean]]:
        """Mines, compares and reduces."""
        terms = self.terms(self._seen(embedding, batch, memory, key), params)
        loss = sum((self.reduce(term) for term in terms), jnp.zeros(()))
        return loss, {"active": _active(terms)}

    def _seen(self, embedding: Float[Array, "b d"], batch: Batch, memory: Any, key: Key) -> Seen:
        row, label = batch.columns["row"], batch.label
        reference, valid, reference_label, reference_row = embedding, None, label, row
        if self.memory:
            reference = jnp.concatenate([embedding, memory["embedding"]])
            reference_label = jnp.concatenate([label, memory["label"]])
            reference_row = jnp.concatenate([row, memory["row"]])
            valid = reference_row >= 0
        masks = pair_masks(label, reference_label, row, reference_row, valid=valid)
        return Seen(embedding, label, reference, masks, self.distance, batch.columns.get("text"), key)

    def first_memory(self, dimensions: int) -> dict[str, Any]:
        """Makes an empty cross-batch memory; a row of -1 is no photo."""
        if not self.memory:
            return {}
        nobody = jnp.full((self.memory,), -1, jnp.int32)
        return {"embedding": jnp.zeros((self.memory, dimensions)), "label": nobody, "row": nobody}

    def remember(self, memory: Any, embedding: Float[Array, "b d"], batch: Batch) -> dict[str, Any]:
        """Puts the batch in front, and drops the oldest."""
        if not self.memory:
            return memory
        new = {"embedding": embedding, "label": batch.label, "row": batch.columns["row"]}
        return {
            name: jnp.concatenate([new[name].astype(old.dtype), old])[: self.memory]
            for name, old in memory.items()
        }

    def refresh(
        self,
        query: Float[Array, "q d"],
        query_label: Int[Array, "q"],
        gallery: Float[Array, "g d"],
        gallery_label: Int[Array, "g"],
        *,
        count: int,
    ) -> tuple[Int[Array, "q count"], Int[Array, "q"]]:
        """Finds the wrong gallery photos nearest to each anchor, for the negatives of the next window."""
        return nearest_negatives(
            query, gallery, query_label, gallery_label, count=count, duplicate=self.duplicate
        )

    def facts(self) -> dict[str, str | int | float | bool]:
        """Adds what is composed."""
        composed = {"loss": self.loss_name, "mining": self.mining, "reducer": self.reducer}
        return {**super().facts(), **composed, **({"memory": self.memory} if self.memory else {})}


def _active(terms: Terms) -> Mean:
    """Returns the share of elements above 0: those that still have a gradient."""
    active, count = jnp.zeros(()), jnp.zeros(())
    for term in terms:
        if isinstance(term, PerAnchor):
            active, count = active + jnp.sum(term.active), count + jnp.sum(term.count)
        else:
            active, count = active + jnp.sum((term.value > 0) & term.mask), count + jnp.sum(term.mask)
    # A batch without any element has no share; it counts as none active.
    return Mean(active, jnp.maximum(count, 1.0))


def make(
    body: nn.Module,
    *,
    labels: int,
    loss: str,
    loss_options: Mapping[str, Any],
    mining: str = "",
    mining_options: Mapping[str, Any] | None = None,
    reducer: str = "mean",
    reducer_options: Mapping[str, Any] | None = None,
    distance: str = "euclidean",
    normalised: bool = True,
    memory: int = 0,
    duplicate: float = 1e-3,
) -> Embedding:
    """Builds metric learning on an embedding network.

    Args:
      body: Photos to (embedding, intermediates).
      labels: Labels that are trained on.
      loss: Of `LOSSES`.
      loss_options: Its own, such as {"margin": 0.2}.
      mining: Of `MININGS`, "batch_all" or "all"; "" for losses that look at all pairs themselves.
      mining_options: Its own.
      reducer: "mean", "nonzero_mean" or "worst".
      reducer_options: Its own, such as {"share": 0.4}.
      distance: "euclidean", "squared_euclidean" or "cosine".
      normalised: Whether embeddings have length 1.
      memory: Embeddings of earlier steps that a batch is also compared with; 0 is none.
      duplicate: Euclidean distance up to which a wrong gallery photo is taken for the same photo, when the neighbours
        of the refreshed sampler are looked up.

    Raises:
      ValueError: A name or option is unknown, or two of them do not go together.
    """
    section = "config.algorithm.options"
    for name, value, known in (
        ("loss", loss, list(LOSSES)),
        ("reducer", reducer, list(REDUCERS)),
        ("distance", distance, list(DISTANCES)),
    ):
        if value not in known:
            raise ValueError(f"{section}.{name} is {value!r}; {closest(value, known)}")
    _check_mining(loss, mining, reducer, memory)
    if mining == "distance_weighted" and not normalised:
        raise ValueError(
            f"{section}.mining 'distance_weighted' knows how far apart unit vectors are: set {section}.normalised=True"
        )
    terms = _composed(loss, dict(loss_options), mining, dict(mining_options or {}), section)
    reduce = bound(REDUCERS[reducer], reducer_options or {}, f"{section}.reducer_options")
    return Embedding(
        network=body,
        norm=body.norm,
        labels=labels,
        distance=distance,
        normalised=normalised,
        loss_name=loss,
        mining=mining,
        reducer=reducer,
        terms=terms,
        reduce=reduce,
        first=lambda key, dimensions: first_params(
            key, loss, dict(loss_options), labels=labels, dimensions=dimensions
        ),
        memory=memory,
        duplicate=duplicate,
    )


def _check_mining(loss: str, mining: str, reducer: str, memory: int) -> None:
    """Checks that loss, mining, reducer and memory go together."""
    section, known = "config.algorithm.options", list(LOSSES[loss].minings)
    if mining not in (known or [""]):
        fits = closest(mining, known) if known else "expected '', since it looks at all pairs itself"
        raise ValueError(f"{section}.mining is {mining!r} with loss {loss!r}; {fits}")
    if reducer == "worst" and mining == BATCH_ALL:
        raise ValueError(
            f"{section}.reducer 'worst' needs single elements, and batch_all has only sums: take mean or nonzero_mean"
        )
    if memory and (mining == "given" or LOSSES[loss].proxies or loss in ("adaptive_triplet", "n_pair")):
        raise ValueError(
            f"{section}.memory is {memory}, but loss {loss!r} with mining {mining!r} compares no photo with those of "
            "other batches: set it to 0"
        )


def _composed(
    loss: str, loss_options: dict[str, Any], mining: str, mining_options: dict[str, Any], section: str
) -> Callable[[Seen, Params], Terms]:
    """Returns the loss on its mining."""
    function = bound(LOSSES[loss].function, loss_options, f"{section}.loss_options")
    if mining in MININGS and loss != "contrastive":
        mined = bound(MININGS[mining], mining_options, f"{section}.mining_options")
        return lambda seen, params: function(seen, params, mined)
    if mining_options:
        raise ValueError(
            f"{section}.mining_options has {', '.join(mining_options)}; mining {mining!r} has none"
        )
    if not LOSSES[loss].minings:
        return function
    handed = None if mining == BATCH_ALL else mining
    return lambda seen, params: function(seen, params, handed)
