"""The nearest wrong photos of a gallery, against a loop that sorts it whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsl_jax.mining import gallery
from fsl_jax.mining.gallery import nearest_negatives


def by_sorting(query, photos, query_label, label, *, count, duplicate):
    """For each query the places, nearest first and the smaller place first where two are as near."""
    nearest = []
    for embedding, own in zip(np.asarray(query, np.float64), query_label, strict=True):
        ranked = []
        for place, (photo, of_photo) in enumerate(zip(np.asarray(photos, np.float64), label, strict=True)):
            distance = np.sqrt(np.sum((embedding - photo) ** 2))
            if of_photo != own and distance > duplicate:
                ranked.append((distance, place))
        nearest.append([place for _, place in sorted(ranked)[:count]])
    return nearest


def looked_up(query, photos, query_label, label, *, count, duplicate, jit=False):
    """The places of each query, without those behind `found`."""
    function = functools.partial(nearest_negatives, count=count, duplicate=duplicate)
    place, found = (jax.jit(function) if jit else function)(
        *(jnp.asarray(values) for values in (query, photos, query_label, label))
    )
    assert (place.shape, found.shape) == ((len(query), count), (len(query),))
    assert (place.dtype, found.dtype) == (jnp.int32, jnp.int32)
    return [row[:many] for row, many in zip(np.asarray(place).tolist(), found.tolist(), strict=True)]


def whole_numbers(*, queries, photos, seed, dimensions=3):
    """Embeddings of few whole numbers: distances are exact in float32, and many are equal."""
    rng = np.random.default_rng(seed)
    query, other = (rng.integers(-2, 3, (rows, dimensions)).astype(np.float32) for rows in (queries, photos))
    return query, other, rng.integers(0, 4, queries), rng.integers(0, 4, photos)


@pytest.mark.parametrize("block", [256, 23, 10, 5, 1])
@pytest.mark.parametrize("duplicate", [0.0, 1.0])
def test_blocks_of_any_size_find_what_a_full_sort_finds(block, duplicate, monkeypatch):
    monkeypatch.setattr(gallery, "BLOCK", block)  # 23 queries are no multiple of 10 and 5
    case = whole_numbers(queries=23, photos=40, seed=0)
    expected = by_sorting(*case, count=6, duplicate=duplicate)
    assert {len(places) for places in expected} == {6}
    assert looked_up(*case, count=6, duplicate=duplicate) == expected


def test_jit_finds_the_same():
    case = whole_numbers(queries=7, photos=20, seed=1)
    expected = looked_up(*case, count=4, duplicate=0.5)
    assert looked_up(*case, count=4, duplicate=0.5, jit=True) == expected


def test_embeddings_of_length_1_are_ranked_by_angle():
    degrees = np.array([10, 200, 90, -30, 45, 60])
    photos = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1).astype(np.float32)
    query = np.array([[1, 0]], np.float32)
    # 10 and 90 degrees are of the query's own label.
    found = looked_up(query, photos, np.array([0]), np.array([0, 1, 0, 2, 1, 1]), count=3, duplicate=1e-3)
    assert found == [[3, 4, 5]]


def test_of_photos_as_near_the_smaller_place_comes_first():
    photos = np.array([[2.0], [-1.0], [1.0], [-1.0], [0.5]], np.float32)
    label = np.array([1, 1, 1, 1, 0])
    found = looked_up(np.zeros((1, 1), np.float32), photos, np.array([0]), label, count=3, duplicate=0.0)
    assert found == [[1, 2, 3]]


def test_fewer_wrong_photos_than_asked_for_are_counted():
    # Wrong photos: 3 of label 0's query, 2 of label 1's, all 5 of label 2's, which the gallery lacks.
    photos = np.arange(5, dtype=np.float32)[:, None]
    label = np.array([0, 1, 0, 1, 1])
    queries = np.full((3, 1), 5, np.float32)
    found = looked_up(queries, photos, np.array([0, 1, 2]), label, count=4, duplicate=0.0)
    assert found == [[4, 3, 1], [2, 0], [4, 3, 2, 1]]


def test_more_photos_may_be_asked_for_than_the_gallery_has():
    photos = np.arange(3, dtype=np.float32)[:, None]
    queries = np.full((2, 1), 3, np.float32)
    found = looked_up(queries, photos, np.array([0, 1]), np.array([0, 0, 0]), count=7, duplicate=0.0)
    assert found == [[], [2, 1, 0]]


def test_photos_up_to_the_duplicate_distance_are_left_out():
    photos = np.array([[0.0], [0.5], [-0.5], [0.75], [-1.0]], np.float32)
    label = np.array([1, 1, 1, 1, 1])
    query = np.zeros((1, 1), np.float32)
    assert looked_up(query, photos, np.array([0]), label, count=5, duplicate=0.5) == [[3, 4]]
    assert looked_up(query, photos, np.array([0]), label, count=5, duplicate=0.25) == [[1, 2, 3, 4]]
    assert looked_up(query, photos, np.array([0]), label, count=5, duplicate=0.0) == [[1, 2, 3, 4]]
    assert looked_up(query, photos, np.array([0]), label, count=5, duplicate=2.0) == [[]]


@pytest.mark.parametrize(
    ("length", "dimensions"),
    [(1, 64), (1, 1280), (30, 64)],
)
def test_the_same_embedding_under_another_label_is_a_duplicate(length, dimensions):
    rng = np.random.default_rng(0)
    photos = rng.standard_normal((64, dimensions)).astype(np.float32)
    photos *= length / np.linalg.norm(photos, axis=1, keepdims=True)
    found = looked_up(photos, photos, np.arange(64), np.arange(64) + 64, count=64, duplicate=1e-3)
    assert all(place not in places for place, places in enumerate(found))


def test_many_queries_need_no_matrix_of_all(monkeypatch):
    monkeypatch.setattr(gallery, "BLOCK", 256)
    rows = 20_000
    embeddings = jax.ShapeDtypeStruct((rows, 16), jnp.float32)
    labels = jax.ShapeDtypeStruct((rows,), jnp.int32)
    function = functools.partial(nearest_negatives, count=25, duplicate=1e-3)
    compiled = jax.jit(function).lower(embeddings, embeddings, labels, labels).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    block = 256 * rows * 4  # 20 MB; the matrix of all would be 1.6 GB
    assert block / 2 < temporary < 200e6
