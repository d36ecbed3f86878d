"""P x K batches: what an epoch has, that all photos come, and what becomes of labels with few photos."""

import dataclasses

import jax
import numpy as np
import pytest
from absl import logging
from helpers import table_of_counts

from fsl_jax.data.table import Coded
from fsl_jax.sampling.balanced import make
from fsl_jax.sampling.keys import named_key


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    return said


def with_categories(counts, categories):
    """A table whose labels, in order, are of these categories; "" is unknown."""
    table = table_of_counts(counts)
    level = Coded.of([categories[code] for code in table.label.codes])
    return dataclasses.replace(table, levels={"category": level})


def drawn(table, *, epochs, **options):
    """The plan, and its rows as [epoch, step, label, photo]."""
    plan = make(table, **options)
    columns, key = plan.columns(table), named_key(0, "train")
    rows = jax.jit(jax.vmap(lambda step: plan.rows(columns, key, step)))
    steps = np.arange(epochs * plan.steps_an_epoch, dtype=np.int32)
    return plan, np.asarray(rows(steps)).reshape(epochs, -1, plan.labels, plan.photos)


def labels_of(table, rows):
    """The labels as [epoch, step, label], after a check that a label's rows lie together."""
    labels = table.label.codes[rows]
    assert (labels == labels[..., :1]).all()
    return labels[..., 0]


COUNTS = [2, 4, 3, 5, 2, 6, 3]


@pytest.fixture(scope="module")
def uneven():
    """Seven labels, three a step: two places of an epoch's nine are filled up."""
    table = table_of_counts(COUNTS)
    return table, *drawn(table, labels=3, photos=2, epochs=24)


@pytest.fixture(scope="module")
def even():
    """Six labels of four photos, three and two a step."""
    table = table_of_counts([4] * 6)
    return table, *drawn(table, labels=3, photos=2, epochs=1200)


def test_an_epoch_has_every_label_once_and_is_filled_up_with_its_first_ones(uneven):
    table, plan, rows = uneven
    assert (plan.size, plan.steps_an_epoch) == (6, 3)
    for epoch in labels_of(table, rows):
        flat = epoch.reshape(-1).tolist()
        assert sorted(flat[:7]) == list(range(7))
        assert flat[7:] == flat[:2]
        assert all(len(set(step.tolist())) == 3 for step in epoch)


def test_an_epoch_that_comes_out_even_has_no_label_twice(even):
    table, plan, rows = even
    assert plan.steps_an_epoch == 2
    np.testing.assert_array_equal(np.sort(labels_of(table, rows).reshape(-1, 6)), [range(6)] * 1200)


def test_as_many_labels_as_there_are_make_an_epoch_of_one_step():
    assert make(table_of_counts([2, 2, 2]), labels=3, photos=1).steps_an_epoch == 1


