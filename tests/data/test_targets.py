"""What is learnt from columns: names, parents, counts, and what is unknown."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from fsl_jax.data.table import Attributes, Coded, Table
from fsl_jax.data.targets import taxonomy_of, told, with_targets
from fsl_jax.taxonomy import Taxonomy

LEVELS = {
    "category": ["tops", "tops", "tops", "bags", "bags", ""],
    "subcategory": ["tees", "tees", "coats", "totes", "tees", "totes"],
}
ATTRIBUTES = ["colour=red|new", "colour=blue", "colour=red", "", "size=s", "size=m|new"]


def table_of(levels=LEVELS, attributes=ATTRIBUTES, rows=6):
    return Table(
        source="test",
        label=Coded.of([f"article{i}" for i in range(rows)]),
        split=np.full(rows, "train"),
        images=np.zeros((rows, 4, 4, 1), np.uint8),
        levels={name: Coded.of(cells) for name, cells in levels.items()},
        attributes=None if attributes is None else Attributes.of(attributes),
    )


def targets(**changed):
    return ConfigDict({"levels": ("*",), "attributes": ("*",), "least": 1, "unstated": "unknown", **changed})


def test_a_names_parent_is_the_one_that_most_of_its_photos_have():
    coarse, fine = taxonomy_of(table_of(), targets()).levels
    assert (coarse.name, coarse.names, coarse.parents, coarse.counts) == (
        "category",
        ("bags", "tops"),
        (),
        (2, 3),
    )
    assert fine.names == ("coats", "tees", "totes")
    assert fine.counts == (1, 3, 2)
    # "tees": two photos in tops, one in bags. "totes": one in bags, one in nothing.
    assert [coarse.names[parent] for parent in fine.parents] == ["tops", "tops", "bags"]


def test_a_name_whose_category_is_never_known_has_no_parent():
    levels = {"category": ["a", "b", ""], "subcategory": ["x", "y", "z"]}
    assert taxonomy_of(table_of(levels, None, 3), targets()).levels[1].parents == (0, 1, -1)


def test_names_that_no_training_photo_has_are_none():
    table = table_of()
    kept = table.take(np.array([0, 1, 3]))
    assert taxonomy_of(kept, targets()).levels[1].names == ("tees", "totes")


def test_what_a_photo_does_not_state_of_a_group_is_unknown():
    taxonomy = taxonomy_of(table_of(), targets())
    assert taxonomy.attributes == ("colour=blue", "colour=red", "new", "size=m", "size=s")
    truth = with_targets(table_of(), taxonomy, unstated="unknown").numbers["attributes"]
    expected = [
        [0, 1, 1, -1, -1],
        [1, 0, 0, -1, -1],
        [0, 1, 0, -1, -1],
        [-1, -1, 0, -1, -1],
        [-1, -1, 0, 0, 1],
        [-1, -1, 1, 1, 0],
    ]
    np.testing.assert_array_equal(truth, expected)
    assert (taxonomy.positives, taxonomy.negatives) == ((1, 2, 2, 1, 1), (2, 1, 4, 1, 1))
    assert taxonomy.groups == ("colour", "new", "size")
    assert taxonomy.group_places == (0, 0, 1, 2, 2)


def test_or_absent_where_that_is_asked_for():
    taxonomy = taxonomy_of(table_of(), targets(unstated="absent"))
    truth = with_targets(table_of(), taxonomy, unstated="absent").numbers["attributes"]
    assert truth.min() == 0
    assert taxonomy.positives == (1, 2, 2, 1, 1)
    assert taxonomy.negatives == (5, 4, 4, 5, 5)


def test_what_the_source_calls_unknown_stays_so():
    table = table_of()
    known = np.ones((6, 5), bool)
    known[0] = False
    table = dataclasses.replace(table, attributes=dataclasses.replace(table.attributes, known=known))
    truth = with_targets(table, taxonomy_of(table, targets()), unstated="absent").numbers["attributes"]
    assert (truth[0] == -1).all()
    assert (truth[1:] >= 0).all()


def test_rare_attributes_are_left_out():
    assert taxonomy_of(table_of(), targets(least=2)).attributes == ("new",)


def test_patterns_choose_levels_and_attributes():
    taxonomy = taxonomy_of(table_of(), targets(levels=("sub*",), attributes=("size=*", "new")))
    assert [level.name for level in taxonomy.levels] == ["subcategory"]
    assert taxonomy.levels[0].parents == ()
    assert taxonomy.attributes == ("size=m", "size=s", "new")
    assert taxonomy_of(table_of(), targets(attributes=())).attributes == ()
    assert told(taxonomy) == "to tell apart: subcategory (3), 3 attributes (size, new)"


def test_names_of_another_split_are_found_by_their_names():
    taxonomy = taxonomy_of(table_of(), targets())
    other = table_of(
        {"category": ["tops", "shoes"], "subcategory": ["totes", "boots"]}, ["colour=red", "colour=green"], 2
    )
    numbers = with_targets(other, taxonomy, unstated="unknown").numbers
    np.testing.assert_array_equal(numbers["levels"], [[1, 2], [-1, -1]])
    # A photo in green states its colour: neither of those that are known.
    np.testing.assert_array_equal(numbers["attributes"][:, :2], [[0, 1], [0, 0]])
    assert (numbers["attributes"][:, 3:] == -1).all()
    assert numbers["levels"].dtype == np.int32
    assert numbers["attributes"].dtype == np.int8


def test_a_split_without_columns_is_unknown():
    taxonomy = taxonomy_of(table_of(), targets())
    numbers = with_targets(table_of({}, None), taxonomy, unstated="unknown").numbers
    assert (numbers["levels"] == -1).all()
    assert (numbers["attributes"] == -1).all()


def test_it_travels_as_json():
    taxonomy = taxonomy_of(table_of(), targets())
    assert Taxonomy.from_json(taxonomy.as_json()) == taxonomy


@pytest.mark.parametrize(
    ("table", "changed", "message"),
    [
        (table_of(), {"levels": ("kind",)}, "has 'kind', which no level of test matches; known: category"),
        (table_of(), {"attributes": ("weight=*",)}, "which no attribute of test matches"),
        (table_of({}, None), {}, "no level and no attribute to classify by"),
        (table_of(), {"levels": (), "attributes": ()}, "no level and no attribute"),
        (table_of({"category": ["a"] * 6}), {}, "level 'category' of test has 1 names in training"),
        (table_of(), {"unstated": "maybe"}, "unstated is 'maybe'; known: unknown, absent"),
    ],
)
def test_what_cannot_be_told_apart_is_an_error(table, changed, message):
    with pytest.raises(ValueError, match=message):
        taxonomy_of(table, targets(**changed))
