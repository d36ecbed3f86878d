"""Objectives of metric learning, by name: mining and loss, put together from `mining` and `losses`.

An objective is a function of what a batch shows; it returns terms, which a reducer makes numbers of, and figures.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from fsl_jax.losses import contrastive, margins, proxies, similarity, softmax, triplet
from fsl_jax.losses.distances import DISTANCES, cosines, paired
from fsl_jax.mining import triplets
from fsl_jax.mining.masks import Masks
from fsl_jax.types import Key, Params, PerAnchor, PerItem

Terms = tuple[PerItem | PerAnchor, ...]
GATHERED = 4
"""Triplets an anchor up to which their distances are taken anew from the embeddings, without a matrix's rounding and
with a cheaper gradient; of more, they are read out of the matrix."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """What an objective may look at.

    Attributes:
      anchor: Embeddings of the batch.
      label: Its labels.
      reference: What they are compared with: the batch, and behind it the memory where there is one.
      masks: Positives and negatives among the references.
      distance: Name of the distance.
      text: Description vectors of the batch, where there are any.
      key: For what is drawn.
    """

    anchor: Float[Array, "a d"]
    label: Int[Array, "a"]
    reference: Float[Array, "r d"]
    masks: Masks
    distance: str
    text: Float[Array, "a t"] | None
    key: Key

    @cached_property
    def distances(self) -> Float[Array, "a r"]:
        """Anchor to reference."""
        return DISTANCES[self.distance](self.anchor, self.reference)

    @cached_property
    def cosines(self) -> Float[Array, "a r"]:
        """Cosine similarity of anchor and reference."""
        return cosines(self.anchor, self.reference)

    def between(self, first: Int[Array, "m"], other: Int[Array, "m"]) -> Float[Array, "m"]:
        """Returns the distances of chosen anchors and references."""
        if first.shape[0] > GATHERED * self.anchor.shape[0]:
            return self.distances[first, other]
        return paired(self.distance)(self.anchor[first], self.reference[other])


class Compared(NamedTuple):
    """Distances that a triplet loss compares.

    Attributes:
      anchor: Place of each one's anchor.
      negative: Place of its negative; None where it is a mean of several.
      positive_distance: To the positive.
      negative_distance: To the negative.
      mask: Which count.
    """

    anchor: Int[Array, "m"]
    negative: Int[Array, "m"] | None
    positive_distance: Float[Array, "m"]
    negative_distance: Float[Array, "m"]
    mask: Bool[Array, "m"]


def _chosen(seen: Seen, found: triplets.Triplets) -> Compared:
    positive_distance = seen.between(found.anchor, found.positive)
    negative_distance = seen.between(found.anchor, found.negative)
    return Compared(found.anchor, found.negative, positive_distance, negative_distance, found.mask)


def _given(seen: Seen) -> Compared:
    return _chosen(seen, triplets.given(seen.anchor.shape[0]))


def _batch_hard(seen: Seen) -> Compared:
    return _chosen(seen, triplets.batch_hard(lax.stop_gradient(seen.distances), *seen.masks))


def _batch_sample(seen: Seen) -> Compared:
    return _chosen(seen, triplets.batch_sample(seen.key, lax.stop_gradient(seen.distances), *seen.masks))


def _semi_hard(seen: Seen) -> Compared:
    return _chosen(seen, triplets.semi_hard(seen.distances, *seen.masks))


def _batch_weighted(seen: Seen) -> Compared:
    found = triplets.batch_weighted(seen.distances, *seen.masks)
    return Compared(jnp.arange(found.mask.shape[0]), None, *found)


def _distance_weighted(seen: Seen, *, cutoff: float, furthest: float) -> Compared:
    apart = (
        seen.distances
        if seen.distance == "euclidean"
        else DISTANCES["euclidean"](seen.anchor, seen.reference)
    )
    dimensions = seen.anchor.shape[1]
    found = triplets.distance_weighted(
        seen.key, apart, *seen.masks, dimensions=dimensions, cutoff=cutoff, furthest=furthest
    )
    return _chosen(seen, found)


BATCH_ALL = "batch_all"
MININGS: dict[str, Callable[..., Compared]] = {
    "given": _given,
    "batch_hard": _batch_hard,
    "batch_weighted": _batch_weighted,
    "batch_sample": _batch_sample,
    "semi_hard": _semi_hard,
    "distance_weighted": _distance_weighted,
}
"""Minings of the triplet losses, besides batch all, which compares everything."""

Mined = Callable[[Seen], Compared] | None
"""A mining with its options; None is batch all."""


def _triplet(seen: Seen, params: Params, mined: Mined, *, margin: float | None) -> Terms:
    del params
    if mined is None:
        return (triplet.batch_all(seen.distances, *seen.masks, margin=margin),)
    found = mined(seen)
    return (triplet.triplet(found.positive_distance, found.negative_distance, found.mask, margin=margin),)


def _adaptive_triplet(
    seen: Seen, params: Params, mined: Mined, *, margin: float, scaling: margins.Scaling
) -> Terms:
    del params
    if seen.text is None:
        raise ValueError(
            "loss 'adaptive_triplet' needs description vectors: set --config.data.text.vectors=tfidf, with a source "
            "that has descriptions"
        )
    wide = margins.from_descriptions(seen.text, seen.text, base=margin, scaling=scaling)
    if mined is None:
        return (triplet.batch_all(seen.distances, *seen.masks, margin=wide),)
    found = mined(seen)
    of_each = wide[found.anchor, found.negative]
    return (triplet.triplet(found.positive_distance, found.negative_distance, found.mask, margin=of_each),)


def _margin(seen: Seen, params: Params, mined: Mined, *, margin: float, start: float) -> Terms:
    del start
    assert mined is not None
    found = mined(seen)
    of_each = params["boundary"][seen.label[found.anchor]]
    return (
        margins.boundary(
            found.positive_distance, found.negative_distance, found.mask, of_each, margin=margin
        ),
    )


def _pairs_of(seen: Seen, mining: str) -> tuple[Array, Array, Array]:
    """Returns distance, whether of one label, and mask of the pairs: the given ones, or all of the batch."""
    if mining == "given":
        if seen.anchor.shape[0] % 2:
            raise ValueError(
                f"a batch of given pairs has {seen.anchor.shape[0]} rows; expected an even number"
            )
        first = jnp.arange(0, seen.anchor.shape[0], 2)
        same = seen.label[first] == seen.label[first + 1]
        return seen.between(first, first + 1), same, jnp.ones_like(same)
    positive, negative = seen.masks
    anchors, references = positive.shape
    # A pair inside the batch is there twice, as (i, j) and (j, i); one with the memory once.
    once = jnp.arange(references)[None, :] > jnp.arange(anchors)[:, None]
    return seen.distances, positive, (positive | negative) & once


def _contrastive(
    seen: Seen, params: Params, mining: str, *, margin: float, power: int = 2, half: bool = False
) -> Terms:
    del params
    distance, same, mask = _pairs_of(seen, mining)
    return (contrastive.contrastive(distance, same, mask, margin=margin, power=power, half=half),)  # type: ignore[arg-type]


def _nt_xent(seen: Seen, params: Params, *, temperature: float) -> Terms:
    del params
    return (contrastive.nt_xent(seen.cosines, *seen.masks, temperature=temperature),)


def _sup_con(seen: Seen, params: Params, *, temperature: float) -> Terms:
    del params
    return (contrastive.sup_con(seen.cosines, *seen.masks, temperature=temperature),)


def _n_pair(seen: Seen, params: Params, *, photos: int) -> Terms:
    """Takes the first two photos of each label of a P x K batch."""
    del params
    if photos < 2 or seen.anchor.shape[0] % photos:
        raise ValueError(
            f"loss_options.photos is {photos}, with {seen.anchor.shape[0]} photos; expected K of P x K"
        )
    by_label = seen.anchor.reshape(-1, photos, seen.anchor.shape[1])
    return (contrastive.n_pair(by_label[:, 0], by_label[:, 1]),)


def _multi_similarity(
    seen: Seen,
    params: Params,
    *,
    positive_scale: float,
    negative_scale: float,
    threshold: float,
    mining_margin: float | None,
) -> Terms:
    del params
    return (
        similarity.multi_similarity(
            seen.cosines,
            *seen.masks,
            positive_scale=positive_scale,
            negative_scale=negative_scale,
            threshold=threshold,
            mining_margin=mining_margin,
        ),
    )


def _circle(seen: Seen, params: Params, *, relaxation: float, scale: float) -> Terms:
    del params
    return (similarity.circle(seen.cosines, *seen.masks, relaxation=relaxation, scale=scale),)


def _to_proxies(seen: Seen, params: Params) -> Float[Array, "a labels"]:
    return cosines(seen.anchor, params["proxies"])


def _normalised_softmax(seen: Seen, params: Params, *, temperature: float) -> Terms:
    return (softmax.normalised(_to_proxies(seen, params), seen.label, temperature=temperature),)


def _arcface(seen: Seen, params: Params, *, margin: float, scale: float) -> Terms:
    return (softmax.arcface(_to_proxies(seen, params), seen.label, margin=margin, scale=scale),)


def _cosface(seen: Seen, params: Params, *, margin: float, scale: float) -> Terms:
    return (softmax.cosface(_to_proxies(seen, params), seen.label, margin=margin, scale=scale),)


def _proxy_nca(seen: Seen, params: Params, *, scale: float, own_in_denominator: bool) -> Terms:
    return (
        proxies.proxy_nca(
            seen.anchor, params["proxies"], seen.label, scale=scale, own_in_denominator=own_in_denominator
        ),
    )


def _proxy_anchor(seen: Seen, params: Params, *, margin: float, scale: float) -> Terms:
    return proxies.proxy_anchor(_to_proxies(seen, params), seen.label, margin=margin, scale=scale)


class Loss(NamedTuple):
    """A loss and what fits it.

    Attributes:
      function: (seen, params, mining where it has one, options) -> terms.
      minings: Names of the minings it goes with; none where it looks at all pairs itself.
      proxies: Whether it learns one vector a label.
    """

    function: Callable[..., Terms]
    minings: tuple[str, ...] = ()
    proxies: bool = False


_SINGLE = tuple(name for name in MININGS if name != "batch_weighted")
LOSSES: dict[str, Loss] = {
    "triplet": Loss(_triplet, (BATCH_ALL, *MININGS)),
    "adaptive_triplet": Loss(_adaptive_triplet, (BATCH_ALL, *_SINGLE)),
    "margin": Loss(_margin, _SINGLE),
    "contrastive": Loss(_contrastive, ("given", "all")),
    "nt_xent": Loss(_nt_xent),
    "sup_con": Loss(_sup_con),
    "n_pair": Loss(_n_pair),
    "multi_similarity": Loss(_multi_similarity),
    "circle": Loss(_circle),
    "normalised_softmax": Loss(_normalised_softmax, proxies=True),
    "arcface": Loss(_arcface, proxies=True),
    "cosface": Loss(_cosface, proxies=True),
    "proxy_nca": Loss(_proxy_nca, proxies=True),
    "proxy_anchor": Loss(_proxy_anchor, proxies=True),
}


def first_params(key: Key, loss: str, options: dict[str, Any], *, labels: int, dimensions: int) -> Params:
    """Makes what a loss learns besides the network: proxies, of random directions, or boundaries."""
    if LOSSES[loss].proxies:
        return {"proxies": jax.random.normal(key, (labels, dimensions)) / jnp.sqrt(dimensions)}
    if loss == "margin":
        return {"boundary": jnp.full((labels,), options["start"], jnp.float32)}
    return {}
