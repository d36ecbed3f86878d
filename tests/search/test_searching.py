"""A search finds the labels whose photos are nearest, each once, whatever the engine."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from fsl_jax.data.augment import Preprocess
from fsl_jax.embedder import Embedder
from fsl_jax.search import calibration, models, searching
from fsl_jax.search.engines import Found
from fsl_jax.search.index import Index
from fsl_jax.search.rerank import k_reciprocal
from fsl_jax.search.searching import Hit, Refinement, Searcher

PREPROCESS = Preprocess(size=16, channels=3, fit="pad", mean=(0.5,), std=(0.5,))


def flat_mean(calls=None):
    @jax.jit
    def embed(images):
        if calls is not None:
            calls.append(images.shape)
        return PREPROCESS(images).mean((1, 2))

    return Embedder(embed, PREPROCESS, "mean colour")


class BruteForce:
    """Sorts every row for every query; remembers how many rows it was asked for."""

    exact = True

    def __init__(self, embeddings, blind=()):
        self.embeddings, self.blind, self.asked_for = np.asarray(embeddings), set(blind), []

    def search(self, queries, k):
        self.asked_for.append((len(queries), k))
        scores, rows = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1)
        for i, query in enumerate(queries):
            similarity = self.embeddings @ query
            found = [row for row in np.argsort(-similarity, kind="stable") if row not in self.blind][:k]
            scores[i, : len(found)], rows[i, : len(found)] = similarity[found], found
        return Found(scores, rows)


def index_of(folder, angles, labels):
    """Photos on the circle, at so many degrees."""
    turn = np.radians(np.asarray(angles, float))
    rows = np.stack([np.cos(turn), np.sin(turn), np.zeros(len(turn))], axis=1)
    index = Index.create(folder, embedder=flat_mean(), model={"published": "mean colour", "fit": "pad"})
    ids = [f"photo {i}" for i in range(len(labels))]
    return index.add(
        rows, ids=ids, labels=labels, paths=ids, thumbnails=[b""] * len(ids), digest="mean colour"
    )


def searcher_of(index, **options):
    return Searcher(index, flat_mean(), BruteForce(index.embeddings, **options))


@pytest.fixture
def circle(tmp_path):
    return index_of(
        tmp_path / "index", [10, 20, 30, 90, 40, 180], ["boot", "boot", "coat", "coat", "dress", "hat"]
    )


EAST = np.array([[1.0, 0.0, 0.0]])


def test_each_label_is_found_once_by_its_nearest_photo(circle):
    (hits,) = searcher_of(circle).search(EAST, k=3)
    assert [(hit.label, hit.id, hit.row, hit.photos) for hit in hits] == [
        ("boot", "photo 0", 0, 2),
        ("coat", "photo 2", 2, 2),
        ("dress", "photo 4", 4, 1),
    ]
    np.testing.assert_allclose([hit.score for hit in hits], np.cos(np.radians([10, 30, 40])), atol=1e-6)
    assert all(hit.probability is None for hit in hits)


def test_all_labels_are_found_where_there_are_fewer_than_k(circle):
    (hits,) = searcher_of(circle).search(EAST, k=10)
    assert [hit.label for hit in hits] == ["boot", "coat", "dress", "hat"]


def test_removed_photos_are_not_found(circle):
    index, _ = circle.remove(ids=["photo 0"], labels=["coat"])
    (hits,) = searcher_of(index).search(EAST, k=3)
    assert [(hit.label, hit.id, hit.photos) for hit in hits] == [
        ("boot", "photo 1", 1),
        ("dress", "photo 4", 1),
        ("hat", "photo 5", 1),
    ]


def test_a_query_need_not_have_length_1(circle):
    assert searcher_of(circle).search(7 * EAST, k=2) == searcher_of(circle).search(EAST, k=2)


def test_more_photos_are_asked_for_until_there_are_k_labels(tmp_path):
    """32 near photos are of one label; of 35 photos 3 labels have 27 on average."""
    labels = ["boot"] * 32 + ["coat", "dress", "hat"]
    index = index_of(tmp_path / "index", np.arange(35), labels)
    searcher = searcher_of(index)
    near, far = searcher.search(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), k=3)
    assert [hit.label for hit in near] == ["boot", "coat", "dress"]
    assert [hit.label for hit in far] == ["hat", "dress", "coat"]
    assert searcher.engine.asked_for == [(2, 27), (1, 35)]


def test_an_engine_that_does_not_find_all_rows_ends_the_search(circle):
    (hits,) = searcher_of(circle, blind=(4, 5)).search(EAST, k=4)
    assert [hit.label for hit in hits] == ["boot", "coat"]


def test_random_searches_equal_a_loop_over_labels(tmp_path):
    rng = np.random.default_rng(0)
    labels = [f"label {i}" for i in rng.integers(0, 15, 200)]
    index = index_of(tmp_path / "index", rng.uniform(0, 360, 200), labels)
    queries = rng.standard_normal((20, 3))
    for query, hits in zip(queries, searcher_of(index).search(queries, k=4), strict=True):
        similarity = index.embeddings @ (query / np.linalg.norm(query))
        best = {label: max(similarity[index.labels == label]) for label in set(labels)}
        expected = sorted(best, key=best.get, reverse=True)[:4]
        assert [hit.label for hit in hits] == expected
        np.testing.assert_allclose(
            [hit.score for hit in hits], [best[label] for label in expected], atol=1e-5
        )
        assert all(hit.photos == labels.count(hit.label) for hit in hits)


@pytest.mark.parametrize("engine", ["exact", "faiss", "milvus"])
def test_every_engine_finds_the_same(circle, monkeypatch, engine):
    if engine != "exact":
        pytest.importorskip({"faiss": "faiss", "milvus": "milvus_lite"}[engine])
    monkeypatch.setattr(searching, "load_model", lambda spec: flat_mean())
    searcher = searching.open_searcher(circle.folder, engine=engine)
    expected = searcher_of(circle).search(EAST, k=4)
    for hit, wanted in zip(searcher.search(EAST, k=4)[0], expected[0], strict=True):
        assert dataclasses.replace(hit, score=0) == dataclasses.replace(wanted, score=0)
        assert hit.score == pytest.approx(wanted.score, abs=1e-5)
    searcher.engine.close()


def test_an_empty_index_gives_empty_lists(tmp_path, monkeypatch):
    index = index_of(tmp_path / "index", [1], ["a"]).remove(ids=["photo 0"])[0]
    monkeypatch.setattr(searching, "load_model", lambda spec: flat_mean())
    searcher = searching.open_searcher(index.folder)
    assert searcher.search(np.ones((2, 3)), k=5) == [[], []]
    assert searcher.engine.search(np.ones((2, 3)), 4).rows.tolist() == [[-1] * 4] * 2


def test_no_query_gives_no_list(circle):
    assert searcher_of(circle).search(np.zeros((0, 3)), k=5) == []


def test_a_calibrated_index_gives_probabilities(circle):
    calibration = SimpleNamespace(probability=lambda score: score / 2)
    vars(circle)["calibration"] = calibration
    (hits,) = searcher_of(circle).search(EAST, k=2)
    assert [hit.probability for hit in hits] == [hit.score / 2 for hit in hits]


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (EAST, 0, "k is 0; expected at least 1"),
        (EAST[0], 1, r"queries are \[3\]; expected \[n, 3\]"),
        (np.ones((1, 4)), 1, r"queries are \[1, 4\]; expected \[n, 3\]"),
    ],
)
def test_wrong_queries_are_refused(circle, queries, k, message):
    with pytest.raises(ValueError, match=message):
        searcher_of(circle).search(queries, k=k)


def test_photos_are_embedded_in_one_program_whatever_their_number(circle):
    calls = []
    searcher = Searcher(circle, flat_mean(calls), BruteForce(circle.embeddings))
    images = np.random.default_rng(0).integers(1, 256, (19, 16, 16, 3), dtype=np.uint8)
    embeddings = searcher.embed(images)
    for count in (1, 7, 8, 9):
        np.testing.assert_array_equal(searcher.embed(images[:count]), embeddings[:count])
    assert calls == [(8, 16, 16, 3)]
    mean = (images / 255 - 0.5).mean((1, 2))
    np.testing.assert_allclose(embeddings, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-4)
    assert searcher.embed(images[:0]).shape == (0, 3)


@pytest.mark.parametrize("wrong", [np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 16, 16, 3), np.float32)])
def test_photos_of_another_shape_are_refused(circle, wrong):
    with pytest.raises(ValueError, match=r"expected uint8 \[n, 16, 16, 3\]"):
        searcher_of(circle).embed(wrong)


def test_a_model_that_has_changed_is_refused(circle, monkeypatch):
    changed = Embedder(flat_mean().embed, PREPROCESS, "trained on")
    monkeypatch.setattr(searching, "load_model", lambda spec: changed)
    with pytest.raises(
        ValueError, match=r"holds embeddings of the model published mean colour, fit pad .*digest trained on"
    ):
        searching.open_searcher(circle.folder)


def test_an_unknown_engine_is_refused(circle, monkeypatch):
    monkeypatch.setattr(searching, "load_model", lambda spec: flat_mean())
    with pytest.raises(ValueError, match=r"no 'exakt' in engines; .*did you mean 'exact'"):
        searching.open_searcher(circle.folder, engine="exakt")


def test_hits_are_plain_numbers_and_text(circle):
    hit = searcher_of(circle).search(EAST, k=1)[0][0]
    assert {name: type(value) for name, value in dataclasses.asdict(hit).items()} == {
        "label": str, "id": str, "row": int, "score": float, "probability": type(None), "photos": int,
    }  # fmt: skip
    assert isinstance(hit, Hit)


# Which model.


def test_a_model_is_said_in_a_few_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.npz").write_bytes(b"")
    assert models.spec_of(model=None, workdir=None, fit="pad") == {
        "published": "efficientnet_lite0",
        "fit": "pad",
    }
    assert models.spec_of(model="resnet50", workdir=None, fit="crop") == {
        "published": "resnet50",
        "fit": "crop",
    }
    spec = models.spec_of(model="weights.npz", workdir=None, fit="pad")
    assert spec == {"published": str(tmp_path / "weights.npz"), "fit": "pad"}
    spec = models.spec_of(model=None, workdir=tmp_path.relative_to(tmp_path) / "run", fit="pad")
    assert spec == {"workdir": str(tmp_path / "run")}
    with pytest.raises(ValueError, match="model 'x' and workdir 'y' are given; expected one"):
        models.spec_of(model="x", workdir=models.Path("y"), fit="pad")


def test_a_model_is_loaded_by_its_words(tmp_path, monkeypatch):
    from fsl_jax import embedder, run

    monkeypatch.setattr(embedder, "published", lambda name, fit: (name, fit))
    monkeypatch.setattr(run, "embedder_of", lambda workdir: workdir)
    assert models.load_model({"published": "resnet50", "fit": "crop"}) == ("resnet50", "crop")
    assert models.load_model({"workdir": str(tmp_path)}) == tmp_path
    with pytest.raises(ValueError, match="the training run /gone is not there"):
        models.load_model({"workdir": "/gone"})
    with pytest.raises(ValueError, match="expected published and fit, or workdir"):
        models.load_model({"published": "resnet50"})


def sphere(folder, labels=12, photos=4):
    """Photos around one direction a label, some of which lie nearer to another's."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((labels, 8))
    names = [f"label {i // photos:02d}" for i in range(labels * photos)]
    rows = np.repeat(centres, photos, axis=0) + 1.2 * rng.standard_normal((labels * photos, 8))
    embedder = dataclasses.replace(flat_mean(), embed=lambda images: np.zeros((len(images), 8), np.float32))
    index = Index.create(folder, embedder=embedder, model={"published": "mean colour", "fit": "pad"})
    index = index.add(
        rows, ids=[f"photo {i}" for i in range(len(rows))], labels=names, paths=[""] * len(rows),
        thumbnails=[b""] * len(rows), digest="mean colour",
    )  # fmt: skip
    queries = np.repeat(centres, 2, axis=0) + 1.2 * rng.standard_normal((2 * labels, 8))
    return index, embedder, queries / np.linalg.norm(queries, axis=1, keepdims=True)


