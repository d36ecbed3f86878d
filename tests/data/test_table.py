"""The table: checked once, selected by split, dealt to splits by label."""

from pathlib import Path

import numpy as np
import pytest

from fsl_jax.data.table import Attributes, Coded, Table, split_labels


def table(labels=("b", "a", "b", "c"), split=("train", "test", "train", "train"), **columns):
    images = columns.pop("images", np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1))
    return Table(source="shop", label=Coded.of(labels), split=np.array(split), images=images, **columns)


def test_selecting_sorts_by_label_and_codes_anew():
    train = table().select("train")
    assert train.label.names == ("b", "c")
    assert train.label.codes.tolist() == [0, 0, 1]
    assert train.images[:, 0, 0, 0].tolist() == [0, 2, 3]


def test_splits_can_be_joined():
    assert len(table().select("train+test")) == 4


def test_an_unknown_or_empty_split_says_which_there_are():
    with pytest.raises(
        ValueError, match=r"shop: no photo in split 'val'; there are train \(3 photos\), test \(1 photos\)"
    ):
        table().select("val")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"split": ("train", "test", "train")}, "column 'split' has 3 rows, label has 4"),
        ({"split": ("train", "tset", "train", "train")}, r"split of row 1 \(image 1\) is 'tset'"),
        ({"role": np.array(["query", "gallery", "shop", ""])}, r"role of row 2 \(image 2\) is 'shop'"),
        ({"labels": ("a", "", "b", "c")}, r"row 1 \(image 1\) has no label"),
        ({"images": None}, "either files .* or arrays"),
        ({"mask": np.array([""] * 4)}, r"mask files go with photo files \(path\)"),
        ({"images": None, "path": np.array(["p.png"] * 4), "mask": np.array([""])}, "'mask' has 1 rows"),
        ({"levels": {"category": Coded.of(["x"])}}, r"column 'levels\[category\]' has 1 rows"),
    ],
)
def test_a_table_that_is_not_as_it_should_be_is_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        table(**columns)


def test_attributes_are_read_from_cells():
    got = Attributes.of(["colour=red|material=wool", "", "colour=red"])
    assert got.names == ("colour=red", "material=wool")
    np.testing.assert_array_equal(got.values, [[True, True], [False, False], [True, False]])


def test_columns_with_one_value_a_row_become_attributes():
    got = Attributes.of_columns({"usage": ["Casual", "NA", ""], "colour": [" red ", "blue", "red"]})
    assert got.names == ("usage=Casual", "colour=blue", "colour=red")
    assert got.values.astype(int).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
    assert got.known.astype(int).tolist() == [[1, 1, 1], [0, 1, 1], [0, 1, 1]]


def test_what_counts_as_unknown_can_be_said():
    got = Attributes.of_columns({"country": ["NA", "?"]}, unknown=("?",))
    assert got.names == ("country=NA",)
    assert got.known.tolist() == [[True], [False]]
    assert Attributes.of_columns({"country": ["NA", "?"]}, unknown=()).known is None


def test_columns_of_attributes_have_one_length():
    with pytest.raises(ValueError, match=r"differ in length: 'a' has 1, 'b' has 2 rows"):
        Attributes.of_columns({"a": ["x"], "b": ["x", "y"]})


def test_attributes_of_two_places_are_joined():
    listed = Attributes.of(["colour=red|lined", "lined", "", ""])
    columns = Attributes.of_columns({"colour": ["NA", "red", "blue", "NA"]})
    got = listed.join(columns)
    assert got.names == ("colour=red", "lined", "colour=blue")
    assert got.values.astype(int).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert got.known.astype(int).tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 1], [0, 1, 0]]


def test_unknown_values_have_the_code_minus_one():
    coded = Coded.of(["x", "", "y"])
    assert coded.codes.tolist() == [0, -1, 1]
    assert coded.take(np.array([1, 2])).recode().codes.tolist() == [-1, 0]
    assert coded.counts().tolist() == [1, 1]


def test_labels_are_dealt_by_share_and_seed():
    names = [f"label{i}" for i in range(100)]
    dealt = split_labels(names, fractions=(0.6, 0.2, 0.2), seed=0)
    assert [list(dealt.values()).count(split) for split in ("train", "val", "test")] == [60, 20, 20]
    assert dealt == split_labels(reversed(names), fractions=(0.6, 0.2, 0.2), seed=0)
    assert dealt != split_labels(names, fractions=(0.6, 0.2, 0.2), seed=1)


@pytest.mark.parametrize(
    ("count", "fractions", "expected"),
    [
        (1, (0.6, 0.2, 0.2), [1, 0, 0]),
        (2, (0.6, 0.2, 0.2), [1, 1, 0]),
        (3, (0.6, 0.2, 0.2), [1, 1, 1]),
        (4, (0.9, 0.05, 0.05), [2, 1, 1]),
        (5, (0.0, 0.0, 1.0), [0, 0, 5]),
        (5, (1.0, 0.0, 0.0), [5, 0, 0]),
    ],
)
def test_few_labels_are_dealt_to_every_split_that_was_asked_for(count, fractions, expected):
    dealt = split_labels([f"label{i}" for i in range(count)], fractions=fractions, seed=0)
    assert [list(dealt.values()).count(split) for split in ("train", "val", "test")] == expected


def test_shares_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ValueError, match="three shares"):
        split_labels(["a"], fractions=(0.5, 0.2, 0.2), seed=0)


def test_a_mask_file_stays_with_its_row():
    paths = np.array([f"{i}.jpg" for i in range(4)], dtype=object)
    masks = np.array(["m/0.png", "m/1.png", "", "m/3.png"], dtype=object)
    masked = table(images=None, path=paths, mask=masks, root=Path("shop"))
    train = masked.select("train")
    assert train.path.tolist() == ["0.jpg", "2.jpg", "3.jpg"]
    assert [train.mask_file(row) for row in range(3)] == [Path("shop/m/0.png"), None, Path("shop/m/3.png")]
    assert masked.take(np.array([3, 1])).mask.tolist() == ["m/3.png", "m/1.png"]
    assert table().mask_file(0) is None
