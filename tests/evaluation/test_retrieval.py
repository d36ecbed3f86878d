"""Retrieval measures from embeddings, against scikit-learn and loops in NumPy."""

import functools
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from fsl_jax.evaluation import _ranking
from fsl_jax.evaluation.retrieval import metrics_by_category, nearest, retrieval_metrics, retrieval_per_query

KS = (1, 3, 10)
SHAPES = ((17, 40), (24, 63), (9, 301), (33, 8))


def lattice(rng, count, dimensions=4):
    """Small whole numbers: products are exact, and many distances tie."""
    return rng.integers(-2, 3, (count, dimensions)).astype(np.float32)


def case(seed, labels=6):
    """A random retrieval with ties, junk, and queries without a match."""
    rng = np.random.default_rng(seed)
    queries, photos = SHAPES[seed % len(SHAPES)]
    return {
        "query": lattice(rng, queries),
        "gallery": lattice(rng, photos),
        "query_labels": rng.integers(0, labels + 2, queries),
        "gallery_labels": rng.integers(0, labels, photos),
        "query_groups": rng.integers(0, 3, queries),
        "gallery_groups": rng.integers(0, 3, photos),
    }


def judge(given, **options):
    arrays = [given[name] for name in ("query", "gallery", "query_labels", "gallery_labels")]
    groups = {name: given[name] for name in ("query_groups", "gallery_groups") if given.get(name) is not None}
    return retrieval_per_query(*arrays, **{"distance": "euclidean", "ks": KS} | groups | options)


def reference(given):
    """One dictionary a query, None where it has no match, from its valid photos alone."""
    for i, photo in enumerate(given["query"]):
        same = given["gallery_labels"] == given["query_labels"][i]
        valid = ~(same & (given["gallery_groups"] == given["query_groups"][i]))
        relevant = same[valid]
        scores = -np.square(given["gallery"][valid] - photo).sum(axis=1)
        yield reference_query(relevant, scores) if relevant.any() else None


def reference_query(relevant, scores):
    first = scores[relevant].max()
    above, tied = int((scores > first).sum()), int((scores == first).sum())
    wrong = tied - int((relevant & (scores == first)).sum())
    drawn = [min(max(k - above, 0), tied) for k in KS]
    total = int(relevant.sum())
    in_r = [
        min(max(total - int((scores > s).sum()), 0) / int((scores == s).sum()), 1) for s in scores[relevant]
    ]
    return {
        "average_precision": average_precision_score(relevant, scores),
        "r_precision": sum(in_r) / total,
        "hit": [1 - math.comb(wrong, n) / math.comb(tied, n) for n in drawn],
        "first_hit_rank": above + (tied + 1) / (tied - wrong + 1),
        "positives": total,
    }


def largest_difference(seed, **options):
    given = case(seed)
    result = judge(given, **options)
    worst = 0.0
    for i, expected in enumerate(reference(given)):
        assert result.has_match[i] == (expected is not None)
        for name, value in (expected or {}).items():
            worst = max(worst, float(np.abs(getattr(result, name)[i] - np.asarray(value)).max()))
    return worst


def test_200_random_cases_agree_with_scikit_learn_and_loops():
    devices = jax.devices()[:1]
    assert max(largest_difference(seed, devices=devices) for seed in range(200)) < 1e-6


@pytest.mark.parametrize("devices", [2, 3, 8])
def test_any_number_of_devices_gives_the_same_numbers(devices):
    some = jax.devices()[:devices]
    for seed in range(4):
        one, many = judge(case(seed), devices=jax.devices()[:1]), judge(case(seed), devices=some, block=16)
        for name, values in one.named().items():
            np.testing.assert_allclose(values, many.named()[name], rtol=1e-12, err_msg=name)
        assert largest_difference(seed, devices=some, block=16) < 1e-6


def test_discounted_gain_agrees_with_scikit_learn():
    given = case(0) | {"query_groups": None, "gallery_groups": None}
    result = judge(given)
    for i in np.flatnonzero(result.has_match):
        relevant = given["gallery_labels"] == given["query_labels"][i]
        scores = -np.square(given["gallery"] - given["query"][i]).sum(axis=1)
        expected = [ndcg_score([relevant], [scores], k=k) for k in KS]
        np.testing.assert_allclose(result.ndcg[i], expected, atol=1e-6)


