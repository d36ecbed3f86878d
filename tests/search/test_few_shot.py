"""Classification from a few photos: against scikit-learn, plain loops, and directions placed by hand."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import typer
from PIL import Image
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from typer.testing import CliRunner

from fsl_jax.data.augment import Preprocess
from fsl_jax.embedder import Embedder
from fsl_jax.search import _heads, few_shot_commands, models
from fsl_jax.search.few_shot import HEADS, Guess, Support, classify, enrol, fit, support_of
from fsl_jax.search.index import Index

PREPROCESS = Preprocess(size=16, channels=3, fit="pad", mean=(0.0,), std=(1.0,))


def directions(*degrees):
    """Unit vectors on the circle."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def of_angles(**labels):
    """A support on the circle, from the angles of each label's photos."""
    names = [name for name, degrees in labels.items() for _ in degrees]
    return Support(directions(*(angle for degrees in labels.values() for angle in degrees)), np.array(names))


@pytest.fixture(scope="module")
def drawn():
    """A ragged support in no order, of which one label has a single photo, and queries."""
    rng = np.random.default_rng(0)
    labels = np.array(["a"] * 2 + ["b"] * 5 + ["c"] * 3 + ["d"])
    centres = {name: rng.standard_normal(6) for name in "abcd"}
    embeddings = np.array([centres[name] + 0.5 * rng.standard_normal(6) for name in labels])
    embeddings *= rng.uniform(0.5, 2, (len(labels), 1))
    order = rng.permutation(len(labels))
    return Support(embeddings[order], labels[order]), rng.standard_normal((60, 6))


def unit(vectors):
    return np.array([vector / np.sqrt(np.sum(vector**2)) for vector in vectors])


def scores_by_loop(embeddings, labels, query, head):
    """Score of every label that has a photo, one at a time."""
    photos, query = unit(embeddings), query / np.linalg.norm(query)
    scores = {}
    for name in sorted(set(labels)):
        own = [photo for photo, label in zip(photos, labels, strict=True) if label == name]
        mean = np.mean(own, axis=0)
        scores[name] = (
            max(photo @ query for photo in own) if head == "k-nn" else mean @ query / np.linalg.norm(mean)
        )
    return scores


def left_out_by_loop(support, head):
    """(own label, score of every label) of each photo whose label has another one, without the photo."""
    for row, label in enumerate(support.labels):
        others = np.arange(len(support.labels)) != row
        if label in support.labels[others]:
            rest, names = support.embeddings[others], support.labels[others]
            yield label, scores_by_loop(rest, names, support.embeddings[row], head)


# What a head says


def test_the_prototype_head_finds_the_nearest_of_scikit_learns_centroids(drawn):
    support, queries = drawn
    centroids = NearestCentroid().fit(unit(support.embeddings), support.labels)
    nearest = KNeighborsClassifier(1, metric="cosine").fit(centroids.centroids_, centroids.classes_)
    guesses = classify(support, queries, head="prototype", unknown_below=-1)
    assert [guess.label for guess in guesses] == nearest.predict(queries).tolist()
    distances = nearest.kneighbors(queries)[0][:, 0]
    np.testing.assert_allclose([guess.score for guess in guesses], 1 - distances, atol=1e-12)


@pytest.mark.parametrize("neighbours", [1, 3, 4, 100])
def test_the_k_nn_head_votes_as_scikit_learn_and_among_equals_the_nearest_wins(drawn, neighbours):
    support, queries = drawn
    k = min(neighbours, len(support.labels))
    model = KNeighborsClassifier(k, metric="cosine").fit(support.embeddings, support.labels)
    shares, nearest = model.predict_proba(queries), model.kneighbors(queries)[1]
    for row, guess in enumerate(
        classify(support, queries, head="k-nn", neighbours=neighbours, unknown_below=-1)
    ):
        best = model.classes_[np.isclose(shares[row], shares[row].max())]
        assert guess.label == next(label for label in support.labels[nearest[row]] if label in best)
        scores = scores_by_loop(support.embeddings, support.labels, queries[row], "k-nn")
        assert guess.score == pytest.approx(scores[guess.label], abs=1e-12)