def test_every_photo_was_there_after_its_labels_count_over_k_epochs(uneven):
    table, _, rows = uneven
    for label, (start, count) in enumerate(zip(np.cumsum([0, *COUNTS]), COUNTS, strict=False)):
        visits = -(-count // 2)
        for turn in range(24 // visits):  # and again after each new shuffle
            seen = rows[turn * visits : (turn + 1) * visits].reshape(-1)
            assert set(seen[table.label.codes[seen] == label]) == set(range(start, start + count))


def test_no_photo_comes_again_before_the_others_were_there(even):
    _, _, rows = even  # four photos, two by two: two epochs have each just once
    np.testing.assert_array_equal(np.sort(rows.reshape(600, 24)), [range(24)] * 600)


def test_no_photo_is_twice_in_a_batch_where_its_label_has_k(uneven):
    ordered = np.sort(uneven[2].reshape(-1, 6))
    assert (np.diff(ordered) > 0).all()


def test_labels_and_photos_come_in_another_order_each_time(even):
    table, _, rows = even
    orders = {tuple(order) for order in labels_of(table, rows).reshape(1200, 6).tolist()}
    assert len(orders) > 400  # of 720
    pairs = rows[table.label.codes[rows] == 0].reshape(1200, 2)
    assert len({tuple(pair) for pair in pairs.tolist()}) == 12  # all that four photos have


def test_every_photo_is_equally_often_in_each_place(even):
    for place in even[2].reshape(1200, 12).T:
        seen = np.bincount(place, minlength=24)
        assert (np.abs(seen - 50) < 5 * np.sqrt(50 * 23 / 24)).all()


def test_short_labels_repeat_their_photos_as_evenly_as_they_can():
    table = table_of_counts([1, 2, 3, 4])
    _, rows = drawn(table, labels=4, photos=4, epochs=10)
    for step in rows.reshape(10, 16):
        seen = np.bincount(step, minlength=10)
        assert [sorted(part.tolist()) for part in np.split(seen, [1, 3, 6])] == [
            [4],
            [2, 2],
            [1, 1, 2],
            [1, 1, 1, 1],
        ]


def test_repeating_is_the_default_and_needs_no_warning(warnings):
    table = table_of_counts([1, 3])
    assert make(table, labels=2, photos=2) == make(table, labels=2, photos=2, short="repeat")
    assert not warnings


def test_short_labels_are_dropped_with_a_warning_and_the_others_keep_their_categories(warnings):
    table = with_categories([3, 1, 4, 2, 3, 3], ["coat", "bag", "shoe", "coat", "coat", "shoe"])
    plan, rows = drawn(table, labels=2, photos=3, short="drop", group_by="category", epochs=6)
    assert warnings == [
        "test: 2 of 6 labels have fewer than 3 photos, such as 'label_001'; they are left out of training"
    ]
    assert plan.steps_an_epoch == 2
    for epoch in labels_of(table, rows):
        assert sorted(sorted(step) for step in epoch.tolist()) == [[0, 4], [2, 5]]


def test_short_labels_are_refused():
    with pytest.raises(
        ValueError,
        match=r"test: 2 of 4 labels have fewer than 3 photos, such as 'label_001': "
        r"set --config.sampler.options.short=repeat or drop, or --config.data.min_photos=3",
    ):
        make(table_of_counts([3, 1, 4, 2]), labels=2, photos=3, short="refuse")


@pytest.mark.parametrize("short", ["drop", "refuse"])
def test_k_photos_are_enough_under_every_policy(short, warnings):
    assert make(table_of_counts([3, 3]), labels=2, photos=3, short=short).chosen == (0, 1)
    assert not warnings


CATEGORIES = ["shoe", "bag", "coat", "bag", "shoe", "bag", "coat", "shoe", "bag"]


@pytest.fixture(scope="module")
def grouped():
    table = with_categories([2] * 9, CATEGORIES)
    return table, *drawn(table, labels=4, photos=2, group_by="category", epochs=40)


def test_labels_of_a_category_stand_together_in_a_complete_epoch(grouped):
    table, _, rows = grouped
    of_categories, of_bags = set(), set()
    for epoch in labels_of(table, rows).reshape(40, -1):
        assert sorted(epoch[:9].tolist()) == list(range(9))
        assert epoch[9:].tolist() == epoch[:3].tolist()
        names = [CATEGORIES[label] for label in epoch[:9]]
        runs = [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
        assert sorted(runs) == ["bag", "coat", "shoe"]  # each category once, unbroken
        of_categories.add(tuple(runs))
        of_bags.add(tuple(label for label in epoch[:9].tolist() if CATEGORIES[label] == "bag"))
    assert len(of_categories) == 6  # all orders of the categories
    assert len(of_bags) > 15  # of 24 orders within one


def test_without_grouping_neighbouring_labels_are_mixed(even):
    table, _, rows = even
    alone = [len(set((step // 3).tolist())) == 1 for step in labels_of(table, rows).reshape(-1, 3)]
    assert 0.07 < np.mean(alone) < 0.13  # 2 of 20 by chance


def test_an_unknown_level_is_named():
    with pytest.raises(
        ValueError, match="test has no level 'categry'; known: category; did you mean 'category'"
    ):
        make(with_categories([2, 2], ["bag", "coat"]), labels=2, photos=2, group_by="categry")


def test_a_step_depends_on_key_and_number_alone(grouped):
    table, plan, rows = grouped
    columns, rows = plan.columns(table), rows.reshape(120, 8)
    step_rows = jax.jit(plan.rows)
    for step in (11, 0, 7):
        np.testing.assert_array_equal(step_rows(columns, named_key(0, "train"), np.int32(step)), rows[step])
        assert (step_rows(columns, named_key(1, "train"), np.int32(step)) != rows[step]).any()
    assert step_rows._cache_size() == 1  # later calls compile nothing
    np.testing.assert_array_equal(plan.rows(columns, named_key(0, "train"), 7), rows[7])  # no jit


def test_a_batch_says_labels_rows_and_further_columns():
    table = table_of_counts([2, 3])
    table = dataclasses.replace(table, numbers={"text": np.arange(10, dtype=np.float32).reshape(5, 2)})
    plan = make(table, labels=2, photos=2)
    batch = plan.assemble(table.images[[3, 0]], plan.columns(table), np.array([3, 0]))
    np.testing.assert_array_equal(batch.image, table.images[[3, 0]])
    np.testing.assert_array_equal(batch.label, [1, 0])
    np.testing.assert_array_equal(batch.columns["row"], [3, 0])
    np.testing.assert_array_equal(batch.columns["text"], [[6, 7], [0, 1]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"labels": 4},
            "a batch of 4 labels needs as many, but split 'train' of test has 3: lower --config.sampler.options.labels",
        ),
        (
            {"labels": 3, "short": "drop"},
            "a batch of 3 labels needs as many, but split 'train' of test has 2",
        ),
        ({"labels": 0}, "config.sampler.options.labels is 0; expected at least 1"),
        ({"photos": 0}, "config.sampler.options.photos is 0; expected at least 1"),
        (
            {"short": "repeats"},
            "config.sampler.options.short is 'repeats'; known: repeat, drop, refuse; did you mean 'repeat'",
        ),
    ],
)
def test_what_cannot_be_planned_is_named(options, message, warnings):
    with pytest.raises(ValueError, match=message):
        make(table_of_counts([2, 1, 3]), **{"labels": 2, "photos": 2, **options})
