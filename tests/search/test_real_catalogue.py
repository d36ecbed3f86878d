"""A shop's catalogue as a user indexes it: the search finds what the evaluator says it finds."""

import numpy as np
import pytest

from fsl_jax import embedder
from fsl_jax.data.filter import matching
from fsl_jax.data.source import load_source
from fsl_jax.search import models
from fsl_jax.search.engines import make
from fsl_jax.search.index import Index
from fsl_jax.search.searching import Searcher

pytestmark = pytest.mark.slow  # embeds 245 photos at 224 px


@pytest.fixture(scope="module")
def photos(real_data):
    return load_source("csv_manifest", real_data("luma"), "test", {})


@pytest.fixture(scope="module")
def indexed(photos, tmp_path_factory):
    model = models.spec_of(model=None, workdir=None, fit="pad")
    made = models.load_model(model)
    index = Index.create(tmp_path_factory.mktemp("luma") / "index", embedder=made, model=model)
    index, added = index.add_table(matching(photos, "role=gallery"), made)
    assert (added.added, added.unreadable, added.duplicates) == (155, [], [])
    return index, made


@pytest.fixture(scope="module")
def queries(photos, indexed, tmp_path_factory):
    """Embeddings and labels of the query photos."""
    table = matching(photos, "role=query")
    file = tmp_path_factory.mktemp("queries") / "queries.npz"
    embedder.embed_to_file(indexed[1], table, file, block=16)
    with np.load(file, allow_pickle=False) as arrays:
        return arrays["embedding"], np.array(table.label.names)[table.label.codes]


def test_mean_average_precision_and_recall_are_the_evaluators(indexed, queries):
    """0.4706 and 0.444 are those of the evaluator on the same photos (benchmarks/results.md)."""
    index, _ = indexed
    embeddings, labels = queries
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    found = make("exact", index.embeddings).search(unit, len(index))
    right = index.labels[found.rows] == labels[:, None]
    precision = np.cumsum(right, axis=1) / np.arange(1, len(index) + 1)
    positives = right.sum(axis=1)
    assert (positives > 0).all()
    average = (precision * right).sum(axis=1) / positives
    assert np.mean(average) == pytest.approx(0.4706, abs=5e-4)
    assert np.mean(right[:, 0]) == pytest.approx(0.444, abs=5e-4)


def test_the_first_article_of_an_answer_is_that_of_the_nearest_photo(indexed, queries):
    index, made = indexed
    embeddings, labels = queries
    searcher = Searcher(index, made, make("exact", index.embeddings))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    answers = searcher.search(unit, k=5)
    first = np.mean([hits[0].label == label for hits, label in zip(answers, labels, strict=True)])
    assert first == pytest.approx(0.444, abs=5e-4)
    assert all(len({hit.label for hit in hits}) == 5 for hits in answers)


def test_a_new_article_is_found_at_once_and_gone_when_it_is_removed(indexed, photos):
    index, made = indexed
    article = photos.label.names[photos.label.codes[int(np.flatnonzero(photos.role == "query")[0])]]
    new = matching(photos, f"role=query&label={article}")
    grown, added = index.add_table(new, made)
    assert added.added == len(new)
    mine = np.flatnonzero(np.isin(grown.ids, [new.name(row) for row in range(len(new))]))
    found = make("exact", grown.embeddings).search(np.asarray(grown.embeddings[mine]), 1)
    np.testing.assert_allclose(found.scores[:, 0], 1, atol=1e-5)
    np.testing.assert_array_equal(found.rows[:, 0], mine)
    shrunk, removed = grown.remove(ids=[new.name(row) for row in range(len(new))])
    assert removed == len(new)
    assert len(shrunk) == len(index)
