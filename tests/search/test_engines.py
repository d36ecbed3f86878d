"""One battery over all engines; what only one of them promises stands below it."""

import importlib.util
import subprocess
import sys

import jax
import numpy as np
import pytest

from fsl_jax.mesh import data_mesh
from fsl_jax.search import engines
from fsl_jax.search.engines import exact


def needs(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    extra = {"faiss": "faiss", "pymilvus": "milvus", "milvus_lite": "milvus"}
    return [
        pytest.mark.skipif(
            bool(missing),
            reason=f"{', '.join(missing)} not installed: pip install 'fsl_jax[{extra[packages[0]]}]'",
        ),
        # numpy.core and SWIG types of the libraries, which are not ours to mend.
        pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    ]


FAISS, MILVUS = needs("faiss"), needs("pymilvus", "milvus_lite")
CASES = {
    "exact": ("exact", {}, []),
    "exact-1": ("exact", {"devices": 1}, []),
    "exact-3": ("exact", {"devices": 3}, []),
    "flat": ("faiss", {"kind": "flat"}, FAISS),
    "ivf": ("faiss", {"kind": "ivf"}, FAISS),
    "hnsw": ("faiss", {"kind": "hnsw"}, FAISS),
    "milvus": ("milvus", {}, MILVUS),
}
EXACT = ["exact", "exact-1", "exact-3", "flat", "milvus"]


def over(names):
    return pytest.mark.parametrize("case", [pytest.param(name, marks=CASES[name][2]) for name in names])


every, every_exact = over(CASES), over(EXACT)


@pytest.fixture
def engine_of():
    """Makes the engine of a case, and closes it after the test."""
    made = []

    def make(case, embeddings, **options):
        name, given, _ = CASES[case]
        made.append(engines.make(name, embeddings, **given, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def unit(points):
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def clustered(rows, dimensions, queries, seed=0):
    """Photos around one centre a label, twenty photos a label."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((-(-rows // 20), dimensions))
    gallery = centres[np.arange(rows) // 20] + 0.7 * rng.standard_normal((rows, dimensions))
    sought = centres[rng.integers(0, len(centres), queries)] + 0.7 * rng.standard_normal(
        (queries, dimensions)
    )
    return unit(sought), unit(gallery)


def plain(queries, gallery, k):
    """Every score, sorted; of equal scores the lower row first."""
    scores = queries @ gallery.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, axis=1), rows


def integers(queries, rows, dimensions, seed=0):
    """Whole numbers, whose products are exact in float32, with many ties."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-2, 3, (count, dimensions)).astype(np.float32) for count in (queries, rows)]


@every
def test_a_photo_finds_itself_first(case, engine_of):
    _, gallery = clustered(400, 16, 1)
    found = engine_of(case, gallery).search(gallery[37:40], 3)
    np.testing.assert_array_equal(found.rows[:, 0], [37, 38, 39])
    np.testing.assert_allclose(found.scores[:, 0], 1.0, atol=1e-5)


@every
def test_scores_are_the_products_with_the_rows_found_best_first(case, engine_of):
    queries, gallery = clustered(400, 16, 5)
    found = engine_of(case, gallery).search(queries, 7)
    assert (found.scores.dtype, found.rows.dtype) == (np.float32, np.int64)
    np.testing.assert_allclose(found.scores, np.einsum("qd,qkd->qk", queries, gallery[found.rows]), atol=1e-5)
    assert (np.diff(found.scores, axis=1) <= 0).all()


@every
def test_nineteen_of_twenty_neighbours_are_found_in_clustered_photos(case, engine_of):
    queries, gallery = clustered(3000, 32, 50)
    engine = engine_of(case, gallery)
    rows, truth = engine.search(queries, 10).rows, plain(queries, gallery, 10)[1]
    recall = np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(rows, truth, strict=True)])
    assert recall >= (1.0 if engine.exact else 0.95)


@every_exact
def test_an_exact_engine_says_so_and_equals_the_sorted_product(case, engine_of):
    queries, gallery = clustered(1000, 24, 20)
    engine = engine_of(case, gallery)
    scores, rows = plain(queries, gallery, 30)
    found = engine.search(queries, 30)
    assert engine.exact
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)


