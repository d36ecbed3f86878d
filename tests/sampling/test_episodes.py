"""Episodes: what is drawn, how often, and that it does not depend on devices or readers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import table_of_counts

from fsl_jax.data.table import Coded
from fsl_jax.sampling.episodes import LabelRows, draw_without_replacement, make
from fsl_jax.sampling.keys import named_key


def drawn(counts, *, tasks=4, way=3, shot=1, queries=2, steps=1, seed=0):
    table = table_of_counts(counts)
    plan = make(table, tasks=tasks, way=way, shot=shot, queries=queries)
    rows = jax.jit(lambda step: plan.rows(LabelRows.of(table), named_key(seed, "train"), step))
    return table, np.stack([rows(step) for step in range(steps)])


def test_rows_of_a_label_are_its_own_and_none_is_drawn_twice():
    table, rows = drawn([3, 5, 4, 9, 3], steps=20)
    labels = table.label.codes[rows]
    assert (labels == labels[..., :1]).all()
    for task in rows.reshape(-1, 9):
        assert len(set(task.tolist())) == 9  # no query is a support photo
    for of_task in labels[..., 0].reshape(-1, 3):
        assert len(set(of_task.tolist())) == 3


def test_every_photo_of_every_label_is_drawn_equally_often():
    counts = [3, 6, 3]
    table, rows = drawn(counts, tasks=32, way=2, shot=1, queries=1, steps=150)
    seen = np.bincount(rows.reshape(-1), minlength=len(table))
    expected = np.repeat([2 / 3 * 2 / count for count in counts], counts) * 32 * 150
    # A photo is in a task with probability way/labels * photos/count; five standard deviations of a binomial.
    assert (np.abs(seen - expected) < 5 * np.sqrt(expected)).all()


def test_the_order_of_labels_in_a_task_is_random():
    _, rows = drawn([3] * 4, tasks=64, way=4, steps=4)
    first = rows[..., 0, 0].reshape(-1) // 3
    assert (np.bincount(first, minlength=4) > 30).all()


def test_an_episode_depends_on_its_number_alone():
    _, in_fours = drawn([4] * 6, tasks=4, steps=2)
    _, in_eights = drawn([4] * 6, tasks=8, steps=1)
    np.testing.assert_array_equal(in_fours.reshape(8, 3, 3), in_eights.reshape(8, 3, 3))


def test_other_steps_and_seeds_draw_other_episodes():
    _, rows = drawn([4] * 6, steps=2)
    _, other_seed = drawn([4] * 6, seed=1)
    assert (rows[0] != rows[1]).any()
    assert (rows[0] != other_seed[0]).any()


def test_draws_are_the_order_of_threefry_bits():
    # The definition in NumPy: sort the 31 upper bits of the numbers below the count.
    key = named_key(3, "train")
    bits = np.asarray(jax.random.bits(key, (10,), jnp.uint32)) >> 1
    expected = np.argsort(bits[:7], kind="stable")[:4]
    np.testing.assert_array_equal(draw_without_replacement(key, 7, size=4, most=10), expected)


def test_assembling_parts_support_and_query_by_label():
    table = table_of_counts([4, 4, 4])
    plan = make(table, tasks=2, way=3, shot=1, queries=2)
    rows = plan.rows(LabelRows.of(table), named_key(0, "train"), 0)
    episode = plan.assemble(jnp.asarray(table.images)[rows])
    assert (episode.tasks, episode.way, episode.shot, episode.queries) == (2, 3, 1, 2)
    np.testing.assert_array_equal(episode.query.label, [[0, 0, 1, 1, 2, 2]] * 2)
    np.testing.assert_array_equal(episode.support.image[1, 2], table.images[rows[1, 2, 0]])
    np.testing.assert_array_equal(episode.query.image[0, 3], table.images[rows[0, 1, 2]])


def grouped(sizes, **shape):
    """Labels of categories of these sizes, dealt out so that a category's labels do not stand together."""
    category = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    table = table_of_counts([4] * len(category))
    level = Coded.of([f"category_{category[label]}" for label in table.label.codes])
    return dataclasses.replace(table, levels={"category": level}), category


def test_labels_of_a_task_are_of_one_category_and_each_is_drawn_equally_often():
    table, category = grouped([5, 2, 8, 3])
    plan = make(table, tasks=64, way=3, shot=1, queries=1, group_by="category")
    columns = plan.columns(table)
    rows = np.concatenate([plan.rows(columns, named_key(0, "train"), step) for step in range(40)])
    labels = rows[..., 0] // 4
    of_task = category[labels]
    assert (of_task == of_task[:, :1]).all()
    assert all(len(set(task)) == 3 for task in labels.tolist())
    # A task has 3 of the n labels of its category, which is drawn in proportion to n.
    expected = np.where(category == 1, 0, 64 * 40 * 3 / 16)
    seen = np.bincount(labels.reshape(-1), minlength=18)
    assert (np.abs(seen - expected) <= 5 * np.sqrt(expected)).all()
    # No place in a task is a category's favourite's.
    first = np.bincount(labels[:, 0], minlength=18)
    assert (np.abs(first - expected / 3) <= 5 * np.sqrt(expected / 3)).all()


def test_a_category_level_that_cannot_be_used_is_named():
    table, _ = grouped([5, 2])
    with pytest.raises(ValueError, match="no category of test has the 6 labels of a task, the largest has 5"):
        make(table, tasks=1, way=6, shot=1, queries=1, group_by="category")
    with pytest.raises(ValueError, match="test has no level 'alphabet'"):
        make(table, tasks=1, way=2, shot=1, queries=1, group_by="alphabet")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (
            [3, 1, 3],
            "label 'label_001' has 1 photo; 1 shot \\+ 1 query needs 2: drop it with --config.data.min_photos=2",
        ),
        ([3, 1, 1], "label 'label_001' has 1 photo \\(1 more labels have too few\\)"),
        ([3, 3], "3-way episodes need 3 labels, but split 'train' of test has 2"),
    ],
)
def test_too_few_labels_or_photos_are_named(counts, message):
    with pytest.raises(ValueError, match=message):
        make(table_of_counts(counts), tasks=1, way=3, shot=1, queries=1)


def test_an_empty_episode_is_refused():
    with pytest.raises(ValueError, match="queries is 0"):
        make(table_of_counts([3, 3]), tasks=1, way=2, shot=1, queries=0)