def test_the_logistic_head_has_scikit_learns_probabilities_and_the_scores_of_prototypes(drawn):
    support, queries = drawn
    model = LogisticRegression(C=1.0, tol=1e-8, max_iter=10_000).fit(unit(support.embeddings), support.labels)
    expected = model.predict_proba(unit(queries))
    for row, guess in enumerate(classify(support, queries, head="logistic", unknown_below=-1)):
        told = dict(guess.ranked)
        np.testing.assert_allclose([told[name] for name in model.classes_], expected[row], atol=1e-3)
        scores = scores_by_loop(support.embeddings, support.labels, queries[row], "prototype")
        assert guess.score == pytest.approx(scores[guess.label], abs=1e-12)


@pytest.mark.parametrize("head", HEADS)
def test_probabilities_sum_to_1_and_the_best_comes_first(drawn, head):
    support, queries = drawn
    for guess in classify(support, queries, head=head, unknown_below=-1):
        shares = [share for _, share in guess.ranked]
        assert sum(shares) == pytest.approx(1, abs=1e-12)
        assert shares == sorted(shares, reverse=True)
        assert sorted(name for name, _ in guess.ranked) == ["a", "b", "c", "d"]
        assert (guess.label, guess.probability) == guess.ranked[0]


@pytest.mark.parametrize("head", HEADS)
def test_the_order_of_photos_and_the_length_of_embeddings_change_nothing(drawn, head):
    support, queries = drawn
    rows = np.random.default_rng(1).permutation(len(support.labels))
    moved = Support(3 * support.embeddings[rows], support.labels[rows])
    for one, other in zip(
        classify(support, queries, head=head, unknown_below=None),
        classify(moved, 0.1 * queries, head=head, unknown_below=None),
        strict=True,
    ):
        assert one.label == other.label
        assert (one.probability, one.score) == pytest.approx((other.probability, other.score), abs=1e-4)


def test_two_directions_with_one_photo_each():
    (guess,) = classify(of_angles(east=[0], north=[90]), directions(30), head="prototype", unknown_below=None)
    east, north = np.exp(np.cos(np.radians([30, 60])) / 0.07)  # 0.07: nothing to fit a temperature to
    assert guess.label == "east"
    assert guess.score == pytest.approx(np.sqrt(3) / 2)
    assert guess.probability == pytest.approx(east / (east + north))
    assert [name for name, _ in guess.ranked] == ["east", "north"]


def test_the_nearest_photo_counts_with_one_neighbour_and_the_mean_direction_of_prototypes():
    support = of_angles(wide=[0, 80], narrow=[60])
    for head, label, degrees in [("k-nn", "wide", 8), ("prototype", "narrow", 12)]:
        (guess,) = classify(support, directions(72), head=head, neighbours=1, unknown_below=-1)
        assert (guess.label, guess.score) == (label, pytest.approx(np.cos(np.radians(degrees))))


def test_two_votes_outweigh_the_nearest_photo():
    support = of_angles(near=[1], many=[10, 11], far=[90])
    labels = {1: "near", 2: "near", 3: "many"}  # with two voters, one each: the nearest wins
    for neighbours, label in labels.items():
        (guess,) = classify(support, directions(0), head="k-nn", neighbours=neighbours, unknown_below=-1)
        assert guess.label == label


def test_no_queries_give_no_guesses(drawn):
    assert classify(drawn[0], np.zeros((0, 6)), head="prototype", unknown_below=None) == []


def test_an_embedding_of_zeros_is_as_near_to_every_label():
    (guess,) = classify(of_angles(a=[0], b=[90]), np.zeros((1, 2)), head="prototype", unknown_below=None)
    assert guess == Guess("a", 0.5, 0.0, (("a", 0.5), ("b", 0.5)))


# What is unknown


@pytest.mark.parametrize("head", HEADS)
def test_the_threshold_is_the_least_score_of_a_photo_left_out(drawn, head):
    found = fit(drawn[0], head=head).threshold
    left_out = list(left_out_by_loop(drawn[0], head))
    own = [scores[label] for label, scores in left_out]
    others = [max(score for name, score in scores.items() if name != label) for label, scores in left_out]
    assert found.photos == len(own) == 10  # "d" has a single photo
    assert found.score == pytest.approx(min(own), abs=1e-12)
    assert found.strangers == np.mean([score >= min(own) for score in others])
    assert 0 < found.strangers < 1