@over(["ivf", "hnsw"])
def test_an_approximate_engine_says_so(case, engine_of):
    assert not engine_of(case, clustered(400, 16, 1)[1]).exact


@every
def test_places_beyond_the_rows_hold_no_row(case, engine_of):
    gallery = np.eye(3, dtype=np.float32)
    found = engine_of(case, gallery).search(np.array([[0.6, 0.0, 0.8]], np.float32), 5)
    np.testing.assert_array_equal(found.rows, [[2, 0, 1, -1, -1]])
    np.testing.assert_allclose(found.scores, [[0.8, 0.6, 0.0, -np.inf, -np.inf]], atol=1e-6)


@every
def test_a_gallery_of_one_photo_is_searched(case, engine_of):
    found = engine_of(case, np.array([[0.6, 0.8]], np.float32)).search(np.array([[1.0, 0.0]], np.float32), 1)
    assert found.rows.tolist() == [[0]]


@every
def test_no_query_gives_an_empty_result(case, engine_of):
    found = engine_of(case, np.eye(4, dtype=np.float32)).search(np.zeros((0, 4), np.float32), 2)
    assert found.rows.shape == found.scores.shape == (0, 2)


@every
def test_a_memory_map_is_searched_like_an_array(case, engine_of, tmp_path):
    queries, gallery = clustered(300, 8, 4)
    np.save(tmp_path / "embeddings.npy", gallery)
    mapped = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
    here, there = (engine_of(case, each).search(queries, 5) for each in (gallery, mapped))
    np.testing.assert_array_equal(here.rows, there.rows)


@every
def test_later_changes_of_the_array_are_not_seen(case, engine_of):
    gallery = np.eye(4, dtype=np.float32)
    engine = engine_of(case, gallery)
    query = gallery[:1].copy()
    gallery[:] = 0.0
    assert engine.search(query, 1).scores[0, 0] == pytest.approx(1.0)


@every
@pytest.mark.parametrize(
    ("queries", "k", "said"),
    [
        (np.ones((2, 3), np.float32), 1, r"queries have the shape \(2, 3\); expected \[queries, 4\]"),
        (np.ones(4, np.float32), 1, r"queries have the shape \(4,\)"),
        (np.ones((1, 4), np.float32), 0, "k is 0; expected at least 1"),
        (np.array([[1, 0, np.nan, 0]], np.float32), 1, "a query holds a NaN"),
    ],
)
def test_wrong_queries_are_refused(case, queries, k, said, engine_of):
    with pytest.raises(ValueError, match=said):
        engine_of(case, np.eye(4, dtype=np.float32)).search(queries, k)


@every
@pytest.mark.parametrize(
    ("embeddings", "said"),
    [
        (np.zeros((0, 4), np.float32), r"embeddings have the shape \(0, 4\)"),
        (np.ones(4, np.float32), r"embeddings have the shape \(4,\)"),
        (np.array([[1.0, 0.0], [np.inf, 0.0]], np.float32), "embeddings row 1 holds a NaN or an infinity"),
    ],
)
def test_wrong_embeddings_are_refused(case, embeddings, said, engine_of):
    with pytest.raises(ValueError, match=said):
        engine_of(case, embeddings)


@every
def test_an_unknown_option_is_named(case, engine_of):
    with pytest.raises(ValueError, match=r"engine '\w+' has no option 'nprob'"):
        engine_of(case, np.eye(4, dtype=np.float32), nprob=3)


def test_an_unknown_engine_is_answered_with_the_known_ones():
    with pytest.raises(
        ValueError, match="no 'exakt' in engines; known: exact, faiss, milvus; did you mean 'exact'"
    ):
        engines.make("exakt", np.eye(2, dtype=np.float32))


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("faiss", "faiss", "faiss"), ("milvus", "pymilvus", "milvus")]
)
def test_a_missing_package_is_named_with_the_extra(name, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"pip install 'fsl_jax\[{extra}\]'"):
        engines.make(name, np.eye(2, dtype=np.float32))


