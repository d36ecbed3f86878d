"""Description vectors, against TF-IDF and its decomposition in NumPy, and against scikit-learn's."""

import dataclasses
import itertools
import math
import re
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from fsl_jax.data.describe import description_vectors, fit_descriptions, read_vectors
from fsl_jax.data.sources import catalogue
from fsl_jax.data.table import Coded, Table

TEXTS = [
    "a red wool coat",
    "a red cotton shirt",
    "blue cotton shirt, blue buttons",
    "leather bag with a red strap",
    "black leather shoes",
    "black wool coat with black buttons",
]


def table(*, labels=("shirt", "bag", "shirt"), path=None, text=None):
    images = np.zeros((len(labels), 4, 4, 1), np.uint8) if path is None else None
    return Table(
        source="shop",
        label=Coded.of(labels),
        split=np.full(len(labels), "train"),
        path=None if path is None else np.array(path, dtype=object),
        images=images,
        text=None if text is None else np.array(text, dtype=object),
    )


def saved(folder, **arrays):
    file = folder / "vectors.npz"
    np.savez(file, **arrays)
    return file


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def weighed_words(texts):
    """Sublinear TF-IDF of words and of pairs of words, written from its definition."""
    documents = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        documents.append(words + [f"{a} {b}" for a, b in itertools.pairwise(words)])
    terms = sorted({term for document in documents for term in document})
    weights = np.zeros((len(texts), len(terms)))
    for i, document in enumerate(documents):
        for j, term in enumerate(terms):
            if term in document:
                having = sum(term in other for other in documents)
                rarity = math.log((1 + len(texts)) / (1 + having)) + 1
                weights[i, j] = (1 + math.log(document.count(term))) * rarity
    return unit(weights)


@pytest.mark.parametrize("dimensions", [1, 3, 6])
def test_vectors_are_the_strongest_directions_of_weighed_words(dimensions):
    words = weighed_words(TEXTS)
    left, strength, _ = np.linalg.svd(words, full_matrices=False)
    expected = unit(left[:, :dimensions] * strength[:dimensions])
    got = fit_descriptions(TEXTS, dimensions=dimensions, seed=0)(TEXTS)
    # Signs of directions are free; angles between texts are not.
    np.testing.assert_allclose(got @ got.T, expected @ expected.T, atol=1e-5)


def test_vectors_equal_those_of_the_pipeline_of_scikit_learn():
    photos = catalogue.load(None, "train", labels=60, photos=2, seed=0, brands=4, size=16, channels=1)
    texts = [str(text) for text in photos.text]
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\b\w+\b").fit_transform(
        texts
    )
    expected = normalize(TruncatedSVD(8, random_state=0).fit_transform(words))
    got = fit_descriptions(texts, dimensions=8, seed=0)(texts)
    np.testing.assert_allclose(got @ got.T, expected @ expected.T, atol=1e-3)


def test_vectors_have_length_one_and_are_float32():
    got = fit_descriptions(TEXTS, dimensions=4, seed=0)(TEXTS)
    assert (got.shape, got.dtype) == ((6, 4), np.float32)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)


def test_a_text_without_a_known_word_has_a_zero_vector():
    describe = fit_descriptions([*TEXTS, "", " - "], dimensions=4, seed=0)
    got = describe(["", " ", "?!", "zyzzyva", "a red coat"])
    np.testing.assert_array_equal(got[:4], 0)
    assert np.linalg.norm(got[4]) == pytest.approx(1, abs=1e-6)


def test_empty_texts_do_not_change_what_is_learnt():
    plain, with_empty = (
        fit_descriptions(texts, dimensions=4, seed=0)(TEXTS) for texts in (TEXTS, [*TEXTS, "", ""])
    )
    np.testing.assert_allclose(plain, with_empty, atol=1e-6)


def test_equal_texts_have_equal_vectors_and_alike_ones_are_near():
    got = fit_descriptions(TEXTS, dimensions=4, seed=0)([TEXTS[0], "a red coat of wool", TEXTS[4], TEXTS[0]])
    np.testing.assert_array_equal(got[0], got[3])
    assert got[0] @ got[1] > 0.8
    assert got[0] @ got[2] < 0.3


@pytest.mark.parametrize(
    ("texts", "directions"),
    [(["shirt"], 1), (["wool shirt", "wool shirt"], 1), (["红 T 恤", "shirt"], 2), (TEXTS, 6)],
)
def test_fewer_directions_than_dimensions_are_filled_up_with_zeros(texts, directions):
    got = fit_descriptions(texts, dimensions=64, seed=0)([*texts, "shirt"])
    assert got.shape == (len(texts) + 1, 64)
    np.testing.assert_array_equal(got[:, directions:], 0)
    np.testing.assert_allclose(np.linalg.norm(got[:-1], axis=1), 1, atol=1e-6)