@pytest.mark.parametrize(("photos", "below"), [(2, 0), (20, 0), (21, 1), (40, 1), (41, 2), (140, 6)])
def test_fewer_than_one_in_twenty_photos_score_below_the_threshold(photos, below):
    own = np.random.default_rng(0).permutation(photos) / photos
    found = _heads.learn_threshold(own[:, None], np.zeros(photos, int))
    assert found.score == pytest.approx(below / photos)
    assert np.sum(own < found.score) == below
    assert below / photos < 0.05 <= (below + 1) / photos


def test_what_scores_below_the_threshold_is_unknown_and_the_nearest_label_is_told():
    support = of_angles(east=[0, 10], north=[90, 95])  # the photos left out score cos 10 and cos 5
    assert fit(support, head="prototype").threshold == _heads.Threshold(
        pytest.approx(np.cos(np.radians(10))), 4, 0.0
    )
    known, unknown = classify(support, directions(14.9, 15.1), head="prototype", unknown_below=None)
    assert known.label == "east"
    assert unknown.label is None
    assert unknown.score == pytest.approx(np.cos(np.radians(10.1)))
    assert unknown.ranked[0] == ("east", unknown.probability)


@pytest.mark.parametrize(
    ("limit", "labels"),
    [
        (None, ["east", None, None]),
        (0.5, ["east", "east", None]),  # 0.5 is the score at 60 degrees
        (-1, ["east", "east", "east"]),
    ],
)
def test_a_given_score_goes_before_the_learnt_one(limit, labels):
    support = of_angles(east=[0, 10], north=[90, 95])
    guesses = classify(support, directions(5, 40, 275), head="prototype", unknown_below=limit)
    assert [guess.label for guess in guesses] == labels


def test_a_score_equal_to_the_threshold_is_known():
    (guess,) = classify(of_angles(a=[0], b=[90]), directions(0), head="prototype", unknown_below=1.0)
    assert guess.label == "a"
    assert guess.score == 1.0


def test_without_two_photos_of_a_label_nothing_is_unknown():
    support = of_angles(east=[0], north=[90])
    assert fit(support, head="prototype").threshold is None
    (guess,) = classify(support, directions(225), head="prototype", unknown_below=None)
    assert guess.label is not None


@pytest.mark.parametrize("head", ["prototype", "k-nn"])  # the regression takes seconds to compile
def test_of_one_label_is_asked_only_whether_a_photo_is_known(head):
    support = of_angles(east=[0, 10])
    found = fit(support, head=head)
    assert found.threshold == _heads.Threshold(pytest.approx(np.cos(np.radians(10))), 2, None)
    near, far = found(directions(5, 50))
    assert (near.label, near.probability) == ("east", 1.0)
    assert (far.label, far.probability) == (None, 1.0)


def test_one_photo_of_one_label_needs_a_threshold():
    support = of_angles(east=[0])
    with pytest.raises(ValueError, match="one photo of one label, 'east', and no threshold"):
        classify(support, directions(1), head="prototype", unknown_below=None)
    near, far = classify(support, directions(1, 80), head="prototype", unknown_below=0.9)
    assert (near.label, far.label) == ("east", None)


def test_of_many_support_photos_some_are_left_out_at_even_distances(drawn, monkeypatch):
    monkeypatch.setattr(_heads, "LEFT_OUT", 4)
    grouped = _heads.Grouped.of(drawn[0].embeddings, drawn[0].labels)
    assert grouped.left_out().tolist() == [0, 3, 6, 9]
    assert fit(drawn[0], head="k-nn").threshold.photos == 4


# How probable it is


def evidence_by_loop(scores, embeddings, labels, query, neighbours):
    """Two for each vote and the score."""
    votes = dict.fromkeys(scores, 0)
    similarities = unit(embeddings) @ query / np.linalg.norm(query)
    for row in np.argsort(-similarities)[:neighbours]:
        votes[labels[row]] += 1
    return {name: score + 2 * votes[name] for name, score in scores.items()}


