"""A classifier as a function of files: who is named what, in which order, and what broken photos do."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fsl_jax import run
from fsl_jax.config import base_config
from fsl_jax.data.augment import Preprocess
from fsl_jax.predictor import Named, Prediction, Predictor, as_table, probabilities
from fsl_jax.taxonomy import Level, Taxonomy
from fsl_jax.training.checkpoint import Checkpoints
from fsl_jax.workdir import open_workdir

PREPROCESS = Preprocess(size=8, channels=3, fit="pad", mean=(0.5,), std=(0.5,))
TAXONOMY = Taxonomy(
    levels=(
        Level("kind", ("warm", "cold"), (), (9, 9)),
        Level("colour", ("red", "green", "blue"), (0, 1, 1), (6, 6, 6)),
    ),
    attributes=("bright", "even", "reddish"),
    positives=(9, 9, 9),
    negatives=(9, 9, 9),
)
COLOURS = {"red": (250, 20, 40), "green": (10, 240, 60), "blue": (0, 90, 255), "grey": (90, 80, 70)}


def of_colour(colour):
    """What the model below says of a colour, by hand: logits of the kind, of the colour, and of attributes."""
    red, green, blue = (value / 255 / 0.5 - 1 for value in colour)
    logits = [2 * red, green + blue], [3 * red, 3 * green, 3 * blue]
    kind, hue = (np.exp(level) / np.exp(level).sum() for level in logits)
    return kind, hue, [1 / (1 + np.exp(-value)) for value in (red + green + blue, 0, red - blue)]


def made():
    """A model that looks at a photo's mean colour."""

    @jax.jit
    def classify(images):
        red, green, blue = jnp.moveaxis(PREPROCESS(images).mean((1, 2)), 1, 0)
        levels = jnp.stack([2 * red, green + blue], 1), jnp.stack([3 * red, 3 * green, 3 * blue], 1)
        attributes = jnp.stack([red + green + blue, 0 * red, red - blue], 1)
        return probabilities({"embedding": images, "levels": levels, "attributes": attributes})

    return Predictor(classify, PREPROCESS, TAXONOMY)


@pytest.fixture
def folder(tmp_path):
    for name, colour in COLOURS.items():
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    return tmp_path


def predicted(files, model=None, *, top=1, threshold=0.5):
    return list((model or made())(files, top=top, threshold=threshold))


def test_each_photo_is_named_with_the_probabilities_of_its_own_logits(folder):
    files = [folder / f"{name}.png" for name in COLOURS]
    for file, colour, found in zip(
        files, COLOURS.values(), predicted(files, top=3, threshold=0), strict=True
    ):
        kind, hue, attributes = of_colour(colour)
        assert found.photo == str(file)
        assert found.error is None
        told = {named.name: named.probability for named in found.levels["colour"]}
        assert told == pytest.approx(dict(zip(("red", "green", "blue"), hue, strict=True)), abs=1e-5)
        told = {named.name: named.probability for named in found.levels["kind"]}
        assert told == pytest.approx(dict(zip(("warm", "cold"), kind, strict=True)), abs=1e-5)
        told = {named.name: named.probability for named in found.attributes}
        assert told == pytest.approx(dict(zip(TAXONOMY.attributes, attributes, strict=True)), abs=1e-5)


@pytest.mark.parametrize("count", [1, 16, 17, 40])
def test_any_number_of_photos_comes_back_in_the_order_given(folder, count):
    names = np.random.default_rng(count).choice(["red", "green", "blue"], count).tolist()
    found = predicted([folder / f"{name}.png" for name in names])
    assert [one.levels["colour"][0].name for one in found] == names
    assert [one.photo for one in found] == [str(folder / f"{name}.png") for name in names]


def test_all_numbers_of_photos_are_one_program(folder):
    model = made()
    for count in (1, 16, 17):
        predicted([folder / "red.png"] * count, model)
    assert model.classify._cache_size() == 1


def test_of_no_photo_nothing_is_said():
    assert predicted([]) == []


@pytest.mark.parametrize(
    ("top", "names"), [(1, ["blue"]), (2, ["blue", "green"]), (9, ["blue", "green", "red"])]
)
def test_the_most_probable_names_come_first(folder, top, names):
    (found,) = predicted([folder / "blue.png"], top=top)
    assert [named.name for named in found.levels["colour"]] == names
    shares = [named.probability for named in found.levels["colour"]]
    assert shares == sorted(shares, reverse=True)
    assert len(found.levels["kind"]) == min(top, 2)


@pytest.mark.parametrize(
    ("threshold", "names"),
    [
        (0.0, ["reddish", "even", "bright"]),
        (0.5, ["reddish", "even"]),  # "even" has exactly a half
        (0.51, ["reddish"]),
        (1.0, []),
    ],
)
def test_attributes_from_the_threshold_on_are_named_the_most_probable_first(folder, threshold, names):
    (found,) = predicted([folder / "red.png"], threshold=threshold)
    assert [named.name for named in found.attributes] == names


@pytest.mark.parametrize("options", [{"top": 0}, {"threshold": -0.1}, {"threshold": 1.5}])
def test_options_out_of_range_are_refused(folder, options):
    with pytest.raises(ValueError, match="expected at least 1 name, and a probability of 0 to 1"):
        predicted([folder / "red.png"], **options)