def test_engines_are_listed_without_importing_their_packages():
    code = (
        "import sys; from fsl_jax.search import engines; import fsl_jax.search.engines.faiss, "
        "fsl_jax.search.engines.milvus; print(sorted({'faiss', 'pymilvus'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# exact: ties, devices, shapes


@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize(
    ("rows", "k"),
    [(5, 3), (300, 10), (3000, 60)],
)
def test_ties_go_to_the_lower_row_on_any_number_of_devices(devices, rows, k):
    queries, gallery = integers(20, rows, 4)
    queries[0] = 0.0  # every row ties
    found = engines.make("exact", gallery, devices=devices).search(queries, k)
    scores, truth = plain(queries, gallery, k)
    np.testing.assert_array_equal(found.rows, truth)
    np.testing.assert_array_equal(found.scores, scores)


@pytest.mark.parametrize("devices", [1, 8])
def test_ties_across_tiles_and_chunks_go_to_the_lower_row(devices, monkeypatch):
    monkeypatch.setattr(exact, "TILE", 128)
    monkeypatch.setattr(exact, "CHUNK_TILES", 2)
    queries, gallery = integers(9, 5000, 4)
    found = engines.make("exact", gallery, devices=devices).search(queries, 40)
    np.testing.assert_array_equal(found.rows, plain(queries, gallery, 40)[1])


def test_scores_are_the_same_to_the_last_bit_on_1_and_8_devices():
    queries, gallery = clustered(20_000, 48, 30)
    one, eight = (engines.make("exact", gallery, devices=devices).search(queries, 50) for devices in (1, 8))
    np.testing.assert_array_equal(one.scores, eight.scores)
    np.testing.assert_array_equal(one.rows, eight.rows)


@pytest.mark.parametrize("k", [1, 31, 32, 33, 4000, 5000])
def test_the_groups_hold_the_best_rows_whatever_k_is(k):
    queries, gallery = integers(3, 5000, 5, seed=1)
    found = engines.make("exact", gallery, devices=1).search(queries, k)
    np.testing.assert_array_equal(found.rows, plain(queries, gallery, k)[1])


def test_the_best_rows_are_found_where_each_lies_in_a_group_of_its_own():
    gallery = np.zeros((5000, 2), np.float32)
    gallery[::640, 0] = np.arange(8, 0, -1)
    found = engines.make("exact", gallery, devices=1).search(np.array([[1.0, 0.0]], np.float32), 8)
    np.testing.assert_array_equal(found.rows, [np.arange(0, 5000, 640)])


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("tile", [128, 16384])
@pytest.mark.parametrize("k", [8, 520])
@pytest.mark.parametrize("step", [65, -65])
def test_rows_that_fill_up_a_device_are_never_found(devices, tile, k, step, monkeypatch):
    # Every score is negative, so zeros that fill tiles would win; with -65 the last row's copies would.
    monkeypatch.setattr(exact, "TILE", tile)
    gallery = np.full((520, 2), -1.0, np.float32)
    gallery[::step, 0] = np.linspace(-0.1, -0.8, 8)
    query = np.array([[1.0, 0.0]], np.float32)
    found = engines.make("exact", gallery, devices=devices).search(query, k)
    np.testing.assert_array_equal(found.rows, plain(query, gallery, k)[1])


@pytest.mark.parametrize("rows", [3, 700, 20_000])
def test_a_product_has_the_same_shape_on_any_number_of_devices(rows):
    gallery = np.zeros((rows, 2), np.float32)
    shapes = {exact._placed(gallery, data_mesh(n))[0][0].shape[0] / n for n in (1, 2, 3, 8)}
    assert len(shapes) == 1


@pytest.mark.parametrize("queries", [1, 2, 3, 127, 128, 129, 300])
def test_every_query_is_answered_whatever_their_number(queries):
    sought, gallery = integers(queries, 600, 4)
    found = engines.make("exact", gallery).search(sought, 5)
    np.testing.assert_array_equal(found.rows, plain(sought, gallery, 5)[1])


def test_other_numbers_of_queries_and_rows_compile_nothing_new():
    queries, gallery = integers(128, 500, 4)
    engine = engines.make("exact", gallery)
    for size in (1, 2, 4, 8, 16, 32, 64, 128):
        engine.search(queries[:size], 8)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    try:
        for size, k in ((3, 8), (5, 7), (100, 1), (128, 3), (7, 8)):
            engine.search(queries[:size], k)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not [event for event in compiled if "compile" in event]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"devices": 0}, "devices is 0; expected 1 to 8"),
        ({"devices": 9}, "devices is 9; expected 1 to 8"),
        ({"block": 100}, "block is 100; expected a power of two"),
    ],
)
def test_exact_refuses_options_out_of_range(options, said):
    with pytest.raises(ValueError, match=said):
        engines.make("exact", np.eye(2, dtype=np.float32), **options)