@pytest.mark.parametrize(("head", "expected"), [("prototype", 0.07), ("k-nn", 1.0)])
def test_the_temperature_is_the_most_probable_one_for_photos_left_out(drawn, head, expected):
    support, left_out = drawn[0], []
    for row, label in enumerate(support.labels):
        others = np.arange(len(support.labels)) != row
        rest = support.embeddings[others], support.labels[others], support.embeddings[row]
        if label in rest[1]:
            evidence = scores_by_loop(*rest, head)
            left_out.append((label, evidence_by_loop(evidence, *rest, 3) if head == "k-nn" else evidence))

    def loss(logarithm):
        temperature, total = np.exp(logarithm), (logarithm - np.log(expected)) ** 2 / (2 * 0.7**2)
        for label, evidence in left_out:
            shares = {name: np.exp(value / temperature) for name, value in evidence.items()}
            total -= np.log(shares[label] / sum(shares.values()))
        return total

    best = np.exp(minimize_scalar(loss, bounds=(np.log(0.02), np.log(10)), method="bounded").x)
    assert fit(support, head=head).temperature == pytest.approx(best, rel=0.004)
    assert best != pytest.approx(expected, rel=0.1)


def test_probabilities_are_the_softmax_of_scores_over_the_temperature(drawn):
    support, queries = drawn
    found = fit(support, head="prototype")
    for query, guess in zip(queries, found(queries), strict=True):
        scores = scores_by_loop(support.embeddings, support.labels, query, "prototype")
        shares = {name: np.exp(score / found.temperature) for name, score in scores.items()}
        told = {name: share / sum(shares.values()) for name, share in shares.items()}
        assert dict(guess.ranked) == pytest.approx(told)


def test_photos_that_are_told_apart_make_surer_and_photos_that_are_not_less_sure():
    apart, mixed = of_angles(a=[0, 1, 2], b=[90, 91, 92]), of_angles(a=[0, 91, 2], b=[90, 1, 92])
    sure, unsure = (fit(support, head="prototype").temperature for support in (apart, mixed))
    assert 0.01 <= sure <= 0.07 < 0.2 < unsure <= 10


@pytest.mark.parametrize(("head", "expected"), [("prototype", 0.07), ("k-nn", 1.0)])
def test_with_one_photo_a_label_the_temperature_is_the_expected_one(head, expected):
    assert fit(of_angles(a=[0], b=[90]), head=head).temperature == expected


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "nearest"}, "head is 'nearest'; expected one of prototype, k-nn, logistic"),
        ({"head": "k-nn", "neighbours": 0}, "neighbours is 0"),
        ({"unknown_below": 1.5}, "unknown-below is 1.5; expected a score, -1 to 1"),
        ({"unknown_below": float("nan")}, "unknown-below is nan"),
        ({"queries": np.ones((1, 3))}, r"queries are \[1, 3\]; expected \[q, 2\]"),
        ({"queries": np.ones(2)}, r"queries are \[2\]"),
        ({"queries": np.full((1, 2), np.nan)}, "the queries' embeddings hold a NaN"),
    ],
)
def test_what_has_no_meaning_is_refused(change, message):
    arguments = {"queries": directions(3), "head": "prototype", "unknown_below": None} | change
    with pytest.raises(ValueError, match=message):
        classify(of_angles(a=[0], b=[90]), **arguments)


@pytest.mark.parametrize(
    ("embeddings", "labels", "message"),
    [
        (np.zeros((0, 2)), [], "the support has no photo"),
        (np.ones((2, 2)), ["a"], r"embeddings are \(2, 2\), labels \(1,\)"),
        (np.array([[1.0, np.inf]]), ["a"], "the support's embeddings hold a NaN or an infinity"),
    ],
)
def test_a_support_that_is_none_is_refused(embeddings, labels, message):
    with pytest.raises(ValueError, match=message):
        Support(embeddings, np.array(labels))


