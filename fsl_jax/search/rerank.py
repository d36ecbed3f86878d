"""Looks a second time at what an engine found, without a model: re-ranking, query expansion, whitening.

All three take cosine similarities of unit vectors. docs/engines.md says when each helps.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from fsl_jax.search.engines._found import Found, in_order, parts_of

SMALLEST_VARIANCE = 1e-10
"""A direction's share of the largest variance below which float32 embeddings hold nothing but rounding in it."""


def k_reciprocal(
    queries: Float[np.ndarray, "q d"],
    gallery: Float[np.ndarray, "n d"],
    found: Found,
    *,
    k1: int,
    k2: int,
    lambda_value: float,
) -> Found:
    """Reorders the candidates of each query by the neighbours that they share with it.

    Two photos are alike where their k-reciprocal neighbours are: those that have each other among their nearest.
    Neighbours are looked up among the query and its m candidates alone, not in the whole gallery. So a query costs
    m x m numbers whatever the gallery's size, and m should be well above k1, for example 100 for k1 = 20.

    Args:
      queries: [q, d], rows of length 1.
      gallery: [n, d], rows of length 1, in which `found.rows` are.
      found: The candidates, m a query.
      k1: Neighbours that have to be mutual.
      k2: Neighbours whose neighbourhoods are averaged; 1 averages none.
      lambda_value: Weight of the original distance, 0 to 1; 1 keeps the order.

    Returns:
      The same candidates, best first. A score is 1 - ((1 - lambda) * Jaccard distance + lambda * (1 - cosine)); it is
      not a cosine, so neither a calibration nor a threshold holds for it.

    Raises:
      ValueError: An option is out of range, or the arrays do not fit together.

    References:
      Zhong et al. 2017, https://arxiv.org/abs/1701.08398. As in the authors' program, which the paper leaves open, a
      photo is among its own neighbours: k1 others and itself, and k2 with itself. As in the paper and not in the
      program, the weights of eq. 7 are not divided by their sum. The distance in it is 1 - cosine.
    """
    _check(queries, gallery, found)
    if k1 < 1 or k2 < 1:
        raise ValueError(f"k1 is {k1}, k2 {k2}; expected at least 1 each, such as k1=20, k2=6")
    if not 0.0 <= lambda_value <= 1.0:
        raise ValueError(f"lambda_value is {lambda_value}; expected 0 to 1, such as 0.3")
    scores = np.full(found.scores.shape, -np.inf, np.float32)
    for query, rows in enumerate(found.rows):
        there = rows >= 0
        photos = np.concatenate([queries[query : query + 1], gallery[rows[there]]]).astype(np.float32)
        scores[query, there] = 1.0 - _reciprocal_distances(photos @ photos.T, k1, k2, lambda_value)
    return in_order(scores, found.rows, found.rows.shape[1])