def test_no_texts_give_no_vectors():
    assert fit_descriptions(TEXTS, dimensions=4, seed=0)([]).shape == (0, 4)


def test_a_table_is_described_by_its_own_texts():
    texts = [TEXTS[0], "", TEXTS[4]]
    got = description_vectors(table(text=texts), ConfigDict({"vectors": "tfidf", "dimensions": 5}))
    np.testing.assert_array_equal(got, fit_descriptions(texts, dimensions=5, seed=0)(texts))
    assert not got[1].any()


def test_vectors_of_a_file_are_found_by_path(tmp_path):
    file = saved(tmp_path, path=["b.png", "x.png", "a\\a.png"], vector=np.arange(6.0).reshape(3, 2))
    photos = table(path=["a/a.png", "b.png", "b.png"])
    got = description_vectors(photos, ConfigDict({"vectors": str(file), "dimensions": 64}))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [[4, 5], [0, 1], [0, 1]])


def test_vectors_of_a_file_are_found_by_label_where_there_are_no_paths(tmp_path):
    file = saved(tmp_path, label=["shirt", "bag"], vector=np.eye(2))
    for photos in (table(), table(path=["1.png", "2.png", "3.png"])):
        np.testing.assert_array_equal(read_vectors(file, photos), [[1, 0], [0, 1], [1, 0]])


def test_paths_of_a_file_go_before_its_labels(tmp_path):
    file = saved(tmp_path, path=["1", "2", "3"], label=["bag", "bag", "bag"], vector=np.eye(3))
    np.testing.assert_array_equal(read_vectors(file, table(path=["3", "2", "1"])), np.eye(3)[::-1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"label": ["bag", "bag", "shirt"]}, "label 'bag' twice"),
        ({"label": ["bag", "hat", "coat"]}, "no vector for 2 of 3 photos of shop, first label 'shirt'"),
        (
            {"path": ["1", "2", "3"]},
            r"by label, or keep the photos as files with --config.data.resident_gb=0",
        ),
        ({"label": np.array(["bag", "hat", "coat"], object)}, r"np.asarray\(label, dtype=str\)"),
        ({"label": ["bag", "shirt"]}, r"vector \(3, 3\) and label \(2,\); expected \[m, t\] and \[m\]"),
        ({"name": ["bag", "shirt"]}, r"has name, vector; expected vector \[m, t\], and path or label"),
        (
            {"label": ["bag", "shirt", "hat"], "vector": np.full((3, 2), np.nan)},
            "vector of label 'bag' that is not finite",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, arrays, message):
    file = saved(tmp_path, **{"vector": np.eye(3)} | arrays)
    with pytest.raises(ValueError, match=message):
        read_vectors(file, table())


def test_missing_paths_are_named_and_counted(tmp_path):
    file = saved(tmp_path, path=["1"], vector=np.eye(1))
    with pytest.raises(
        ValueError, match=r"no vector for 2 of 3 photos of shop, first path '2'; its first path is '1'"
    ):
        read_vectors(file, table(path=["1", "2", "3"]))


@pytest.mark.parametrize("name", ["tfdif", "nowhere.npz", "text.npz"])
def test_what_is_no_file_of_vectors_is_named(tmp_path, name):
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match=rf"vectors is '.*{name}'; expected 'tfidf', or a .npz file"):
        read_vectors(tmp_path / name, table())


@pytest.mark.parametrize("text", [None, ["", " ", ""]])
def test_a_table_without_descriptions_says_which_sources_have_them(text):
    with pytest.raises(
        ValueError, match=r"shop has no descriptions .* csv_manifest .* column text .* catalogue"
    ):
        description_vectors(table(text=text), ConfigDict({"vectors": "tfidf", "dimensions": 5}))


def test_texts_without_a_word_or_dimensions_are_refused():
    with pytest.raises(ValueError, match="none of 2 descriptions has a word"):
        fit_descriptions(["?", "-"], dimensions=4, seed=0)
    with pytest.raises(ValueError, match="dimensions is 0; expected at least 1"):
        fit_descriptions(TEXTS, dimensions=0, seed=0)


def test_the_extra_is_named_where_scikit_learn_is_missing(monkeypatch):
    for module in ("sklearn", "sklearn.feature_extraction.text"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=r"pip install 'fsl_jax\[text\]'"):
        fit_descriptions(TEXTS, dimensions=4, seed=0)


def test_vectors_are_a_column_that_a_table_keeps():
    photos = table(text=TEXTS[:3])
    vectors = description_vectors(photos, ConfigDict({"vectors": "tfidf", "dimensions": 5}))
    kept = dataclasses.replace(photos, numbers={"text": vectors}).take(np.array([2, 0]))
    np.testing.assert_array_equal(kept.numbers["text"], vectors[[2, 0]])
