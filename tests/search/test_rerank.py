import numpy as np
import pytest

from fsl_jax.search import engines
from fsl_jax.search.engines import Found
from fsl_jax.search.rerank import Whitening, k_reciprocal, query_expansion


def unit(points):
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def at(*degrees):
    """Unit vectors by their angle."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def photos(rows, queries, dimensions=6, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((rows // 6, dimensions))
    gallery = centres[np.arange(rows) // 6] + 0.6 * rng.standard_normal((rows, dimensions))
    sought = centres[rng.integers(0, len(centres), queries)] + 0.6 * rng.standard_normal(
        (queries, dimensions)
    )
    return unit(sought), unit(gallery)


def search(queries, gallery, k):
    return engines.make("exact", gallery, devices=1).search(queries, k)


# k-reciprocal


def reciprocal_loop(query, candidates, k1, k2, lambda_value):
    """Zhong et al. 2017, sections 3.2 to 3.5, photo by photo; returns the final distance of each candidate."""
    points = [query, *candidates]
    count = len(points)
    d = [[1.0 - float(np.dot(a, b)) for b in points] for a in points]

    def neighbours(p, k):  # eq. 2; with itself
        return [p, *sorted((g for g in range(count) if g != p), key=lambda g: d[p][g])[:k]]

    def reciprocal(p, k):  # eq. 3
        return {g for g in neighbours(p, k) if p in neighbours(g, k)}

    def expanded(p):  # eq. 4
        result = set(reciprocal(p, k1))
        for q in reciprocal(p, k1):
            smaller = reciprocal(q, round(k1 / 2 + 1e-9))
            if len(reciprocal(p, k1) & smaller) >= 2 / 3 * len(smaller) - 1e-9:
                result |= smaller
        return result

    def encoded(p):  # eq. 7
        mine = expanded(p)
        return [np.exp(-d[p][g]) if g in mine else 0.0 for g in range(count)]

    vectors = [encoded(p) for p in range(count)]
    averaged = [  # eq. 11
        [np.mean([vectors[g][i] for g in neighbours(p, k2 - 1)]) for i in range(count)] for p in range(count)
    ]
    final = []
    for g in range(1, count):
        both = list(zip(averaged[0], averaged[g], strict=True))
        jaccard = 1 - sum(map(min, both)) / sum(map(max, both))  # eq. 10
        final.append((1 - lambda_value) * jaccard + lambda_value * d[0][g])  # eq. 12
    return final


@pytest.mark.parametrize(("k1", "k2", "lambda_value"), [(6, 3, 0.3), (7, 1, 0.0), (4, 2, 0.7), (50, 60, 0.3)])
def test_re_ranking_equals_the_loop_of_the_paper(k1, k2, lambda_value):
    queries, gallery = photos(60, 5)
    found = search(queries, gallery, 25)
    again = k_reciprocal(queries, gallery, found, k1=k1, k2=k2, lambda_value=lambda_value)
    for i, rows in enumerate(found.rows):
        expected = reciprocal_loop(queries[i], gallery[rows], k1, k2, lambda_value)
        by_row = dict(zip(again.rows[i].tolist(), again.scores[i].tolist(), strict=True))
        np.testing.assert_allclose([1 - by_row[int(row)] for row in rows], expected, atol=2e-6)


def test_re_ranked_candidates_are_the_same_ones_best_first():
    queries, gallery = photos(60, 5)
    found = search(queries, gallery, 25)
    again = k_reciprocal(queries, gallery, found, k1=6, k2=3, lambda_value=0.3)
    np.testing.assert_array_equal(np.sort(again.rows, axis=1), np.sort(found.rows, axis=1))
    assert (np.diff(again.scores, axis=1) <= 0).all()
    assert (again.rows != found.rows).any()


def test_with_lambda_1_the_scores_are_the_cosines():
    queries, gallery = photos(60, 5)
    found = search(queries, gallery, 25)
    again = k_reciprocal(queries, gallery, found, k1=6, k2=3, lambda_value=1.0)
    np.testing.assert_array_equal(again.rows, found.rows)
    np.testing.assert_allclose(again.scores, found.scores, atol=1e-6)


def test_a_lonely_photo_falls_behind_one_of_the_query_s_own_crowd():
    # The photo at -6 is nearer than that at 9, but it belongs to the crowd on its other side.
    gallery = at(-6, -7, -8, -8.5, 2, 4, 9)
    found = search(at(1), gallery, 7)
    assert found.rows[0].tolist().index(0) < found.rows[0].tolist().index(6)
    again = k_reciprocal(at(1), gallery, found, k1=3, k2=1, lambda_value=0.0).rows[0].tolist()
    assert again.index(6) < again.index(0)


def test_re_ranking_leaves_missing_rows_last():
    queries, gallery = photos(12, 3)
    found, more = (search(queries, gallery, k) for k in (12, 15))
    here, there = (
        k_reciprocal(queries, gallery, each, k1=4, k2=2, lambda_value=0.3) for each in (found, more)
    )
    np.testing.assert_array_equal(there.rows[:, :12], here.rows)
    assert (there.rows[:, 12:] == -1).all()
    assert np.isneginf(there.scores[:, 12:]).all()


def test_a_photo_is_its_own_nearest_among_its_copies():
    gallery = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    query = np.array([[0.8, 0.6, 0.0]], np.float32)
    again = k_reciprocal(query, gallery, search(query, gallery, 12), k1=2, k2=2, lambda_value=0.3)
    expected = reciprocal_loop(query[0], gallery, 2, 2, 0.3)
    np.testing.assert_allclose(1 - again.scores[0], np.array(expected)[again.rows[0]], atol=2e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k1": 0, "k2": 1, "lambda_value": 0.3}, "k1 is 0, k2 1; expected at least 1"),
        ({"k1": 1, "k2": 0, "lambda_value": 0.3}, "k1 is 1, k2 0; expected at least 1"),
        ({"k1": 1, "k2": 1, "lambda_value": 1.1}, "lambda_value is 1.1; expected 0 to 1"),
    ],
)
def test_re_ranking_refuses_options_out_of_range(options, said):
    gallery = at(0, 10)
    with pytest.raises(ValueError, match=said):
        k_reciprocal(at(1), gallery, search(at(1), gallery, 2), **options)


def test_what_was_found_elsewhere_is_refused():
    found = search(at(1), at(0, 10, 20), 3)
    with pytest.raises(ValueError, match="the row 2; expected what was found for these 1 queries"):
        k_reciprocal(at(1), at(0, 10), found, k1=1, k2=1, lambda_value=0.3)
    with pytest.raises(ValueError, match="found has 1 queries"):
        query_expansion(at(1, 2), at(0, 10, 20), found, neighbours=1, alpha=0.0)


# query expansion


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
def test_query_expansion_equals_the_loop_of_the_papers(alpha):
    queries, gallery = photos(60, 8)
    found = search(queries, gallery, 12)
    expanded = query_expansion(queries, gallery, found, neighbours=10, alpha=alpha)
    for query, rows, result in zip(queries, found.rows, expanded, strict=True):
        total = query.astype(np.float64)
        for row in rows[:10]:
            cosine = float(query @ gallery[row])
            weight = 1.0 if alpha == 0 else max(cosine, 0.0) ** alpha
            total = total + weight * gallery[row]
        np.testing.assert_allclose(result, total / np.linalg.norm(total), atol=1e-6)
    assert expanded.dtype == np.float32


def test_the_average_of_the_query_and_its_neighbour_lies_in_the_middle():
    gallery = at(10, 90)
    expanded = query_expansion(at(0), gallery, search(at(0), gallery, 1), neighbours=1, alpha=0.0)
    np.testing.assert_allclose(expanded, at(5), atol=1e-6)


def test_a_neighbour_on_the_other_side_weighs_nothing():
    gallery = at(10, 180)
    found = search(at(0), gallery, 2)
    one, two = (query_expansion(at(0), gallery, found, neighbours=n, alpha=3.0) for n in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_missing_neighbours_are_left_out():
    gallery = at(10, 20)
    found = search(at(0), gallery, 4)
    two, four = (query_expansion(at(0), gallery, found, neighbours=n, alpha=0.0) for n in (2, 4))
    np.testing.assert_array_equal(two, four)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"neighbours": 3, "alpha": 1.0}, "neighbours is 3; expected 1 to 2"),
        ({"neighbours": 0, "alpha": 1.0}, "neighbours is 0; expected 1 to 2"),
        ({"neighbours": 1, "alpha": -1.0}, "alpha is -1.0; expected at least 0"),
    ],
)
def test_query_expansion_refuses_options_out_of_range(options, said):
    gallery = at(0, 10)
    with pytest.raises(ValueError, match=said):
        query_expansion(at(1), gallery, search(at(1), gallery, 2), **options)


def test_query_expansion_takes_no_rows_but_those_found():
    found = Found(np.ones((1, 1), np.float32), np.array([[1]]))
    expanded = query_expansion(at(0), at(50, 10), found, neighbours=1, alpha=0.0)
    np.testing.assert_allclose(expanded, at(5), atol=1e-6)


# whitening


def whitening_loop(embeddings, others, dimensions):
    """Principal components one by one, each divided by the standard deviation along it."""
    points = embeddings.astype(np.float64)
    mean = sum(points) / len(points)
    covariance = sum(np.outer(point - mean, point - mean) for point in points) / len(points)
    values, vectors = np.linalg.eig(covariance)
    best = sorted(range(len(values)), key=lambda i: -values[i].real)[:dimensions]
    result = []
    for other in others:
        projected = [(other - mean) @ vectors[:, i].real / np.sqrt(values[i].real) for i in best]
        result.append(np.array(projected) / np.linalg.norm(projected))
    return np.array(result)


@pytest.mark.parametrize("dimensions", [1, 4, 6])
def test_whitening_equals_the_loop(dimensions):
    queries, gallery = photos(60, 8)
    ours = Whitening.fit(gallery, dimensions=dimensions).apply(queries)
    expected = whitening_loop(gallery, queries, dimensions)
    # The sign of a direction is free, and the same for all photos.
    np.testing.assert_allclose(np.abs(ours), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(ours @ ours.T, expected @ expected.T, atol=1e-4)


def test_whitened_embeddings_have_length_1_and_so_many_dimensions():
    queries, gallery = photos(60, 8)
    white = Whitening.fit(gallery, dimensions=3).apply(queries)
    assert (white.shape, white.dtype) == ((8, 3), np.float32)
    np.testing.assert_allclose(np.linalg.norm(white, axis=1), 1.0, atol=1e-6)


def test_each_direction_varies_as_much_as_any_other_before_the_length_is_taken_out():
    _, gallery = photos(600, 1)
    fitted = Whitening.fit(gallery, dimensions=6)
    white = (gallery - fitted.mean) @ fitted.kernel
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(6), atol=1e-4)


def test_whitening_reads_a_memory_map_in_parts(tmp_path, monkeypatch):
    from fsl_jax.search.engines import _found

    _, gallery = photos(60, 1)
    np.save(tmp_path / "embeddings.npy", gallery)
    whole = Whitening.fit(gallery, dimensions=4)
    monkeypatch.setattr(_found, "BLOCK", 7)
    parts = Whitening.fit(np.load(tmp_path / "embeddings.npy", mmap_mode="r"), dimensions=4)
    np.testing.assert_allclose(np.abs(parts.kernel), np.abs(whole.kernel), rtol=1e-4)


def test_an_embedding_that_is_the_mean_stays_0():
    fitted = Whitening.fit(
        np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], np.float32), dimensions=2
    )
    np.testing.assert_array_equal(fitted.apply(np.zeros((1, 2), np.float32)), [[0.0, 0.0]])


@pytest.mark.parametrize(
    ("gallery", "dimensions", "said"),
    [
        (at(0, 10, 20), 3, "dimensions is 3; expected 1 to 2"),
        (at(0, 10, 20), 0, "dimensions is 0; expected 1 to 2"),
        (at(0), 1, "there are 1 embeddings; expected at least 2"),
        (at(0, 10), 2, "dimensions is 2, but 2 embeddings vary in 1 directions: give at most 1"),
    ],
)
def test_whitening_refuses_more_than_the_embeddings_hold(gallery, dimensions, said):
    with pytest.raises(ValueError, match=said):
        Whitening.fit(gallery, dimensions=dimensions)
