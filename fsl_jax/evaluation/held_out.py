"""How much an embedding tells about labels that training never looked at: weighted nearest neighbours, linear probe."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from fsl_jax.data.table import Table
from fsl_jax.evaluation._few_shot import fit_logistic
from fsl_jax.lookup import closest
from fsl_jax.mesh import AXIS, over_rows, place, replicated
from fsl_jax.ops.norm import l2_normalise
from fsl_jax.types import Key

AT_ONCE = 128
"""Photos that are compared with all others at once, on each device."""


def codes_of(table: Table, level: str) -> Int[np.ndarray, "n"]:
    """Returns the labels of photos, or what they are at a level; -1 is unknown.

    Raises:
      ValueError: There is no such level.
    """
    if not level:
        return table.label.codes
    if level not in table.levels:
        raise ValueError(f"config.eval.held_out.level is {level!r}; {closest(level, [*table.levels])}")
    return table.levels[level].codes


def weighted_knn(
    embeddings: Float[Array, "n d"],
    codes: Int[np.ndarray, "n"],
    *,
    mesh: Mesh,
    neighbours: int,
    temperature: float,
) -> float:
    """Classifies each photo by its nearest other photos, which vote with exp(cosine / temperature).

    Args:
      embeddings: Of photos, on each device; brought to length 1 here.
      codes: What each photo is, from 0; photos of -1 neither ask nor vote.
      mesh: Over whose devices the asking photos are spread.
      neighbours: That vote; all where there are fewer. 20 as published.
      temperature: Above 0; 0.07 as published.

    Returns:
      Share of photos that are classified rightly, 0 to 1; of equal votes the smaller code wins. NaN without photos.

    References:
      Wu et al. 2018, https://arxiv.org/abs/1805.01978, section 3.4; here each photo is left out of its own gallery.
    """
    if neighbours < 1 or not temperature > 0:
        raise ValueError(
            f"config.eval.held_out.neighbours is {neighbours} and temperature {temperature}; expected at least 1, and "
            "above 0"
        )
    known = np.flatnonzero(codes >= 0)
    count = len(known)
    if count < 2:
        return float("nan")
    asked = np.concatenate([known, np.full(-count % mesh.size, known[0])])
    count_right = jax.jit(
        over_rows(
            mesh,
            functools.partial(
                _right,
                neighbours=min(neighbours, count - 1),
                temperature=temperature,
                ways=int(codes.max()) + 1,
            ),
            spread=(True, False, False),
            results=P(AXIS),
        ),
        out_shardings=replicated(mesh),
    )
    rows, gallery = place((asked, known), replicated(mesh))
    right = count_right(rows, l2_normalise(embeddings), (gallery, place(codes[known], replicated(mesh))))
    return float(np.asarray(right)[:count].mean())


def _right(
    asked: Int[Array, "a"],
    units: Float[Array, "n d"],
    gallery: tuple[Int[Array, "g"], Int[Array, "g"]],
    *,
    neighbours: int,
    temperature: float,
    ways: int,
) -> Bool[Array, "a"]:
    """Tells which rows are classified rightly."""
    rows, codes = gallery
    others = units[rows]

    def of_row(row: Int[Array, ""]) -> Bool[Array, ""]:
        cosine = jnp.matmul(others, units[row], precision=lax.Precision.HIGHEST)
        own = rows == row
        nearest, at = lax.top_k(jnp.where(own, -jnp.inf, cosine), neighbours)
        votes = jnp.zeros(ways).at[codes[at]].add(jnp.exp((nearest - 1) / temperature))
        return jnp.argmax(votes) == jnp.sum(jnp.where(own, codes, 0))

    return lax.map(of_row, asked, batch_size=min(AT_ONCE, asked.shape[0]))


def linear_probe(key: Key, embeddings: Float[Array, "n d"], codes: Int[np.ndarray, "n"]) -> float:
    """Fits a logistic regression on half of the photos of each label, and classifies the other half.

    Embeddings are standardised by what the first half has of mean and deviation; the penalty is scikit-learn's C = 1.

    Args:
      key: By which photos are dealt.
      embeddings: Of photos.
      codes: What each photo is, from 0; photos of -1, and those of labels with one photo, are left out.

    Returns:
      Share of the second half that is classified rightly, 0 to 1; NaN where no label has two photos.
    """
    learned, asked, ways = _halves(key, codes)
    if not len(asked):
        return float("nan")
    features = np.asarray(embeddings)
    mean, deviation = features[learned].mean(axis=0), features[learned].std(axis=0)
    features = (features - mean) / np.maximum(deviation, 1e-6)
    label = np.searchsorted(ways, codes)
    return float(_probe(features[learned], label[learned], features[asked], label[asked], way=len(ways)))


def _halves(
    key: Key, codes: Int[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "l"], Int[np.ndarray, "a"], Int[np.ndarray, "ways"]]:
    """Deals the photos of each label into two halves, the first one larger where they are odd."""
    shuffled = np.argsort(np.asarray(jax.random.bits(key, (len(codes),))), kind="stable")
    names, counts = np.unique(codes[codes >= 0], return_counts=True)
    ways = names[counts > 1]
    first: list[int] = []
    second: list[int] = []
    for way in ways:
        rows = shuffled[codes[shuffled] == way]
        first.extend(rows[: -(-len(rows) // 2)])
        second.extend(rows[-(-len(rows) // 2) :])
    return np.array(first, int), np.array(second, int), ways


@functools.partial(jax.jit, static_argnames="way")
def _probe(
    features: Float[Array, "n d"],
    label: Int[Array, "n"],
    asked: Float[Array, "m d"],
    truth: Int[Array, "m"],
    *,
    way: int,
) -> Float[Array, ""]:
    weight, bias = fit_logistic(features, label, jnp.ones(label.shape, bool), way=way)
    logits = jnp.matmul(asked, weight, precision=lax.Precision.HIGHEST) + bias[None, :]
    return jnp.mean(jnp.argmax(logits, axis=1) == truth)
