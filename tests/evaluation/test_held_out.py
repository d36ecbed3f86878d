"""Weighted nearest neighbours against a loop, the linear probe against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import table_of_counts
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fsl_jax.evaluation import held_out
from fsl_jax.mesh import data_mesh, replicated

RANDOM = np.random.default_rng(0)
CODES = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, -1, 3, 3, 3, 3, 3, 3, 4])
CENTRES = RANDOM.standard_normal((5, 6))
PHOTOS = (CENTRES[CODES] + 0.9 * RANDOM.standard_normal((len(CODES), 6))).astype(np.float32)


def loop(photos, codes, neighbours, temperature):
    """Wu et al. 2018, section 3.4, with each photo left out of its own gallery."""
    unit = photos / np.linalg.norm(photos, axis=1, keepdims=True)
    right = []
    for i in np.flatnonzero(codes >= 0):
        others = [j for j in np.flatnonzero(codes >= 0) if j != i]
        others.sort(key=lambda j: -float(unit[i] @ unit[j]))
        votes = np.zeros(codes.max() + 1)
        for j in others[:neighbours]:
            votes[codes[j]] += np.exp(unit[i] @ unit[j] / temperature)
        right.append(votes.argmax() == codes[i])
    return np.mean(right)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(("neighbours", "temperature"), [(1, 0.07), (3, 0.07), (5, 1.0), (100, 0.5)])
def test_weighted_neighbours_equal_a_loop(devices, neighbours, temperature):
    mesh = data_mesh(devices)
    got = held_out.weighted_knn(
        jax.device_put(jnp.asarray(PHOTOS), replicated(mesh)),
        CODES,
        mesh=mesh,
        neighbours=neighbours,
        temperature=temperature,
    )
    expected = loop(PHOTOS, CODES, neighbours, temperature)
    assert 0.2 < expected < 1
    assert got == pytest.approx(expected, abs=1e-6)


def test_a_photo_does_not_vote_for_itself():
    codes = np.arange(8)
    photos = jax.device_put(jnp.eye(8), replicated(data_mesh(1)))
    assert held_out.weighted_knn(photos, codes, mesh=data_mesh(1), neighbours=3, temperature=0.1) == 0


def test_the_probe_equals_scikit_learn_on_the_same_halves():
    codes = np.repeat([0, 1, 2, 7, -1], 9)
    random = np.random.default_rng(1)
    photos = random.standard_normal((8, 5))[codes] + random.standard_normal((45, 5))
    photos = photos.astype(np.float32)
    learned, asked, ways = held_out._halves(jax.random.key(0), codes)
    assert ways.tolist() == [0, 1, 2, 7]
    assert not set(learned) & set(asked)
    assert np.bincount(codes[learned])[ways].tolist() == [5] * 4
    assert np.bincount(codes[asked])[ways].tolist() == [4] * 4
    scaler = StandardScaler().fit(photos[learned])
    reference = LogisticRegression(max_iter=1000).fit(scaler.transform(photos[learned]), codes[learned])
    expected = reference.score(scaler.transform(photos[asked]), codes[asked])
    assert 0.25 < expected < 1
    assert held_out.linear_probe(jax.random.key(0), photos, codes) == pytest.approx(expected, abs=1e-6)


def test_the_probe_of_many_labels_is_at_its_minimum():
    """More labels than two photos each tell apart, and as many features as there are photos."""
    random = np.random.default_rng(0)
    codes = np.repeat(np.arange(144), 6)
    photos = (random.standard_normal((144, 300))[codes] + 1.5 * random.standard_normal((864, 300))).astype(
        np.float32
    )
    learned, asked, _ = held_out._halves(jax.random.key(0), codes)
    scaler = StandardScaler().fit(photos[learned])
    reference = LogisticRegression(max_iter=1000).fit(scaler.transform(photos[learned]), codes[learned])
    expected = reference.score(scaler.transform(photos[asked]), codes[asked])
    assert expected > 0.5
    assert held_out.linear_probe(jax.random.key(0), photos, codes) == pytest.approx(expected, abs=0.01)


def test_labels_with_one_photo_have_no_other_half():
    assert np.isnan(held_out.linear_probe(jax.random.key(0), np.eye(3, dtype=np.float32), np.arange(3)))


def test_a_level_that_is_not_there_lists_those_that_are():
    with pytest.raises(ValueError, match=r"config.eval.held_out.level is 'typo'"):
        held_out.codes_of(table_of_counts([2, 2]), "typo")


@pytest.mark.parametrize(("neighbours", "temperature"), [(0, 0.1), (3, 0.0)])
def test_settings_without_a_meaning_are_errors(neighbours, temperature):
    with pytest.raises(ValueError, match=r"config.eval.held_out.neighbours is"):
        held_out.weighted_knn(
            jnp.asarray(PHOTOS), CODES, mesh=data_mesh(1), neighbours=neighbours, temperature=temperature
        )
