"""What is said of a split's photos: figures against scikit-learn, filled blocks, devices, and the report's parts."""

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import table_of_counts
from ml_collections import ConfigDict
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
    top_k_accuracy_score,
)

from fsl_jax.config import base_config
from fsl_jax.data.augment import Preprocess
from fsl_jax.data.table import Attributes, Coded
from fsl_jax.data.targets import with_targets
from fsl_jax.evaluation import categories, report
from fsl_jax.evaluation.categories import CategoryJudge
from fsl_jax.evaluation.judge import Judge
from fsl_jax.mesh import data_mesh
from fsl_jax.taxonomy import Level, Taxonomy

PREPROCESS = Preprocess(size=8, channels=1, fit="pad", mean=(0.5,), std=(0.5,))
TAXONOMY = Taxonomy(
    levels=(
        Level("category", ("bags", "shoes", "tops"), (), (5, 5, 5)),
        # Of "totes" no training photo had a known category.
        Level("subcategory", ("boots", "coats", "tees", "totes"), (1, 2, 2, -1), (4, 4, 4, 4)),
    ),
    attributes=("colour=blue", "colour=red", "new", "size=s"),
    positives=(5, 5, 5, 5),
    negatives=(5, 5, 5, 5),
)
# Of 21 photos. "hats" and "caps" are names that the model does not know; "" is stated of none.
CATEGORIES = ["tops", "bags", "hats", "tops", "", "shoes", "bags", "tops", "shoes", "tops", "bags"] * 2
SUBCATEGORIES = ["tees", "totes", "caps", "", "boots", "boots", "totes", "coats", "boots", "tees", ""] * 2
# Nobody is "size=s", which is judged on those that state another size; "sale" is a name that the model does not know.
STATED = ["colour=red|new", "colour=blue", "size=m", "colour=green|sale", "", "new", "colour=blue|size=m"] * 3


@pytest.fixture(scope="module")
def table():
    columns = {"category": CATEGORIES[:21], "subcategory": SUBCATEGORIES[:21]}
    return with_targets(
        dataclasses.replace(
            table_of_counts([7, 7, 7]),
            levels={name: Coded.of(cells) for name, cells in columns.items()},
            attributes=Attributes.of(STATED),
        ),
        TAXONOMY,
        unstated="unknown",
    )


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal((64, outputs)).astype(np.float32) / 4
        for name, outputs in (("category", 3), ("subcategory", 4), ("attributes", 4))
    }


def logits_of(variables, images, kinds=("levels", "attributes")):
    """A model of one linear layer."""
    pixels = PREPROCESS(images).reshape(images.shape[0], -1)
    levels = tuple(pixels @ variables[name] for name in ("category", "subcategory"))
    logits = {"levels": levels, "attributes": pixels @ variables["attributes"]}
    return {kind: logits[kind] for kind in kinds}


def judge_of(table, devices=1, **changed):
    given = {
        "config": ConfigDict({"threshold": 0.6, "top_k": (2,)}),
        "table": table,
        "taxonomy": TAXONOMY,
        "outputs": logits_of,
        "preprocess": PREPROCESS,
        "mesh": data_mesh(devices),
        "photo": lambda row: table.images[row],
    }
    return CategoryJudge(**{**given, **changed})


@pytest.fixture(scope="module")
def judged(table, variables):
    """On one device in eleven blocks of two, the last half full; on eight in two of sixteen."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(categories, "BLOCK", 2)
        made = [judge_of(table, devices) for devices in (1, 8)]
        return [(judge, judge.count(variables)) for judge in made]


@pytest.fixture(scope="module")
def figures(judged):
    judge, counted = judged[0]
    return judge.figures(counted)


@pytest.fixture(scope="module")
def expected(table, variables):
    """Truth and the model's own scores of all photos at once, in NumPy."""
    logits = jax.tree.map(np.asarray, logits_of(variables, jnp.asarray(table.images)))
    return table.numbers["levels"], table.numbers["attributes"], logits


def test_the_table_has_what_the_tests_below_are_about(expected):
    codes, truth, logits = expected
    assert codes[:5].tolist() == [[2, 2], [0, 3], [-1, -1], [2, -1], [-1, 0]]
    assert truth[:4].tolist() == [[0, 1, 1, -1], [1, 0, 0, -1], [-1, -1, 0, 0], [0, 0, 0, -1]]
    for level in logits["levels"]:
        assert len(set(level.argmax(axis=1))) > 2