def test_leave_one_out_is_the_whole_set_without_the_query_itself():
    rng = np.random.default_rng(5)
    photos, labels = lattice(rng, 40), rng.integers(0, 12, 40)
    result = retrieval_per_query(photos, None, labels, None, distance="euclidean", ks=KS)
    for i in range(40):
        rest = np.arange(40) != i
        relevant, scores = labels[rest] == labels[i], -np.square(photos[rest] - photos[i]).sum(axis=1)
        assert result.has_match[i] == relevant.any()
        if relevant.any():
            assert result.average_precision[i] == pytest.approx(
                average_precision_score(relevant, scores), abs=1e-6
            )


def test_excluding_oneself_from_a_larger_gallery():
    rng = np.random.default_rng(6)
    photos, labels = lattice(rng, 50), rng.integers(0, 9, 50)
    some = retrieval_per_query(
        photos[:20], photos, labels[:20], labels, distance="euclidean", ks=KS, exclude_self=True
    )
    alone = retrieval_per_query(photos, None, labels, None, distance="euclidean", ks=KS)
    for name, values in some.named().items():
        np.testing.assert_allclose(values, alone.named()[name][:20], rtol=1e-12, err_msg=name)


def test_groups_with_leave_one_out_ignore_the_same_camera():
    rng = np.random.default_rng(7)
    photos, labels, cameras = lattice(rng, 40), rng.integers(0, 5, 40), rng.integers(0, 2, 40)
    alone = retrieval_per_query(photos, None, labels, None, distance="euclidean", ks=KS, query_groups=cameras)
    both = judge(
        {"query": photos, "gallery": photos, "query_labels": labels, "gallery_labels": labels}
        | {"query_groups": cameras, "gallery_groups": cameras}
    )
    np.testing.assert_array_equal(alone.average_precision, both.average_precision)


def test_collapsed_embeddings_give_the_base_rate():
    labels = np.repeat(np.arange(10), 5)
    metrics = retrieval_metrics(np.ones((50, 8), np.float32), None, labels, None, distance="cosine", ks=(1,))
    for name in ("mAP", "R@1", "CMC@1", "R-precision", "nDCG@1"):
        assert metrics[name] == pytest.approx(4 / 49), name


def test_names_are_labels_too():
    given = case(0)
    named = given | {
        name: np.char.add("article_", given[name].astype(str)) for name in given if "labels" in name
    }
    np.testing.assert_array_equal(judge(given).average_precision, judge(named).average_precision)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_cosine_does_not_depend_on_length(scale):
    rng = np.random.default_rng(8)
    query, gallery = rng.standard_normal((12, 8)), rng.standard_normal((30, 8))
    labels = rng.integers(0, 4, 12), rng.integers(0, 4, 30)
    result = retrieval_per_query(query * scale, gallery, *labels, distance="cosine")
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (query, gallery)]
    scores = unit[0] @ unit[1].T
    expected = [
        average_precision_score(labels[1] == label, row) for label, row in zip(labels[0], scores, strict=True)
    ]
    np.testing.assert_allclose(result.average_precision, expected, atol=1e-6)


def test_the_cosine_with_a_zero_vector_is_zero():
    gallery = np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    found = nearest(np.array([[2.0, 0.0], [0.0, 0.0]]), gallery, k=3, distance="cosine")
    assert found.row.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert found.distance.tolist() == [[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]]


def test_cut_offs_beyond_the_gallery_equal_its_size():
    given = case(1) | {"query_groups": None, "gallery_groups": None}
    result = judge(given, ks=(63, 1000))
    np.testing.assert_array_equal(result.hit[:, 0], result.hit[:, 1])
    np.testing.assert_array_equal(result.ndcg[:, 0], result.ndcg[:, 1])
    assert (result.hit[result.has_match] == 1).all()


def test_without_any_match_means_are_nan_and_queries_are_counted():
    metrics = retrieval_metrics(np.eye(3), np.eye(3), np.arange(3), np.arange(3) + 9, distance="cosine")
    assert math.isnan(metrics["mAP"])
    assert (metrics["queries"], metrics["queries_without_match"]) == (3, 3)


