"""Rows by a condition: each kind of column, and what is said where nothing fits."""

import dataclasses
import re

import numpy as np
import pytest

from fsl_jax.data.filter import matching
from fsl_jax.data.table import Attributes, Coded, Table

PHOTOS = {
    "label": ["Versace/bag", "Versace/bag", "Versace/coat", "Prada/bag", "Prada/hat", "Prada/a=b"],
    "split": ["train", "train", "val", "test", "test", "test"],
    "role": ["query", "gallery", "gallery", "query", "", "support"],
    "domain": ["customer", "shop", "shop", "customer", "", "shop"],
    "category": ["bags", "bags", "coats", "bags", "", "hats"],
    "material": ["leather", "", "wool", "wool", "felt", "felt"],
    "attributes": ["brand=Aurelio|colour=red", "brand=Aurelio", "", "colour=red|waterproof", "", "size=a=b"],
}


@pytest.fixture
def table():
    return Table(
        source="shop",
        label=Coded.of(PHOTOS["label"]),
        split=np.array(PHOTOS["split"]),
        images=np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1),
        role=np.array(PHOTOS["role"]),
        domain=Coded.of(PHOTOS["domain"]),
        levels={name: Coded.of(PHOTOS[name]) for name in ("category", "material")},
        attributes=Attributes.of(PHOTOS["attributes"]),
        text=np.array([f"text {row}" for row in range(6)]),
        numbers={"text": np.arange(6, dtype=np.float32)[:, None]},
    )


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("", [0, 1, 2, 3, 4, 5]),
        ("role=query", [0, 3]),
        ("role=support", [5]),
        ("domain=shop", [1, 2, 5]),
        ("category=bags", [0, 1, 3]),
        ("material=wool", [2, 3]),
        ("split=test", [3, 4, 5]),
        ("label=Prada/hat", [4]),
        ("label=Versace/*", [0, 1, 2]),
        ("label=*/bag", [0, 1, 3]),
        ("label=Prada/?a?", [3, 4]),
        ("label=Prada/a=b", [5]),
        ("brand=Aurelio", [0, 1]),
        ("colour=red", [0, 3]),
        ("size=a=b", [5]),
        ("role=gallery&category=bags", [1]),
        ("label=*/bag&role=query&colour=red&split=test", [3]),
        (" role = query & category = bags & ", [0, 3]),
    ],
)
def test_rows_that_match_all_parts_are_kept_in_order(table, condition, rows):
    assert matching(table, condition).images.reshape(-1).tolist() == rows


def test_an_attribute_without_a_value_is_a_whole_attribute_too(table):
    assert matching(table, "waterproof").images.reshape(-1).tolist() == [3]


def test_blanks_around_the_sign_do_not_matter_for_attributes_either(table):
    assert matching(table, "brand = Aurelio").images.reshape(-1).tolist() == [0, 1]


def test_all_columns_are_cut_to_the_same_rows(table):
    kept = matching(table, "category=bags")
    for name in ("split", "role"):
        assert getattr(kept, name).tolist() == [PHOTOS[name][row] for row in (0, 1, 3)]
    for name, coded in {"label": kept.label, "domain": kept.domain, **kept.levels}.items():
        values = [coded.names[code] if code >= 0 else "" for code in coded.codes]
        assert values == [PHOTOS[name][row] for row in (0, 1, 3)]
    assert kept.text.tolist() == ["text 0", "text 1", "text 3"]
    assert kept.numbers["text"].tolist() == [[0], [1], [3]]
    red = kept.attributes.names.index("colour=red")
    assert kept.attributes.values[:, red].tolist() == [True, False, True]


@pytest.mark.parametrize(
    "condition",
    [
        "role=qeury",
        "domain=customers",
        "category=bag",
        "split=training",
        "label=versace/*",  # a pattern minds capitals
        "label=Versace",  # and is of the whole label
        "brand=Aureli",
        "brand=*",  # no pattern
        "role=query&domain=shop",  # each has photos, both together none
    ],
)
def test_nothing_left_says_the_condition(table, condition):
    with pytest.raises(ValueError, match=re.escape(f"shop: no photo of 6 matches {condition!r}")):
        matching(table, condition)


def test_an_unknown_column_is_named_with_those_there_are(table):
    with pytest.raises(
        ValueError, match=r"shop has no column 'rol'; known: .*; did you mean 'role'\?"
    ) as raised:
        matching(table, "category=bags&rol=query")
    for name in ("label", "domain", "category", "material", "split", "role", "brand", "colour", "size"):
        assert name in str(raised.value)


@pytest.mark.parametrize("column", ["role", "domain", "category", "brand"])
def test_a_column_that_this_table_lacks_is_unknown(table, column):
    bare = dataclasses.replace(table, role=None, domain=None, levels={}, attributes=None)
    with pytest.raises(ValueError, match=f"shop has no column '{column}'; known: label, split"):
        matching(bare, f"{column}=query")


def test_a_part_without_a_value_is_refused(table):
    with pytest.raises(
        ValueError,
        match="condition 'gallery' has no '='; expected a column and its value, such as role=query",
    ):
        matching(table, "category=bags&gallery")