def _reciprocal_distances(
    similarity: Float[np.ndarray, "p p"], k1: int, k2: int, lambda_value: float
) -> Float[np.ndarray, "m"]:
    """Returns the final distance (eq. 12) of photo 0, the query, to each other one."""
    ranked = similarity.copy()
    np.fill_diagonal(ranked, np.inf)  # itself first, before its copies
    order = np.argsort(-ranked, axis=1, kind="stable")
    mutual, half = _mutual(order, k1), _mutual(order, (k1 + 1) // 2)
    shared = mutual.astype(np.float32) @ half.astype(np.float32).T  # whole numbers, so exact
    joining = mutual & (3 * shared >= 2 * half.sum(axis=1)[None, :])  # eq. 4
    expanded = mutual | (joining.astype(np.float32) @ half.astype(np.float32) > 0)
    weights = np.where(expanded, np.exp(similarity - 1.0), 0.0)  # eq. 7
    weights = (_nearest(order, k2).astype(np.float32) / min(k2, len(order))) @ weights  # eq. 11
    overlap = np.minimum(weights[:1], weights[1:]).sum(axis=1)
    jaccard = 1.0 - overlap / np.maximum(weights[:1], weights[1:]).sum(axis=1)  # eq. 10
    return (1.0 - lambda_value) * jaccard + lambda_value * (1.0 - similarity[0, 1:])


def _nearest(order: Int[np.ndarray, "p p"], k: int) -> Bool[np.ndarray, "p p"]:
    """Marks each photo's k nearest, itself included."""
    nearest = np.zeros(order.shape, bool)
    np.put_along_axis(nearest, order[:, :k], True, axis=1)
    return nearest


def _mutual(order: Int[np.ndarray, "p p"], k: int) -> Bool[np.ndarray, "p p"]:
    """Marks the k-reciprocal neighbours, k others and itself (eq. 3)."""
    nearest = _nearest(order, k + 1)
    return nearest & nearest.T


def query_expansion(
    queries: Float[np.ndarray, "q d"],
    gallery: Float[np.ndarray, "n d"],
    found: Found,
    *,
    neighbours: int,
    alpha: float,
) -> Float[np.ndarray, "q d"]:
    """Adds to each query the first photos found; search again with the result.

    Args:
      queries: [q, d], rows of length 1.
      gallery: [n, d], rows of length 1, in which `found.rows` are.
      found: At least `neighbours` rows a query; missing ones (row -1) are left out.
      neighbours: How many photos are added.
      alpha: A photo weighs cosine ** alpha, and nothing where the cosine is below 0. 0 is the plain average of query
        and photos, all of the same weight.

    Returns:
      New queries of length 1; a sum of 0 stays 0.

    Raises:
      ValueError: An option is out of range, or the arrays do not fit together.

    References:
      Chum et al. 2007, Total recall (alpha = 0); Radenovic et al. 2019, https://arxiv.org/abs/1711.02512, section 3.4.
    """
    _check(queries, gallery, found)
    if not 1 <= neighbours <= found.rows.shape[1]:
        raise ValueError(
            f"neighbours is {neighbours}; expected 1 to {found.rows.shape[1]}, the rows found for each query"
        )
    if alpha < 0:
        raise ValueError(f"alpha is {alpha}; expected at least 0: 0 for the average, such as 3 for weights")
    rows = found.rows[:, :neighbours]
    photos = np.asarray(gallery[np.maximum(rows, 0)], np.float32)
    cosines = np.einsum("qd,qmd->qm", queries, photos)
    weights = np.ones_like(cosines) if alpha == 0 else np.maximum(cosines, 0.0) ** alpha
    weights = np.where(rows >= 0, weights, 0.0)
    return _unit(queries + np.einsum("qm,qmd->qd", weights, photos)).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Whitening:
    """Turns embeddings so that each direction varies as much as any other.

    Attributes:
      mean: Of the embeddings it was fitted on.
      kernel: Principal directions, each divided by its standard deviation, the largest first.

    References:
      Jégou and Chum 2012, Negative evidences and co-occurrences in image retrieval; Radenovic et al. 2019,
      https://arxiv.org/abs/1711.02512, section 3.3 (PCA-w).
    """

    mean: Float[np.ndarray, "d"]
    kernel: Float[np.ndarray, "d w"]

    @classmethod
    def fit(cls, embeddings: Float[np.ndarray, "n d"], *, dimensions: int) -> "Whitening":
        """Finds mean and directions.

        Args:
          embeddings: Of the gallery; a memory map is read part by part.
          dimensions: How many directions are kept, those of the largest variance.

        Raises:
          ValueError: The embeddings do not vary in so many directions, or one is not finite.
        """
        rows, width = embeddings.shape
        if not 1 <= dimensions <= width:
            raise ValueError(f"dimensions is {dimensions}; expected 1 to {width}, as the embeddings have")
        if rows < 2:
            raise ValueError(f"there are {rows} embeddings; expected at least 2, better 10 a dimension")
        mean = sum(part.sum(axis=0, dtype=np.float64) for _, part in parts_of(embeddings)) / rows
        apart = ((part - mean) for _, part in parts_of(embeddings))
        variance, directions = np.linalg.eigh(sum(each.T @ each for each in apart) / rows)
        variance, directions = variance[::-1], directions[:, ::-1]
        known = int((variance > max(variance[0], 0.0) * SMALLEST_VARIANCE).sum())
        if dimensions > known:
            raise ValueError(
                f"dimensions is {dimensions}, but {rows} embeddings vary in {known} directions: give at most {known}"
            )
        kernel = directions[:, :dimensions] / np.sqrt(variance[:dimensions])
        return cls(mean.astype(np.float32), kernel.astype(np.float32))

    def apply(self, embeddings: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n w"]:
        """Whitens embeddings; apply it to gallery and queries alike.

        Returns:
          Rows of length 1; an embedding that is the mean stays 0.
        """
        return _unit((embeddings - self.mean) @ self.kernel).astype(np.float32)


def _unit(points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.where(length > 0, length, 1.0)


def _check(queries: Float[np.ndarray, "q d"], gallery: Float[np.ndarray, "n d"], found: Found) -> None:
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries are {queries.shape}, gallery {gallery.shape}; expected [q, d] and [n, d]")
    if len(found.rows) != len(queries) or found.rows.max(initial=-1) >= len(gallery):
        raise ValueError(
            f"found has {len(found.rows)} queries and the row {found.rows.max(initial=-1)}; expected what was found "
            f"for these {len(queries)} queries in this gallery of {len(gallery)} rows"
        )