def test_queries_without_a_match_stay_out_of_the_means():
    photos, labels = np.eye(4), np.array([0, 1, 2, 2])
    metrics = retrieval_metrics(photos, photos, np.array([0, 7, 2, 2]), labels, distance="cosine", ks=(1,))
    assert (metrics["R@1"], metrics["queries_without_match"]) == (1.0, 1)


def test_means_by_category():
    given = case(2)
    result = judge(given)
    categories = np.array(["bag", "shoe", "belt"])[np.arange(9) % 3]
    by_category = metrics_by_category(result, categories)
    assert list(by_category) == ["bag", "belt", "shoe"]
    assert sum(means["queries"] for means in by_category.values()) == 9
    judged = result.has_match & (categories == "shoe")
    assert by_category["shoe"]["mAP"] == result.average_precision[judged].mean()


def test_many_positives_are_counted_by_sorting(monkeypatch):
    rng = np.random.default_rng(9)
    given = {"query": lattice(rng, 8), "gallery": lattice(rng, 500)}
    given |= {"query_labels": np.zeros(8, int), "gallery_labels": np.arange(500) % 2}
    compared = judge(given)
    _ranking.block_counter.cache_clear()
    for name in ("COMPARED", "COMPARED_IN_LANES"):
        monkeypatch.setattr(_ranking, name, 1)
    ordered = judge(given)
    _ranking.block_counter.cache_clear()
    for name, values in compared.named().items():
        np.testing.assert_array_equal(values, ordered.named()[name], err_msg=name)


def test_the_way_of_counting_of_other_devices_gives_the_same():
    rng = np.random.default_rng(10)
    values = rng.integers(0, 9, (5, 512)).astype(np.float32)
    limits = rng.integers(0, 9, (5, 6)).astype(np.float32)
    for one_by_one in (False, True):
        greater, at_least = _ranking.count_above(values, limits, one_by_one=one_by_one)
        np.testing.assert_array_equal(greater, (values[:, None] > limits[:, :, None]).sum(axis=2))
        np.testing.assert_array_equal(at_least, (values[:, None] >= limits[:, :, None]).sum(axis=2))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("devices", [1, 3])
def test_nearest_rows_in_order_and_ties_in_the_order_of_the_gallery(distance, devices):
    rng = np.random.default_rng(11)
    query, gallery = lattice(rng, 10), lattice(rng, 70)
    found = nearest(query, gallery, k=60, distance=distance, block=4, devices=jax.devices()[:devices])
    distances = np.linalg.norm(query[:, None] - gallery[None], axis=2)
    if distance == "cosine":
        lengths = [np.maximum(np.linalg.norm(side, axis=1), 1e-9) for side in (query, gallery)]
        distances = 1 - (query @ gallery.T) / lengths[0][:, None] / lengths[1][None, :]
    else:
        np.testing.assert_array_equal(found.row, np.argsort(distances, axis=1, kind="stable")[:, :60])
    np.testing.assert_allclose(found.distance, np.sort(distances, axis=1)[:, :60], atol=2e-6)


def test_nearest_in_oneself_leaves_oneself_out():
    photos = np.array([[0.0], [1.0], [3.0]])
    found = nearest(photos, None, k=2, distance="euclidean")
    assert found.row.tolist() == [[1, 2], [0, 2], [1, 0]]
    assert found.distance.tolist() == [[1, 3], [1, 2], [2, 3]]