@pytest.mark.parametrize(("place", "name"), [(0, "category"), (1, "subcategory")])
def test_a_levels_figures_are_scikit_learns_over_the_photos_whose_name_is_known(
    figures, expected, place, name
):
    codes, _, logits = expected
    known = codes[:, place] >= 0
    truth, scores = codes[known, place], logits["levels"][place][known]
    predicted, names = scores.argmax(axis=1), range(scores.shape[1])
    assert figures[f"{name}/count"] == known.sum() < len(codes)
    assert figures[f"{name}/accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    of_each = precision_recall_fscore_support(truth, predicted, average="weighted", zero_division=0)
    for measure, value in zip(("precision", "recall", "f1"), of_each, strict=False):
        assert figures[f"{name}/{measure}"] == pytest.approx(value)
    macro = f1_score(truth, predicted, average="macro", zero_division=0)
    assert figures[f"{name}/macro_f1"] == pytest.approx(macro)
    top = top_k_accuracy_score(truth, scores, k=2, labels=names)
    assert figures[f"{name}/top2"] == pytest.approx(top)


def test_levels_together_are_the_mean_of_each(figures):
    for name in ("accuracy", "f1"):
        mean = (figures[f"category/{name}"] + figures[f"subcategory/{name}"]) / 2
        assert figures[f"levels/{name}"] == pytest.approx(mean)


def test_consistency_is_the_share_of_all_photos_whose_names_lie_on_a_path(figures, expected):
    coarse, fine = (level.argmax(axis=1) for level in expected[2]["levels"])
    parents = np.array(TAXONOMY.levels[1].parents)
    # "totes" has no known parent, so that it lies under nothing.
    assert figures["consistency"] == pytest.approx(np.mean(parents[fine] == coarse))
    assert 0 < figures["consistency"] < 1


def test_hierarchical_precision_is_the_share_of_levels_shared_with_the_truth(figures, expected):
    codes, _, logits = expected
    known = codes[:, 1] >= 0
    truth, predicted = codes[known, 1], logits["levels"][1].argmax(axis=1)[known]
    parents = TAXONOMY.levels[1].parents
    shared = [
        2 if one == other else int(parents[one] == parents[other] != -1)
        for one, other in zip(truth, predicted, strict=True)
    ]
    assert figures["hierarchical_precision"] == pytest.approx(np.mean(shared) / 2)


def test_attributes_are_scikit_learns_over_the_photos_of_which_they_are_known(figures, expected):
    _, truth, logits = expected
    columns = [
        (truth[truth[:, j] >= 0, j], logits["attributes"][truth[:, j] >= 0, j]) for j in range(truth.shape[1])
    ]
    areas = [roc_auc_score(y, scores) for y, scores in columns if len(set(y)) == 2]
    precisions = [average_precision_score(y, scores) for y, scores in columns if y.any()]
    assert figures["attributes/judged"] == len(areas) == 3
    assert figures["attributes/auc"] == pytest.approx(np.mean(areas), abs=1e-6)
    assert figures["attributes/ap"] == pytest.approx(np.mean(precisions), abs=1e-6)
    support = [y.sum() for y, _ in columns]
    f1 = [f1_score(y, 1 / (1 + np.exp(-scores)) > 0.6, zero_division=0) for y, scores in columns]
    assert figures["attributes/f1"] == pytest.approx(np.average(f1, weights=support))
    assert figures["attributes/macro_f1"] == pytest.approx(np.mean(f1))


def test_photos_that_fill_the_last_block_up_do_not_count(judged, expected):
    codes, truth, logits = expected
    for judge, counted in judged:
        assert len(judge.table) % (2 * judge.mesh.size) != 0
        assert int(counted.tree.rows) == len(codes)
        assert [int(level.confusion.sum()) for level in counted.levels] == (codes >= 0).sum(axis=0).tolist()
        np.testing.assert_array_equal(counted.attributes.known, (truth >= 0).sum(axis=0))
        for place, level in enumerate(logits["levels"]):
            np.testing.assert_array_equal(counted.predicted[:, place], level.argmax(axis=1))


def test_figures_do_not_depend_on_the_number_of_devices(judged):
    one, eight = (judge.figures(counted) for judge, counted in judged)
    assert one == pytest.approx(eight, rel=1e-6)


def test_while_a_run_goes_on_fewer_figures_are_logged(judged, figures):
    judge, counted = judged[0]
    during = judge.during(counted)
    of_levels = {
        f"{name}/{what}" for name in ("category", "subcategory", "levels") for what in ("accuracy", "f1")
    }
    assert set(during) == of_levels | {"consistency", "attributes/f1", "attributes/auc", "attributes/ap"}
    assert during.items() <= figures.items()


def test_a_second_look_compiles_nothing(judged, variables):
    judge, counted = judged[0]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(categories, "BLOCK", 2)
        again = judge.count({name: value + 0 for name, value in variables.items()})
    assert judge.figures(again) == judge.figures(counted)
    assert judge._of_block._cache_size() == 1


def test_the_report_has_a_part_for_all_that_is_judged(judged):
    judge, counted = judged[0]
    parts = judge.parts(counted)
    assert [part.title for part in parts] == [
        "Categories",
        "Attributes",
        "Confusions of category",
        "F1 by category",
        "Confusions of subcategory",
        "F1 by subcategory",
        "The surest mistakes of subcategory",
        "AUC by attribute",
        "Average precision by attribute",
    ]
    page = report.render("Demo", parts)
    assert "boots, taken for" in page
    assert "colour=red" in page


def test_the_table_of_levels_shows_their_figures_and_photos(judged, figures):
    judge, counted = judged[0]
    grid = judge.parts(counted)[0]
    # Of 21 photos four have no category that the model knows, and five no such subcategory.
    assert grid.rows == ["category (17)", "subcategory (16)"]
    assert grid.values[1][grid.columns.index("f1")] == pytest.approx(figures["subcategory/f1"])
    assert "macro f1" in grid.columns
    assert "count" not in grid.columns


def test_the_surest_mistakes_come_first_with_what_they_were_taken_for(judged, expected, table):
    judge, counted = judged[0]
    codes, _, logits = expected
    names = TAXONOMY.levels[1].names
    mistakes = []
    for row, (code, scores) in enumerate(zip(codes[:, 1], logits["levels"][1], strict=True)):
        shares, best = np.exp(scores) / np.exp(scores).sum(), scores.argmax()
        if code >= 0 and best != code:
            mistakes.append(
                (-shares[best], row, f"{names[code]}, taken for {names[best]} ({shares[best]:.0%})")
            )
    surest = sorted(mistakes)[:8]
    assert len(mistakes) > 8
    (shown,) = [part for part in judge.parts(counted) if isinstance(part, report.Photos)]
    assert [picture.caption for picture in shown.pictures] == [caption for _, _, caption in surest]
    for picture, (_, row, _) in zip(shown.pictures, surest, strict=True):
        np.testing.assert_array_equal(picture.image, table.images[row])
        assert picture.right is False


def titles(judge, variables):
    counted = judge.count(variables)
    parts = judge.parts(counted)
    assert report.render("Demo", parts)
    return {part.title for part in parts}, judge.figures(counted)


def test_without_photos_to_show_there_are_no_mistakes(table, variables):
    found, _ = titles(judge_of(table, photo=None), variables)
    assert not any("mistakes" in title for title in found)


def test_a_model_without_a_mistake_shows_none(table):
    codes = table.numbers["levels"]

    def right(variables, images):
        del images
        return {"levels": tuple(jax.nn.one_hot(variables[:, i], names) for i, names in enumerate((3, 4)))}

    filled = np.pad(codes, ((0, categories.BLOCK - len(codes)), (0, 0)))
    found, figures = titles(judge_of(table, outputs=right), jnp.asarray(filled))
    assert figures["subcategory/accuracy"] == figures["category/f1"] == 1
    assert not any("mistakes" in title for title in found)


def test_levels_alone_are_judged(table, variables, figures):
    bare = dataclasses.replace(TAXONOMY, attributes=(), positives=(), negatives=())
    numbers = {"levels": table.numbers["levels"]}
    judge = judge_of(
        dataclasses.replace(table, numbers=numbers),
        taxonomy=bare,
        outputs=lambda variables, images: logits_of(variables, images, ("levels",)),
    )
    found, of_levels = titles(judge, variables)
    assert not any("ttribute" in title for title in found)
    assert of_levels == {name: value for name, value in figures.items() if "attributes" not in name}


def test_a_level_of_which_nothing_is_known_has_no_part_in_the_mean_of_the_levels(table, variables, figures):
    levels = table.numbers["levels"].copy()
    levels[:, 1] = -1
    without = dataclasses.replace(table, numbers={**table.numbers, "levels": levels})
    judge = judge_of(without)
    found = judge.figures(judge.count(variables))
    assert math.isnan(found["subcategory/f1"])
    assert found["levels/f1"] == figures["category/f1"]


def test_a_single_level_has_no_tree(table, variables, figures):
    numbers = {"levels": table.numbers["levels"][:, 1:]}
    judge = judge_of(
        dataclasses.replace(table, numbers=numbers),
        taxonomy=Taxonomy(levels=(dataclasses.replace(TAXONOMY.levels[1], parents=()),)),
        outputs=lambda variables, images: {"levels": logits_of(variables, images)["levels"][1:]},
    )
    _, of_level = titles(judge, variables)
    assert "consistency" not in of_level
    assert of_level["levels/f1"] == of_level["subcategory/f1"] == figures["subcategory/f1"]


def test_attributes_alone_are_judged_whatever_levels_the_taxonomy_has(table, variables, figures):
    judge = judge_of(table, outputs=lambda variables, images: logits_of(variables, images, ("attributes",)))
    found, of_attributes = titles(judge, variables)
    assert found == {"Attributes", "AUC by attribute", "Average precision by attribute"}
    assert of_attributes == {name: value for name, value in figures.items() if "attributes" in name}


def test_a_split_that_states_no_attribute_has_no_figures_of_them(table, variables):
    numbers = {"attributes": np.full((len(table), 4), -1, np.int8)}
    judge = judge_of(
        dataclasses.replace(table, numbers=numbers),
        outputs=lambda variables, images: logits_of(variables, images, ("attributes",)),
    )
    _, of_attributes = titles(judge, variables)
    assert of_attributes["attributes/judged"] == 0
    assert math.isnan(of_attributes["attributes/auc"])
    assert math.isnan(of_attributes["attributes/f1"])


def test_of_many_attributes_the_best_and_the_worst_are_shown(table):
    rng = np.random.default_rng(1)
    names = tuple(f"a{j:02d}" for j in range(20))
    truth = (rng.random((len(table), 20)) < 0.5).astype(np.int8)
    scores = rng.standard_normal((categories.BLOCK, 20)).astype(np.float32)
    judge = judge_of(
        dataclasses.replace(table, numbers={"attributes": truth}),
        taxonomy=Taxonomy(attributes=names, positives=(9,) * 20, negatives=(9,) * 20),
        outputs=lambda variables, images: {"attributes": variables},
    )
    (bars,) = [part for part in judge.parts(judge.count(scores)) if part.title == "AUC by attribute"]
    areas = {name: roc_auc_score(truth[:, j], scores[: len(table), j]) for j, name in enumerate(names)}
    ordered = sorted(areas, key=lambda name: -areas[name])
    assert set(bars.bars) == {*ordered[:8], *ordered[-8:]}
    assert bars.bars[ordered[0]] == pytest.approx(
        (areas[ordered[0]], truth[:, names.index(ordered[0])].sum())
    )


def judge_with(table, variables, preprocess=PREPROCESS):
    """The judge of a run with a method that is a linear layer, and nothing else to judge."""
    del variables
    config = base_config().eval
    config.update({"episodes": 0, "retrieval": False, "threshold": 0.6, "top_k": (2,)})
    method = types.SimpleNamespace(
        way=None,
        facts=lambda: {"norm_mode": "running", "heads": "flat"},
        outputs=lambda variables, prepared: logits_of(variables, prepared[..., :1]),
    )
    return Judge(config, method, table, preprocess, data_mesh(1), lambda *_: None, taxonomy=TAXONOMY)


def test_the_judge_of_a_run_adds_categories_to_its_figures_and_its_report(table, variables, judged, figures):
    judge = judge_with(table, variables)
    final, parts = judge.final(variables)
    assert final == {
        "norm_mode": "running",
        "heads": "flat",
        **{k: pytest.approx(v) for k, v in figures.items()},
    }
    assert judge.during(variables) == pytest.approx(judged[0][0].during(judged[0][1]))
    assert [part.title for part in parts] == [part.title for part in judged[0][0].parts(judged[0][1])]


def test_photos_with_a_mask_are_judged_and_shown(table, variables):
    grey = table.images
    masked = dataclasses.replace(table, images=np.concatenate([grey, grey, grey, grey], axis=-1))
    preprocess = dataclasses.replace(PREPROCESS, channels=4)
    _, parts = judge_with(masked, variables, preprocess).final(variables)
    assert any(isinstance(part, report.Photos) for part in parts)
    assert report.render("Demo", parts)