# faiss


@over(["flat"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "hsnw"}, "no faiss kind 'hsnw'; known: flat, hnsw, ivf; did you mean 'hnsw'"),
        ({"kind": "ivf", "lists": 5}, "lists is 5; expected at least 1, at most 4"),
        ({"kind": "ivf", "lists": 4, "probes": 5}, "probes is 5; expected at least 1, at most 4"),
        ({"kind": "hnsw", "links": 0}, "links is 0; expected at least 1"),
    ],
)
def test_faiss_refuses_options_out_of_range(case, options, said):
    with pytest.raises(ValueError, match=said):
        engines.make("faiss", np.eye(4, dtype=np.float32), **options)


@over(["ivf"])
def test_more_probes_find_more(case):
    queries, gallery = clustered(2000, 32, 40)
    truth = plain(queries, gallery, 10)[1]

    def recall(probes):
        rows = engines.make("faiss", gallery, kind="ivf", lists=50, probes=probes).search(queries, 10).rows
        return np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(rows, truth, strict=True)])

    assert recall(1) < recall(10) < recall(50) == 1.0


@over(["ivf"])
def test_places_that_the_probed_lists_do_not_fill_hold_no_row(case):
    gallery = unit(np.repeat(np.eye(4), 10, axis=0) + 1e-3 * np.random.default_rng(0).random((40, 4)))
    found = engines.make("faiss", gallery, kind="ivf", lists=4, probes=1).search(gallery[:1], 20)
    assert (found.rows[0, 10:] == -1).all()
    assert np.isneginf(found.scores[0, 10:]).all()


@over(["ivf"])
def test_an_index_is_built_the_same_twice(case):
    queries, gallery = clustered(2000, 16, 10)
    first, second = (
        engines.make("faiss", gallery, kind="ivf", lists=10, probes=1).search(queries, 10) for _ in range(2)
    )
    np.testing.assert_array_equal(first.rows, second.rows)


# milvus


@over(["milvus"])
def test_closing_drops_the_collection_and_the_temporary_folder(case, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engine = engines.make("milvus", np.eye(4, dtype=np.float32))
    assert list(tmp_path.iterdir())
    engine.close()
    assert not list(tmp_path.iterdir())
    engine.close()


@over(["milvus"])
def test_a_file_can_be_used_again_after_closing(case, tmp_path):
    for _ in range(2):
        with engines.make(
            "milvus", np.eye(4, dtype=np.float32), uri=str(tmp_path / "x.db"), collection="photos"
        ) as engine:
            assert engine.search(np.eye(4, dtype=np.float32), 1).rows.ravel().tolist() == [0, 1, 2, 3]


@over(["milvus"])
def test_a_collection_of_somebody_else_is_left_alone(case, tmp_path):
    where = {"uri": str(tmp_path / "x.db"), "collection": "photos"}
    with engines.make("milvus", np.eye(4, dtype=np.float32), **where) as engine:
        with pytest.raises(ValueError, match="the Milvus collection 'photos' is there already"):
            engines.make("milvus", np.eye(2, dtype=np.float32), **where)
        del engine


@over(["milvus"])
def test_an_address_is_checked(case):
    with pytest.raises(ValueError, match=r"uri is 'photos'; expected a file that ends in \.db"):
        engines.make("milvus", np.eye(2, dtype=np.float32), uri="photos")
