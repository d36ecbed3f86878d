"""Plans of flat batches: what is drawn and how often, and that both readers give the same."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from helpers import table_of_counts
from PIL import Image

from fsl_jax.data import loader
from fsl_jax.data.loader import StreamingReader
from fsl_jax.data.resident import ResidentReader
from fsl_jax.data.table import Coded
from fsl_jax.mesh import data_mesh
from fsl_jax.sampling import balanced, pairs, refreshed, triplets, uniform
from fsl_jax.sampling.keys import named_key
from fsl_jax.sampling.refreshed import Neighbours


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    return said


def shop(counts, *, roles=None, categories=None):
    """Photos of labels in order; roles a photo, categories a label ("" is unknown)."""
    table = table_of_counts(counts, side=4, channels=3)
    if roles is not None:
        table = dataclasses.replace(table, role=np.array(roles))
    if categories is not None:
        level = Coded.of([categories[label] for label in table.label.codes])
        table = dataclasses.replace(table, levels={"category": level})
    return table


def drawn(plan, table, *windows, steps):
    """Rows of the steps from 0 on; with windows, those of each."""
    columns, key = plan.columns(table), named_key(0, "train")
    program = jax.jit(jax.vmap(functools.partial(plan.rows, columns, key), in_axes=(0, None)))
    rows = [np.asarray(program(np.arange(steps, dtype=np.int32), window)) for window in windows or [()]]
    return rows if windows else rows[0]


def assert_drawn(first, second, probability):
    """Checks how often each second row came with each first one: five standard deviations of a binomial."""
    seen = np.zeros(probability.shape, int)
    np.add.at(seen, (first, second), 1)
    assert (seen[probability == 0] == 0).all()
    times = seen.sum(axis=1, keepdims=True)
    spread = np.sqrt(times * probability * (1 - probability))
    assert (np.abs(seen - times * probability) <= 5 * spread + 1e-6).all()


def evenly(table, allowed):
    """Probability of each second row given a first one, where all that `allowed(i, j)` holds of are equal."""
    there = np.array([[allowed(i, j) for j in range(len(table))] for i in range(len(table))], float)
    return there / np.maximum(there.sum(axis=1, keepdims=True), 1)


# Labels 0 to 5. Label 2 has gallery photos only, label 3 a query photo only, label 4 photos of other roles too.
ROLES = "query query gallery gallery|query gallery|gallery gallery gallery|query|query gallery  support|gallery query"
ROLES = [role for part in ROLES.split("|") for role in part.split(" ")]
CATEGORIES = ["bag", "coat", "bag", "bag", "bag", "shoe"]
ANCHORS = [0, 1, 4, 10, 15]
"""Query photos whose label has gallery photos."""
GALLERY = [2, 3, 5, 6, 7, 8, 11, 14]


@functools.cache
def roles_shop():
    return shop([4, 2, 3, 1, 4, 2], roles=ROLES, categories=CATEGORIES)


# uniform


@pytest.mark.parametrize(
    ("batch", "steps"), [(3, 7 * 40), (7, 120), (17, 7 * 6)], ids=["within", "whole", "several"]
)
def test_every_photo_comes_once_an_epoch_across_the_borders_of_steps(batch, steps):
    table = shop([3, 4])
    rows = drawn(uniform.make(table, batch=batch), table, steps=steps)
    assert rows.shape == (steps, batch)
    epochs = rows.reshape(-1, 7)
    np.testing.assert_array_equal(np.sort(epochs), np.broadcast_to(range(7), epochs.shape))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 0.9 * len(epochs)  # of 5040 orders


def test_every_photo_is_equally_often_at_each_place_of_an_epoch():
    table = shop([2, 3])
    epochs = drawn(uniform.make(table, batch=10), table, steps=500).reshape(1000, 5)
    for place in epochs.T:
        assert (np.abs(np.bincount(place, minlength=5) - 200) < 5 * np.sqrt(200 * 0.8)).all()


# pairs

PAIRED = [1, 3, 2, 4]


@pytest.fixture(scope="module")
def paired():
    table = shop(PAIRED)
    rows = drawn(pairs.make(table, pairs=60, p_same=0.3), table, steps=200)
    return table, rows.reshape(-1, 2)


def test_every_photo_is_the_first_of_a_pair_once_an_epoch(paired):
    np.testing.assert_array_equal(np.sort(paired[1][:, 0].reshape(-1, 10)), [range(10)] * 1200)


def test_the_share_of_pairs_of_one_label_is_p_same_where_a_label_has_two_photos(paired):
    table, rows = paired
    first, second = table.label.codes[rows.T]
    same = (first == second)[first != 0]
    assert abs(same.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / len(same))
    assert (first != second)[first == 0].all()  # its photo is alone


def test_no_photo_is_paired_with_itself(paired):
    assert (paired[1][:, 0] != paired[1][:, 1]).all()


def test_positives_are_drawn_evenly_from_the_other_photos_of_the_label(paired):
    table, rows = paired
    label = table.label.codes
    same = rows[label[rows[:, 0]] == label[rows[:, 1]]]
    assert_drawn(*same.T, evenly(table, lambda i, j: label[i] == label[j] and i != j))


def test_negatives_are_drawn_evenly_from_all_photos_of_other_labels(paired):
    table, rows = paired
    label = table.label.codes
    different = rows[label[rows[:, 0]] != label[rows[:, 1]]]
    assert_drawn(*different.T, evenly(table, lambda i, j: label[i] != label[j]))


def test_all_pairs_are_different_or_the_same_at_the_ends():
    table = shop([1, 3, 2])
    plan = pairs.make(table, pairs=8, p_same=1.0)
    columns, key = plan.columns(table), named_key(0, "train")

    def rows(p_same, step):
        return dataclasses.replace(plan, p_same=p_same).rows(columns, key, step)

    both = jax.jit(jax.vmap(rows, in_axes=(None, 0)))
    for p_same in (0.0, 1.0):
        first, second = np.asarray(both(p_same, np.arange(30, dtype=np.int32))).reshape(-1, 2).T
        same = table.label.codes[first] == table.label.codes[second]
        np.testing.assert_array_equal(same, (first != 0) & (p_same == 1))  # photo 0 is alone


@pytest.mark.parametrize("p_same", [0, 1])
def test_the_ends_may_be_whole_numbers(p_same):
    table = shop([2, 2])
    plan = pairs.make(table, pairs=2, p_same=p_same)
    jax.eval_shape(lambda: plan.rows(plan.columns(table), named_key(0, "train"), 0))


def test_photos_that_are_alone_are_said_in_a_warning(warnings):
    pairs.make(shop([1, 3, 1, 2]), pairs=2, p_same=0.5)
    assert warnings == ["test: 2 photos are alone in their label; they are paired with other labels only"]
    pairs.make(shop([3, 2]), pairs=2, p_same=0.5)
    assert len(warnings) == 1


# triplets


def test_triplets_of_one_set_have_the_right_labels_evenly_and_no_photo_twice(warnings):
    table = shop(PAIRED)
    label = table.label.codes
    plan = triplets.make(table, triplets=60)
    assert warnings == ["test: 1 of 10 photos have no positive; they are no anchors"]
    anchor, same, other = drawn(plan, table, steps=150).reshape(-1, 3).T
    epochs = anchor.reshape(-1, 9)
    np.testing.assert_array_equal(np.sort(epochs), [range(1, 10)] * 1000)
    assert_drawn(anchor, same, evenly(table, lambda i, j: label[i] == label[j] and i != j))
    assert_drawn(anchor, other, evenly(table, lambda i, j: label[i] != label[j]))


def test_across_domains_anchors_are_queries_and_the_others_gallery_photos(warnings):
    table = roles_shop()
    label = table.label.codes
    plan = triplets.make(table, triplets=50, cross_domain=True)
    assert warnings == ["test: 1 of 6 photos have no positive; they are no anchors"]
    anchor, same, other = drawn(plan, table, steps=100).reshape(-1, 3).T
    np.testing.assert_array_equal(np.sort(anchor.reshape(-1, 5)), [ANCHORS] * 1000)
    assert_drawn(anchor, same, evenly(table, lambda i, j: label[i] == label[j] and j in GALLERY))
    assert_drawn(anchor, other, evenly(table, lambda i, j: label[i] != label[j] and j in GALLERY))


def test_no_photo_without_positive_needs_no_warning(warnings):
    triplets.make(shop([2, 3]), triplets=2)
    assert not warnings


def test_a_negative_nearby_is_of_the_next_label_of_the_category_the_first_after_the_last():
    # Labels 0, 2, 3 are bags, 1 and 5 coats; 4 is the only shoe and falls back to all.
    table = shop([2, 3, 2, 3, 2, 2], categories=["bag", "coat", "bag", "bag", "shoe", "coat"])
    label, following = table.label.codes, {0: 2, 2: 3, 3: 0, 1: 5, 5: 1}
    plan = triplets.make(table, triplets=70, negative="neighbour")
    anchor, same, other = drawn(plan, table, steps=60).reshape(-1, 3).T
    assert (label[anchor] == label[same]).all()

    def allowed(i, j):
        return label[j] == following[label[i]] if label[i] in following else label[j] != label[i]

    assert_drawn(anchor, other, evenly(table, allowed))


def test_across_domains_a_label_without_gallery_photos_is_nobodys_neighbour(warnings):
    # Bags are 0, 2, 3 and 4, of which 3 has none in the gallery; 1 and 5 are alone in their categories.
    plan = triplets.make(roles_shop(), triplets=2, cross_domain=True, negative="neighbour")
    assert plan.columns(roles_shop()).neighbour.tolist() == [2, 1, 4, 4, 0, 5]


def test_labels_of_unknown_category_have_no_neighbour():
    table = shop([2, 2, 2, 2], categories=["bag", "", "", "bag"])
    plan = triplets.make(table, triplets=2, negative="neighbour")
    assert plan.columns(table).neighbour.tolist() == [3, 1, 2, 0]


# refreshed


@pytest.fixture(scope="module")
def in_windows():
    """Triplets of two windows: in one each anchor has another number of neighbours, in the first it has none."""
    table = roles_shop()
    plan = refreshed.make(table, triplets=50, neighbours=4, refresh_every=2)
    # Places in GALLERY. What lies behind `found` are photos of the anchor's own label.
    place = [[7, 4, 2, 5], [3, 6, 0, 1], [0, 2, 2, 2], [1, 0, 7, 6], [7, 7, 7, 7]]
    window = Neighbours(jnp.asarray(place, jnp.int32), jnp.asarray([4, 2, 1, 3, 0], jnp.int32))
    rows, first = drawn(plan, table, window, plan.first_window(), steps=120)
    return table, plan, rows.reshape(-1, 3).T, first.reshape(-1, 3).T


def test_a_negative_is_drawn_evenly_from_the_places_that_the_window_found(in_windows):
    table, _, (anchor, _, other), _ = in_windows
    found = {0: {14, 7, 5, 8}, 1: {6, 11}, 4: {2}, 10: {3, 2, 14}}
    kept = anchor != 15
    assert_drawn(anchor[kept], other[kept], evenly(table, lambda i, j: j in found.get(i, ())))


def test_an_anchor_without_neighbours_falls_back_to_any_wrong_photo(in_windows):
    table, _, (anchor, _, other), first = in_windows
    label = table.label.codes
    wrong = evenly(table, lambda i, j: i in ANCHORS and j in GALLERY and label[i] != label[j])
    kept = anchor == 15
    assert_drawn(anchor[kept], other[kept], wrong)
    assert_drawn(first[0], first[2], wrong)


def test_a_window_changes_neither_anchors_nor_positives(in_windows):
    _, _, rows, first = in_windows
    np.testing.assert_array_equal(rows[:2], first[:2])
    assert (rows[2] != first[2]).mean() > 0.5


def test_a_window_is_of_the_anchors_and_gallery_that_the_plan_names(in_windows):
    table, plan, _, _ = in_windows
    anchor, gallery = plan.sides(table)
    assert (anchor.tolist(), gallery.tolist()) == (ANCHORS, GALLERY)
    empty = plan.first_window()
    assert (empty.place.shape, empty.found.tolist()) == ((5, 4), [0] * 5)


def test_within_one_set_all_photos_are_anchors_and_gallery():
    table = shop([2, 2])
    plan = refreshed.make(table, triplets=2, cross_domain=False, refresh_every=1)
    assert plan.neighbours == 25  # as in the paper
    assert [side.tolist() for side in plan.sides(table)] == [[0, 1, 2, 3]] * 2


# all


def plan_of(name, table, size):
    """A plan, and the window that its rows are drawn with."""
    if name == "uniform":
        return uniform.make(table, batch=size), ()
    if name == "pairs":
        return pairs.make(table, pairs=size, p_same=0.5), ()
    if name == "triplets":
        return triplets.make(table, triplets=size, cross_domain=True), ()
    plan = refreshed.make(table, triplets=size, neighbours=2, refresh_every=4)
    place = jnp.asarray([[7, 2], [5, 3], [0, 4], [1, 5], [6, 2]])
    return plan, Neighbours(place, jnp.asarray([2, 1, 2, 0, 2]))


@pytest.mark.parametrize("name", ["uniform", "pairs", "refreshed"])
def test_an_item_depends_on_key_and_its_number_alone(name, warnings):
    table = roles_shop()
    (plan, window), (double, _) = plan_of(name, table, 4), plan_of(name, table, 8)
    columns, key = plan.columns(table), named_key(0, "train")
    step_rows = jax.jit(plan.rows)
    rows = np.stack([step_rows(columns, key, np.int32(step), window) for step in range(4)])
    other = np.stack([step_rows(columns, named_key(1, "train"), np.int32(step), window) for step in range(4)])
    assert step_rows._cache_size() == 1  # later calls compile nothing
    assert (rows != other).any(axis=1).all()
    assert len(np.unique(rows, axis=0)) == 4
    assert (rows.shape, rows.dtype) == ((4, plan.size), np.int32)
    # Twice as many a step are the same items.
    wide = jax.jit(double.rows)(columns, key, np.int32(1), window)
    np.testing.assert_array_equal(wide, rows[2:].reshape(-1))


def test_without_jit_the_same_is_drawn(warnings):
    table = roles_shop()
    plan, window = plan_of("refreshed", table, 4)  # compilation takes longest of all; it draws as triplets do
    columns, key = plan.columns(table), named_key(0, "train")
    compiled = jax.jit(plan.rows)(columns, key, np.int32(3), window)
    np.testing.assert_array_equal(plan.rows(columns, key, 3, window), compiled)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: uniform.make(shop([3]), batch=2),
            "test: all 3 photos of split 'train' have one label; training needs at least two labels",
        ),
        (lambda: pairs.make(shop([3]), pairs=2, p_same=0.5), "all 3 photos of split 'train' have one label"),
        (lambda: triplets.make(shop([3]), triplets=2), "all 3 photos of split 'train' have one label"),
        (
            lambda: uniform.make(shop([2, 2]), batch=0),
            "config.sampler.options.batch is 0; expected at least 1",
        ),
        (
            lambda: pairs.make(shop([2, 2]), pairs=0, p_same=0.5),
            "config.sampler.options.pairs is 0; expected at least 1",
        ),
        (
            lambda: pairs.make(shop([2, 2]), pairs=1, p_same=1.5),
            "config.sampler.options.p_same is 1.5; expected 0 to 1",
        ),
        (
            lambda: pairs.make(shop([2, 2]), pairs=1, p_same=float("nan")),
            "config.sampler.options.p_same is nan; expected 0 to 1",
        ),
        (
            lambda: pairs.make(shop([1, 1, 1]), pairs=1, p_same=0.5),
            "test: no label has two photos, so no pair can be of one label",
        ),
        (
            lambda: triplets.make(shop([2, 2]), triplets=0),
            "config.sampler.options.triplets is 0; expected at least 1",
        ),
        (
            lambda: triplets.make(shop([2, 2]), triplets=1, negative="neighbor"),
            "config.sampler.options.negative is 'neighbor'; known: any, neighbour; did you mean 'neighbour'",
        ),
        (
            lambda: triplets.make(shop([2, 2]), triplets=1, negative="neighbour"),
            "test has no level 'category'; known: none",
        ),
        (
            lambda: triplets.make(shop([1, 1]), triplets=1),
            "test: no triplet can be made: no photo has another of its label, or all gallery photos have one label",
        ),
        (
            lambda: triplets.make(
                shop([2, 1], roles=["query", "gallery", "query"]), triplets=1, cross_domain=True
            ),
            "no triplet can be made: no photo has another of its label in the gallery, or all gallery photos have one",
        ),
        (
            lambda: triplets.make(
                shop([1, 2], roles=["query", "gallery", "gallery"]), triplets=1, cross_domain=True
            ),
            "test: no triplet can be made",
        ),
        (
            lambda: triplets.make(shop([2, 2]), triplets=1, cross_domain=True),
            "test: cross-domain triplets need photos of the roles query and gallery in split 'train'; "
            "set --config.sampler.options.cross_domain=False to do without",
        ),
        (
            lambda: refreshed.make(shop([2, 2], roles=["gallery"] * 4), triplets=1, refresh_every=1),
            "cross-domain triplets need photos of the roles query and gallery",
        ),
        (
            lambda: refreshed.make(roles_shop(), triplets=1, neighbours=0, refresh_every=1),
            "config.sampler.options.neighbours is 0; expected at least 1",
        ),
        (
            lambda: refreshed.make(roles_shop(), triplets=1, refresh_every=0),
            "config.sampler.options.refresh_every is 0; expected at least 1",
        ),
    ],
)
def test_what_cannot_be_planned_is_named(make, message, warnings):
    with pytest.raises(ValueError, match=message):
        make()


# readers


@pytest.fixture
def on_disk(tmp_path):
    """The same photos as files and as an array, with a further column."""
    numbers = {"text": np.arange(32, dtype=np.float32).reshape(16, 2)}
    table = dataclasses.replace(roles_shop(), numbers=numbers)
    for row, image in enumerate(table.images):
        Image.fromarray(image).save(tmp_path / f"{row}.png")
    path = np.array([f"{row}.png" for row in range(16)])
    return dataclasses.replace(table, images=None, path=path, root=tmp_path), table


def readers(plan, on_disk):
    files, table = on_disk
    key, mesh = named_key(0, "train"), data_mesh(2)
    options = {"size": 4, "channels": 3, "fit": "stretch", "threads": 2, "ahead": 2}
    return StreamingReader(files, plan, key, mesh, **options), ResidentReader.of(table, plan, key, mesh)


def fetched(reader):
    """A function from a window and steps to their batches, fetched inside a program as the training step does."""

    def of_steps(constant, given, window):
        return jax.lax.map(lambda one: reader.fetch(constant, one, window), given)

    program = jax.jit(of_steps)

    def batches(step, count, window=()):
        return jax.device_get(program(reader.constant, reader.inputs(step, count), window))

    return batches


def assert_same(batches, expected, table):
    """Checks that batches are the same, and that each photo has its own label and columns."""
    jax.tree.map(np.testing.assert_array_equal, batches, expected)
    rows = batches.columns["row"]
    np.testing.assert_array_equal(batches.image, table.images[rows])
    np.testing.assert_array_equal(batches.label, table.label.codes[rows])
    np.testing.assert_array_equal(batches.columns["text"], table.numbers["text"][rows])
    assert set(batches.columns) == {"row", "text"}


@pytest.mark.parametrize("name", ["uniform", "pairs", "balanced"])
def test_both_readers_give_the_same_batches(name, on_disk, warnings, monkeypatch):
    monkeypatch.setattr(loader, "PLANNED", 2)
    _, table = on_disk
    if name == "balanced":
        plan = balanced.make(table, labels=4, photos=2, group_by="category")
    else:
        plan, _ = plan_of(name, table, 4)
    streaming, resident = readers(plan, on_disk)
    from_files, from_array = fetched(streaming), fetched(resident)
    first = from_files(0, 3)  # more steps than are planned at once
    assert first.label.shape == (3, plan.size)
    assert_same(first, from_array(0, 3), table)
    assert_same(from_files(3, 3), from_array(3, 3), table)
    assert_same(from_files(1, 3), from_array(1, 3), table)  # a run that continues from a checkpoint
    streaming.close()


def test_both_readers_give_the_same_batches_across_windows(on_disk, warnings):
    _, table = on_disk
    plan, first = plan_of("refreshed", table, 4)
    second = Neighbours((first.place + 3) % 8, jnp.asarray([1, 2, 0, 2, 1]))
    streaming, resident = readers(plan, on_disk)
    from_files, from_array = fetched(streaming), fetched(resident)

    def same(step, window):
        got = from_files(step, 2)
        assert_same(got, from_array(step, 2, window), table)
        return got.columns["row"]

    streaming.begin_window(first)
    same(0, first)
    same(2, first)
    streaming.begin_window(second)
    assert (same(4, second) != from_array(4, 2, first).columns["row"]).any()
    # All of a window is planned at once: what was read ahead of this one has to go.
    streaming.begin_window(first)
    assert (same(6, first) != from_array(6, 2, second).columns["row"]).any()
    streaming.close()