# Photos in folders

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def made():
    """A model that sees a photo's mean colour."""
    return Embedder(jax.jit(lambda images: jnp.mean(PREPROCESS(images), axis=(1, 2))), PREPROCESS, "colours")


def photo(file, colour):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), colour).save(file)
    return file


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """Three colours, two photos each: the second of (255, 51, 0) and so on, 11.3 degrees away."""
    for label, colour in COLOURS.items():
        for number in range(2):
            tinted = tuple(max(value, 51 * number * (place == 1)) for place, value in enumerate(colour))
            photo(tmp_path / "support" / label / f"{number}.png", tinted)
    return tmp_path / "support"


def test_a_folder_a_label_is_a_support(folder):
    support = support_of(folder, made())
    assert support.labels.tolist() == ["blue"] * 2 + ["green"] * 2 + ["red"] * 2
    expected = [(0, 0, 1), (0, 0.2, 1), (0, 1, 0), (0, 1, 0), (1, 0, 0), (1, 0.2, 0)]
    np.testing.assert_allclose(support.embeddings, expected, atol=1e-6)
    assert support.unreadable == ()


def test_photos_that_cannot_be_read_are_named_and_left_out(folder):
    (folder / "red" / "0.png").write_bytes(b"")
    support = support_of(folder, made())
    assert support.labels.tolist() == ["blue"] * 2 + ["green"] * 2 + ["red"]
    np.testing.assert_allclose(support.embeddings[-1], (1, 0.2, 0), atol=1e-6)
    assert support.unreadable == ((str(folder / "red" / "0.png"), "empty file"),)


@pytest.mark.parametrize(
    "made_of", [support_of, lambda folder, model: enrol(folder, folder / "i", model, model={})]
)
def test_a_label_without_a_readable_photo_is_refused(folder, made_of):
    for number in range(2):
        (folder / "red" / f"{number}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"label 'red' has no photo that can be read.*0\.png \(empty file\)"):
        made_of(folder, made())
    assert not (folder / "i").exists()


@pytest.mark.parametrize("inside", ["white", "dark/white"])
def test_a_labels_folder_without_a_photo_is_refused(folder, inside):
    (folder / inside).mkdir(parents=True)
    (folder / inside / "notes.txt").write_text("none yet")
    with pytest.raises(ValueError, match=f"label '{inside.split('/')[0]}' has no photo"):
        support_of(folder, made())


def test_hidden_folders_are_no_labels(folder):
    (folder / ".thumbnails").mkdir()
    assert len(support_of(folder, made()).labels) == 6


# Commands


@pytest.fixture
def command(monkeypatch):
    """Runs a command with the model of colours in place of a published one."""
    app = typer.Typer()
    app.command()(few_shot_commands.classify)
    app.command()(few_shot_commands.enrol)
    model, asked = made(), []

    def load_model(spec):
        asked.append(dict(spec))
        return model

    monkeypatch.setattr(models, "load_model", load_model)

    def run(*arguments):
        environment = {"COLUMNS": "250"}
        return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)

    run.asked, run.model = asked, model
    return run


@pytest.fixture
def queries(tmp_path):
    """One reddish photo, one that is grey, and so equally far from all."""
    photo(tmp_path / "queries" / "reddish.png", (250, 30, 0))
    photo(tmp_path / "queries" / "stone.png", (90, 90, 90))
    return tmp_path / "queries"