def test_photos_that_cannot_be_read_have_an_error_and_disturb_no_other(folder):
    (folder / "broken.png").write_bytes((folder / "red.png").read_bytes()[:45])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no photo")
    good = [folder / f"{name}.png" for name in COLOURS] * 5
    bad = {2: "broken", 3: "empty", 9: "text", 18: "gone"}
    files = list(good)
    for place, name in bad.items():
        files.insert(place, folder / f"{name}.png")
    found = predicted(files)
    assert [one for one in found if one.error is None] == predicted(good)
    errors = {place: one for place, one in enumerate(found) if one.error is not None}
    assert set(errors) == set(bad)
    assert all(one == Prediction(str(files[place]), error=one.error) for place, one in errors.items())
    assert [errors[place].error for place in (3, 9, 18)] == [
        "empty file",
        "not an image that Pillow knows",
        "missing",
    ]
    assert errors[2].error.startswith("broken: ")


def test_photos_of_which_none_can_be_read_are_errors_alone(tmp_path):
    found = predicted([tmp_path / "gone.png"] * 17)
    assert [one.error for one in found] == ["missing"] * 17


def test_as_json_a_prediction_is_plain():
    names = {"kind": (Named("warm", 0.75), Named("cold", 0.25))}
    said = Prediction("a.png", names, (Named("bright", 0.5),))
    assert said.as_json() == {
        "photo": "a.png",
        "levels": {"kind": [{"name": "warm", "probability": 0.75}, {"name": "cold", "probability": 0.25}]},
        "attributes": [{"name": "bright", "probability": 0.5}],
    }
    assert Prediction("b.png", error="missing").as_json() == {"photo": "b.png", "error": "missing"}


def test_what_a_model_says_can_be_written_as_json(folder):
    (found,) = predicted([folder / "red.png"])
    again = json.loads(json.dumps(found.as_json()))
    assert again["levels"]["colour"][0]["name"] == "red"
    assert [attribute["name"] for attribute in again["attributes"]] == ["reddish", "even"]


def test_probabilities_of_a_level_sum_to_one_and_attributes_are_each_by_itself():
    logits = {"embedding": jnp.ones((2, 3)), "levels": (jnp.array([[1.0, 2.0, 4.0], [0.0, 0.0, 900.0]]),)}
    found = probabilities({**logits, "attributes": jnp.array([[0.0, 800.0]])})
    assert set(found) == {"levels", "attributes"}
    np.testing.assert_allclose(found["levels"][0].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        found["levels"][0][0, 2], np.exp(4) / (np.e + np.exp(2) + np.exp(4)), rtol=1e-5
    )
    np.testing.assert_array_equal(found["attributes"], [[0.5, 1.0]])
    assert set(probabilities(logits)) == {"levels"}


def shown(predictions):
    written = io.StringIO()
    Console(width=120, file=written).print(as_table(predictions))
    return written.getvalue()


def test_the_table_has_a_row_a_photo_and_says_what_is_wrong_with_one():
    names = {"kind": (Named("warm", 0.756), Named("cold", 0.244))}
    said = [
        Prediction("a.png", names, (Named("bright", 0.5),)),
        Prediction("[b]b.png", {"kind": (Named("[red]cold", 1.0),)}),
        Prediction("c.png", error="mis[s]ing"),
    ]
    text = shown(said)
    for heading in ("photo", "kind", "attributes"):
        assert heading in text
    for part in ("warm 76%", "cold 24%", "bright 50%", "[b]b.png", "[red]cold 100%", "mis[s]ing"):
        assert part in text


def test_a_table_without_attributes_has_no_column_of_them():
    assert "attributes" not in shown([Prediction("a.png", {"kind": (Named("warm", 1.0),)})])
    assert "missing" in shown([Prediction("a.png", error="missing")])


def workdir_of(folder, **changed):
    """A workdir with a checkpoint of first variables."""
    config = base_config()
    config.algorithm.name = "protonet"
    options = {
        "filters": 4,
        "reduction": "stride",
        "readout": "mean",
        "norm": "running",
        "formulation": "lax",
    }
    config.model.options = options
    config.data.update({"size": 8, **changed})
    made = run.Run(config, folder, [], 5, run.data_mesh(1))
    open_workdir(config, folder)
    create, _, _ = made.first_state(None)
    checkpoints = Checkpoints(folder / "checkpoints", best_metric=None)
    described = {"config": {}, "preprocess": {}, "labels": [str(i) for i in range(5)]}
    checkpoints.save(1, create(), described, None)
    checkpoints.close()
    return folder


def test_a_run_of_a_method_without_categories_predicts_none(tmp_path):
    message = (
        "was trained with method 'protonet', which knows no categories: train --config configs/hierarchy.py"
    )
    with pytest.raises(ValueError, match=message):
        run.predictor_of(workdir_of(tmp_path))


def test_a_run_on_features_takes_no_photos(tmp_path):
    with pytest.raises(ValueError, match="was trained on features: it takes no photos"):
        run.predictor_of(workdir_of(tmp_path, source="features"))


def test_where_there_is_no_run_there_is_no_predictor(tmp_path):
    with pytest.raises(ValueError, match=r"no run in .*none"):
        run.predictor_of(tmp_path / "none")


def test_photos_are_read_in_the_models_own_way(tmp_path):
    # A narrow photo is padded with white, or cut to its middle.
    image = np.full((16, 8, 3), (10, 240, 60), np.uint8)
    image[4:12] = (250, 20, 40)
    Image.fromarray(image).save(tmp_path / "narrow.png")
    files = [tmp_path / "narrow.png"]
    cut = Predictor(
        made().classify, Preprocess(size=8, channels=3, fit="crop", mean=(0.5,), std=(0.5,)), TAXONOMY
    )
    (padded,), (cropped,) = (predicted(files, model, threshold=0) for model in (made(), cut))
    bright = {one.name: one.probability for one in cropped.attributes}["bright"]
    assert cropped.levels["colour"][0].name == "red"
    assert cropped.levels["colour"][0].probability == pytest.approx(of_colour((250, 20, 40))[1][0], abs=1e-5)
    assert {one.name: one.probability for one in padded.attributes}["bright"] > bright