def first_of_labels(index, order):
    seen = dict.fromkeys(index.labels[row] for row in order)
    return list(seen)


def test_query_expansion_searches_again_with_query_and_photos(tmp_path):
    index, embedder, queries = sphere(tmp_path / "index")
    gallery = index.embeddings
    how = Refinement(expand=3, alpha=2.0)
    found = Searcher(index, embedder, BruteForce(gallery), how).search(queries, k=5)
    plain = Searcher(index, embedder, BruteForce(gallery)).search(queries, k=5)
    for query, hits in zip(queries, found, strict=True):
        cosine = gallery @ query
        total = query.copy()
        for row in np.argsort(-cosine, kind="stable")[:3]:
            total += max(cosine[row], 0.0) ** 2.0 * gallery[row]
        order = np.argsort(-(gallery @ total), kind="stable")
        assert [hit.label for hit in hits] == first_of_labels(index, order)[:5]
        np.testing.assert_allclose([hit.score for hit in hits], [cosine[hit.row] for hit in hits], rtol=1e-5)
    assert [h.label for hits in found for h in hits] != [h.label for hits in plain for h in hits]


def test_reranked_candidates_come_first_and_the_others_stay(tmp_path):
    index, embedder, queries = sphere(tmp_path / "index")
    gallery = index.embeddings
    how = Refinement(rerank=12, k1=5, k2=2)
    found = Searcher(index, embedder, BruteForce(gallery), how).search(queries, k=12)
    changed = 0
    for query, hits in zip(queries, found, strict=True):
        order = np.argsort(-(gallery @ query), kind="stable")
        candidates = Found((gallery @ query)[None, order[:12]], order[None, :12])
        best = k_reciprocal(
            query[None].astype(np.float32), gallery, candidates, k1=5, k2=2, lambda_value=0.3
        ).rows[0]
        assert [hit.label for hit in hits] == first_of_labels(index, [*best, *order[12:]])
        assert sorted(hit.label for hit in hits) == sorted(set(index.labels))
        changed += [hit.label for hit in hits] != first_of_labels(index, order)
        np.testing.assert_allclose([h.score for h in hits], gallery[[h.row for h in hits]] @ query, rtol=1e-5)
    assert changed


