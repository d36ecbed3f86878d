"""Prototypical and matching networks against NumPy loops written from the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsl_jax.algorithms import matching, protonet
from fsl_jax.models.conv4 import Conv4

WAY, SHOT, QUERIES = 3, 2, 4
BODY = Conv4(filters=4, reduction="stride", readout="mean", norm="batch")


def embeddings():
    rng = np.random.default_rng(0)
    return rng.standard_normal((WAY * SHOT, 5)).astype(np.float32), rng.standard_normal((QUERIES, 5)).astype(
        np.float32
    )


def log_softmax(values):
    values = values - values.max()
    return values - np.log(np.exp(values).sum())


def test_prototypes_are_compared_by_squared_euclidean_distance():
    support, query = embeddings()
    got = jax.nn.log_softmax(protonet.make(BODY, way=WAY).logits(support, query, way=WAY))
    for q in range(QUERIES):
        distances = []
        for label in range(WAY):
            centre = sum(support[label * SHOT + s] for s in range(SHOT)) / SHOT
            distances.append(sum((query[q, d] - centre[d]) ** 2 for d in range(5)))
        np.testing.assert_allclose(got[q], log_softmax(-np.array(distances)), rtol=1e-4, atol=1e-5)


def test_cosine_and_temperature_are_options():
    support, query = embeddings()
    got = protonet.make(BODY, way=WAY, distance="cosine", temperature=0.5).logits(support, query, way=WAY)
    centre = support[:SHOT].mean(0)
    similarity = query[0] @ centre / np.linalg.norm(query[0]) / np.linalg.norm(centre)
    np.testing.assert_allclose(got[0, 0], -(1 - similarity) / 0.5, rtol=1e-4)


def test_matching_votes_with_a_softmax_of_cosines():
    support, query = embeddings()
    got = np.exp(matching.make(BODY, way=WAY, temperature=0.7).logits(support, query, way=WAY))
    for q in range(QUERIES):
        cosines = [query[q] @ s / np.linalg.norm(query[q]) / np.linalg.norm(s) for s in support]
        attention = np.exp(log_softmax(np.array(cosines) / 0.7))
        votes = [attention[label * SHOT : (label + 1) * SHOT].sum() for label in range(WAY)]
        np.testing.assert_allclose(got[q], votes, rtol=1e-4)


@pytest.mark.parametrize("module", [protonet, matching])
def test_any_number_of_labels_can_be_asked_for(module):
    support, query = embeddings()
    method = module.make(BODY, way=60)
    assert method.logits(jnp.asarray(support), jnp.asarray(query), way=6).shape == (QUERIES, 6)


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="distance is 'euclid'; known: squared_euclidean, euclidean, cosine"):
        protonet.make(BODY, way=WAY, distance="euclid")
    with pytest.raises(ValueError, match="temperature is 0; expected more than 0"):
        matching.make(BODY, way=WAY, temperature=0)