@pytest.mark.parametrize("spec", [("rows",), ()])
@pytest.mark.parametrize("devices", [2, 8])
def test_arrays_may_lie_on_any_devices(spec, devices):
    given = case(3)
    mesh = jax.sharding.Mesh(jax.devices(), ("rows",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    placed = given | {"gallery": jax.device_put(given["gallery"], rows)}
    placed |= {"query": jax.device_put(given["query"], jax.devices()[3])}
    result = judge(placed, devices=jax.devices()[:devices])
    np.testing.assert_allclose(result.average_precision, judge(given).average_precision, rtol=1e-12)


def test_bfloat16_products_move_the_measures_little():
    rng = np.random.default_rng(12)
    labels = np.repeat(np.arange(60), 5)
    photos = rng.standard_normal((60, 64))[labels] + 1.5 * rng.standard_normal((300, 64))
    exact, rough = (
        retrieval_metrics(photos, None, labels, None, distance="cosine", precision=precision)
        for precision in ("float32", "bfloat16")
    )
    assert 0 < abs(exact["mAP"] - rough["mAP"]) < 0.005


def test_progress_reaches_the_number_of_queries_with_a_match():
    calls = []
    result = judge(case(0), block=5, progress=lambda done, total: calls.append((done, total)))
    total = int(result.has_match.sum())
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted({min(5 * i, total) for i in range(1, len(calls) + 1)})


def changed(**values):
    return case(0) | {"query_groups": None, "gallery_groups": None} | values


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (changed(gallery=np.full((40, 4), np.nan)), {}, "gallery row 0 holds a NaN"),
        (
            changed(query=np.where(np.arange(17)[:, None] == 9, np.inf, 1.0) * np.ones(4)),
            {},
            "query row 9 holds",
        ),
        (changed(gallery=np.full((40, 4), 1e30)), {}, "gallery row 0 holds .* too large to be squared"),
        (changed(gallery=np.zeros((0, 4)), gallery_labels=np.zeros(0)), {}, "gallery has no rows"),
        (changed(gallery=np.zeros((40, 5))), {}, "query has 4 dimensions, gallery 5"),
        (changed(query=np.zeros(17)), {}, r"query has the shape \(17,\)"),
        (changed(query_labels=np.zeros(3)), {}, r"query_labels has the shape \(3,\); expected \(17,\)"),
        (changed(gallery_labels=np.zeros(3)), {}, r"gallery_labels has the shape \(3,\); expected \(40,\)"),
        (changed(gallery_labels=None), {}, "only one of query_labels and gallery_labels"),
        (changed(gallery=None), {}, "leave-one-out"),
        (changed(gallery_labels=np.full(40, "a")), {}, "labels are of int64 and <U1"),
        (changed(query_groups=np.zeros(17)), {}, "only one of query_groups and gallery_groups"),
        (changed(), {"exclude_self": True}, "expected query i to be gallery row i"),
        (changed(), {"distance": "manhattan"}, "distance is 'manhattan'"),
        (changed(), {"precision": "float16"}, "precision is 'float16'"),
        (changed(), {"ks": (0, 1)}, r"ks are \(0, 1\)"),
        (changed(), {"block": 0}, "block is 0"),
        (changed(), {"devices": []}, "none of 0 devices belongs to this process"),
    ],
)
def test_wrong_input_is_named(given, options, message):
    with pytest.raises(ValueError, match=message):
        judge(given, **options)


@pytest.mark.parametrize("k", [0, 41])
def test_nearest_needs_a_gallery_of_k(k):
    given = case(0)
    with pytest.raises(ValueError, match=f"k is {k}; expected 1 to 40"):
        nearest(given["query"], given["gallery"], k=k, distance="cosine")


def test_the_example_of_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], names)
    expected = {"mAP": 0.3667, "mAP@R": 0.125, "R-precision": 0.25, "MRR": 0.4167, "nDCG@2": 0.1934}
    expected |= {"R@1": 0, "R@2": 0.5, "CMC@3": 1}
    for name, value in expected.items():
        assert names["metrics"][name] == pytest.approx(value, abs=5e-5), name
        assert value in (0, 1) or f"{value:g}" in text


def test_a_second_call_compiles_nothing():
    given = functools.partial(judge, case(1), devices=jax.devices()[:2])
    given()
    calls = []

    def listen(event, duration, **_):
        calls.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        given()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not [event for event in calls if "backend_compile" in event]


def test_frozen_pixels_on_the_shop_catalogue(real_data):
    import csv

    from fsl_jax.data.read import read_photo

    folder = real_data("luma")
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    photos = [read_photo(folder / row["path"], size=224, channels=3, fit="pad")[::8, ::8] for row in rows]
    pixels = np.stack(photos).reshape(len(rows), -1) / 255.0
    pixels -= pixels.mean(axis=0)
    query, gallery = (
        np.array([row["split"] == "test" and row["role"] == role for row in rows])
        for role in ("query", "gallery")
    )
    labels = np.array([row["label"] for row in rows])
    metrics = retrieval_metrics(
        pixels[query], pixels[gallery], labels[query], labels[gallery], distance="cosine"
    )
    assert metrics["queries"] - metrics["queries_without_match"] == 90
    assert [metrics[name] for name in ("mAP", "R@1", "R@5")] == pytest.approx([0.274, 0.256, 0.5], abs=0.001)