def test_a_whitened_search_compares_whitened_photos_and_is_calibrated_for_them(tmp_path):
    index, embedder, queries = sphere(tmp_path / "index")
    index = index.calibrated(calibration.fit(index.embeddings, index.labels, false_accept_rate=0.02))
    searcher = searching.make_searcher(index, embedder, "exact", whiten=5)
    found = searcher.search(queries, k=4)
    mean = index.embeddings.mean(axis=0)
    values, directions = np.linalg.eigh(np.cov(index.embeddings.T, bias=True))
    kernel = directions[:, ::-1][:, :5] / np.sqrt(values[::-1][:5])
    white = lambda points: (  # noqa: E731
        (points - mean) @ kernel / np.linalg.norm((points - mean) @ kernel, axis=1, keepdims=True)
    )
    similarity = white(queries) @ white(index.embeddings).T
    for row, hits in zip(similarity, found, strict=True):
        order = np.argsort(-row, kind="stable")
        assert [hit.label for hit in hits] == first_of_labels(index, order)[:4]
        np.testing.assert_allclose([h.score for h in hits], [row[h.row] for h in hits], atol=1e-4)
    expected = calibration.fit(
        white(index.embeddings).astype(np.float32), index.labels, false_accept_rate=0.02
    )
    assert searcher.calibration.threshold == pytest.approx(expected.threshold, abs=1e-4)
    assert found[0][0].probability == pytest.approx(float(expected.probability(found[0][0].score)), abs=1e-3)


def test_all_refinements_work_together_on_an_index_smaller_than_they_ask_for(circle):
    searcher = Searcher(
        circle, flat_mean(), BruteForce(circle.embeddings), Refinement(expand=50, rerank=100, k1=2, k2=1)
    )
    (hits,) = searcher.search(np.array([[1.0, 0.1, 0.0]]), k=50)
    assert {hit.label for hit in hits} == set(circle.labels)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"expand": -1}, "expand is -1"),
        ({"rerank": 20}, "rerank is 20 candidates; expected more than k1, 20, such as 100"),
    ],
)
def test_refinements_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Refinement(**options)