def records(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_classify_shows_a_row_a_photo_and_says_where_unknown_begins(command, folder, queries):
    result = command("classify", "--support", folder, queries)
    assert result.exit_code == 0
    reddish, stone = (line for line in result.stdout.splitlines() if ".png" in line)
    assert "red " in reddish
    assert "unknown (nearest: " in stone
    threshold = np.cos(np.arctan(0.2))
    assert f"unknown is what scores below {threshold:.3f}, learnt from 6 support photos" in result.stderr
    assert "about 0% would pass" in result.stderr
    assert result.stderr.count("\n") == 1
    assert command.asked == [{"published": "efficientnet_lite0", "fit": "pad"}]


@pytest.mark.parametrize("head", HEADS)
def test_classify_prints_one_json_record_a_line(command, folder, queries, head):
    result = command("classify", "--support", folder, queries, "--head", head, "--json")
    assert result.exit_code == 0
    reddish, stone = records(result)
    assert [each["photo"] for each in (reddish, stone)] == [
        str(queries / f"{name}.png") for name in ("reddish", "stone")
    ]
    assert reddish["label"] == "red"
    assert reddish["ranked"][0] == {"label": "red", "probability": reddish["probability"]}
    assert sum(each["probability"] for each in reddish["ranked"]) == pytest.approx(1)
    assert stone["label"] is None
    assert set(stone) == {"photo", "label", "probability", "score", "ranked"}


def test_classify_ranks_as_many_labels_as_are_asked_for(command, folder, queries):
    result = command("classify", "--support", folder, queries, "--json", "--top", 2)
    assert [len(each["ranked"]) for each in records(result)] == [2, 2]


def test_a_given_score_is_used_without_a_note(command, folder, queries):
    result = command("classify", "--support", folder, queries, "--json", "--unknown-below", "-1")
    assert [each["label"] is None for each in records(result)] == [False, False]
    assert result.stderr == ""


def test_a_support_photo_is_of_its_own_label(command, folder):
    result = command(
        "classify", "--support", folder, folder / "blue", "--head", "k-nn", "--neighbours", 1, "--json"
    )
    assert [(each["label"], each["score"]) for each in records(result)] == [("blue", pytest.approx(1))] * 2


@pytest.mark.parametrize(("neighbours", "label"), [(1, "near"), (3, "many")])
def test_as_many_photos_vote_as_are_asked_for(command, tmp_path, neighbours, label):
    photo(tmp_path / "support" / "near" / "0.png", (255, 10, 0))
    for number, green in enumerate((60, 70)):
        photo(tmp_path / "support" / "many" / f"{number}.png", (255, green, 0))
    options = ("--head", "k-nn", "--neighbours", neighbours, "--unknown-below", "-1", "--json")
    query = photo(tmp_path / "query.png", (255, 0, 0))
    (found,) = records(command("classify", "--support", tmp_path / "support", query, *options))
    assert found["label"] == label


def test_one_photo_a_label_has_a_note_that_nothing_is_unknown(command, folder, queries):
    for label in COLOURS:
        (folder / label / "1.png").unlink()
    result = command("classify", "--support", folder, queries, "--json")
    assert result.exit_code == 0
    assert None not in [each["label"] for each in records(result)]
    assert "no photo is called unknown, since no label has two photos" in result.stderr


def test_any_number_of_photos_is_one_program_and_comes_back_in_order(command, folder, tmp_path):
    names = np.random.default_rng(0).choice(list(COLOURS), 37).tolist()
    files = [photo(tmp_path / "many" / f"{number}.png", COLOURS[name]) for number, name in enumerate(names)]
    files.insert(5, tmp_path / "gone.gif")
    files[5].write_bytes(b"GIF")
    result = command("classify", "--support", folder, *files, "--json")
    assert result.exit_code == 3
    found = records(result)
    assert [each["photo"] for each in found] == [str(file) for file in files]
    assert [each.get("label") for each in found] == [*names[:5], None, *names[5:]]
    assert "error" in found[5]
    assert command.model.embed._cache_size() == 1


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_photos_that_cannot_be_read_end_with_status_3(command, folder, queries, options):
    (queries / "broken.png").write_bytes(b"")
    result = command("classify", "--support", folder, queries, "--unknown-below", 0, *options)
    assert result.exit_code == 3
    assert result.stderr == "1 of 3 photos could not be read\n"
    assert "empty file" in result.stdout


def test_support_photos_that_cannot_be_read_end_with_status_3_too(command, folder, queries):
    (folder / "red" / "1.png").write_bytes(b"")
    result = command("classify", "--support", folder, queries, "--json", "--unknown-below", 0)
    assert result.exit_code == 3
    assert result.stderr == f"left out {folder / 'red' / '1.png'}: empty file\n"
    assert len(records(result)) == 2


def test_where_no_photo_can_be_read_the_status_is_1(command, folder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    result = command("classify", "--support", folder, tmp_path / "broken.png", "--json")
    assert result.exit_code == 1
    assert records(result) == [{"photo": str(tmp_path / "broken.png"), "error": "empty file"}]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("gone", "no folder"),
        ("empty", "no photo in a label's folder"),
        ("queries", "no photo in a label's folder"),
    ],
)
def test_a_support_that_is_amiss_is_one_line_on_stderr_before_the_model_is_loaded(
    command, queries, tmp_path, place, message
):
    (tmp_path / "empty").mkdir()
    result = command("classify", "--support", tmp_path / place, queries)
    assert result.exit_code == 1
    assert message in result.stderr
    assert command.asked == []
    assert result.stdout == ""


def test_one_photo_of_one_label_needs_a_threshold_on_the_command_line(command, queries, tmp_path):
    photo(tmp_path / "one" / "red" / "0.png", COLOURS["red"])
    result = command("classify", "--support", tmp_path / "one", queries)
    assert result.exit_code == 1
    assert "--unknown-below 0.7" in result.stderr
    assert result.stderr.count("\n") == 1
    result = command("classify", "--support", tmp_path / "one", queries, "--unknown-below", 0.7, "--json")
    assert [each["label"] for each in records(result)] == ["red", None]


@pytest.mark.parametrize(
    "options", [("--head", "best"), ("--neighbours", 0), ("--unknown-below", 2), ("--top", 0)]
)
def test_wrong_options_end_with_status_2(command, folder, queries, options):
    assert command("classify", "--support", folder, queries, *options).exit_code == 2


def test_enrol_makes_an_index_that_classifies_as_the_folder_does(command, folder, queries, tmp_path):
    result = command("enrol", folder, "--out", tmp_path / "index", "--fit", "crop")
    assert result.exit_code == 0, result.output
    # Both photos of green have the same pixels.
    assert result.stdout == f"{tmp_path / 'index'}: 5 photos of 3 labels\n"
    assert "green/1.png" in result.stderr
    index = Index.open(tmp_path / "index")
    assert sorted(index.ids) == ["blue/0.png", "blue/1.png", "green/0.png", "red/0.png", "red/1.png"]
    assert index.model == {"published": "efficientnet_lite0", "fit": "crop"}
    assert index.calibration is not None
    (folder / "green" / "1.png").unlink()
    of_folder, of_index = (
        command("classify", "--support", place, queries, "--json") for place in (folder, tmp_path / "index")
    )
    assert of_index.exit_code == 0, of_index.output
    for one, other in zip(records(of_folder), records(of_index), strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)
    assert of_folder.stderr == of_index.stderr
    assert command.asked[-1] == {"published": "efficientnet_lite0", "fit": "crop"}


def test_an_index_refuses_another_model(command, folder, queries, tmp_path, monkeypatch):
    command("enrol", folder, "--out", tmp_path / "index")
    other = Embedder(made().embed, PREPROCESS, "other")
    monkeypatch.setattr(models, "load_model", lambda spec: other)
    result = command("classify", "--support", tmp_path / "index", queries, "--model", "resnet50")
    assert result.exit_code == 1
    assert "another" in result.stderr
    assert result.stdout == ""


def test_an_empty_index_is_no_support(command, queries, tmp_path):
    Index.create(tmp_path / "index", embedder=command.model, model={"published": "x", "fit": "pad"})
    result = command("classify", "--support", tmp_path / "index", queries)
    assert result.exit_code == 1
    assert "has no photo; add some first" in result.stderr


def test_enrol_names_photos_that_it_cannot_read_and_ends_with_status_3(command, folder, tmp_path):
    (folder / "red" / "0.png").write_bytes(b"")
    result = command("enrol", folder, "--out", tmp_path / "index")
    assert result.exit_code == 3
    assert "left out red/0.png: empty file" in result.stderr
    assert "4 photos of 3 labels" in result.stdout


def test_enrol_leaves_what_is_there_alone(command, folder, tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "mine.txt").write_text("keep")
    result = command("enrol", folder, "--out", tmp_path / "index")
    assert result.exit_code == 1
    assert "is not empty" in result.stderr
    assert command.asked == []
    assert [file.name for file in (tmp_path / "index").iterdir()] == ["mine.txt"]
