"""The optimiser: schedules by their formula, rules by name, decay of kernels alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fsl_jax.config import base_config
from fsl_jax.training import optimizer

PARAMS = {"body": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "head": {"kernel": jnp.ones((2, 2))}}
ONES = {"body": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "head": {"kernel": jnp.ones((2, 2))}}


def config(**changes):
    section = base_config().optimizer
    section.update({"name": "sgd", "learning_rate": 0.5, **changes})
    return section


def one_update(**changes):
    made = optimizer.make(config(**changes), PARAMS, steps=10)
    return made.update(ONES, made.init(PARAMS), PARAMS)[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schedule": "constant"}, [0.5, 0.5, 0.5]),
        ({"schedule": "cosine"}, [0.5, 0.5 * (1 + np.cos(np.pi * 0.4)) / 2, 0.0]),
        ({"schedule": "cosine", "final": 0.1}, [0.5, None, 0.05]),
        ({"schedule": "halve", "halve_every": 4}, [0.5, 0.25, 0.125]),
        ({"schedule": "linear", "final": 0.5}, [0.5, 0.4, 0.25]),
        ({"schedule": "constant", "warmup": 8}, [0.0, 0.25, 0.5]),
    ],
)
def test_schedules_follow_their_formula(changes, expected):
    rate = optimizer.schedule(config(**changes), steps=10)
    for step, value in zip((0, 4, 10), expected, strict=True):
        if value is not None:
            np.testing.assert_allclose(rate(step), value, atol=1e-7)


def test_gradients_that_are_accumulated_are_averaged_into_one_update():
    """The plain optimiser, given the means by hand, does the same; so does its schedule, which counts steps."""
    gradients = [jax.tree.map(lambda p, k=k: p * k, ONES) for k in (1.0, 3.0, -2.0, 5.0)]
    changes = {"name": "adam", "schedule": "linear", "final": 0.5, "clip_norm": 1.0, "weight_decay": 0.1}
    made = optimizer.make(config(**changes, accumulate=2), PARAMS, steps=4)
    state, params, moved, told = made.init(PARAMS), PARAMS, [], []
    for gradient in gradients:
        updates, state = made.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        moved.append(float(params["head"]["kernel"][0, 0]))
        told.append(bool(optimizer.updated(config(accumulate=2), state)))
    assert told == [False, True, False, True]
    rates = [0.5 * (1 - 0.5 * 1 / 4), 0.5 * (1 - 0.5 * 3 / 4)]  # of the second and the fourth step
    plain = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(0.1, mask=jax.tree.map(lambda p: p.ndim > 1, PARAMS)),
        optax.adam(lambda count: jnp.asarray(rates)[count]),
    )
    expected, state = PARAMS, plain.init(PARAMS)
    for one, other in (gradients[:2], gradients[2:]):
        mean = jax.tree.map(lambda a, b: (a + b) / 2, one, other)
        updates, state = plain.update(mean, state, expected)
        expected = optax.apply_updates(expected, updates)
    for got, wanted in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert moved[0] == 1.0
    assert moved[1] == moved[2] != 1.0


@pytest.mark.parametrize("together", [0, 3])
def test_steps_that_do_not_divide_into_updates_are_an_error(together):
    with pytest.raises(ValueError, match=rf"config.optimizer.accumulate is {together}; expected at least 1"):
        optimizer.make(config(accumulate=together), PARAMS, steps=10)


def test_rules_scale_and_freeze_by_name_and_the_first_match_counts():
    updates = one_update(rules=(("head/.*", 0.0), (".*/kernel", 2.0)))
    np.testing.assert_allclose(updates["head"]["kernel"], 0)
    np.testing.assert_allclose(updates["body"]["kernel"], -1.0)
    np.testing.assert_allclose(updates["body"]["bias"], -0.5)


def test_a_rule_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"rule 'hed/\.\*' of config.optimizer.rules matches no parameter"):
        one_update(rules=(("hed/.*", 0.0),))


def test_decay_goes_by_a_cosine_to_its_end():
    weights = optimizer.decay(config(weight_decay=0.04, weight_decay_final=0.4), steps=10)
    np.testing.assert_allclose([weights(0), weights(5), weights(10)], [0.04, 0.22, 0.4], rtol=1e-5)
    made = optimizer.make(config(name="adamw", weight_decay=0.2, weight_decay_final=0.4), PARAMS, steps=2)
    nothing, state, params = jax.tree.map(jnp.zeros_like, ONES), made.init(PARAMS), PARAMS
    for expected in (1 - 0.5 * 0.2, (1 - 0.5 * 0.2) * (1 - 0.5 * 0.3)):
        updates, state = made.update(nothing, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["head"]["kernel"], expected, rtol=1e-5)
        np.testing.assert_allclose(params["body"]["bias"], 1.0)


def test_each_array_is_clipped_by_its_own_norm():
    gradients = {
        "body": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.array([0.3, 0.4])},
        "head": {"kernel": jnp.full((2, 2), 0.5)},
    }
    made = optimizer.make(config(clip_each_norm=2.0, learning_rate=1.0), PARAMS, steps=10)
    updates, _ = made.update(gradients, made.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["body"]["kernel"], -1.0, rtol=1e-5)  # 3 / 6 x 2
    np.testing.assert_allclose(updates["body"]["bias"], [-0.3, -0.4], rtol=1e-5)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.5, rtol=1e-5)


def test_decay_takes_kernels_and_leaves_biases():
    updates = one_update(weight_decay=0.1)
    np.testing.assert_allclose(updates["body"]["kernel"], -0.55)
    np.testing.assert_allclose(updates["body"]["bias"], -0.5)


def test_clipping_by_value_and_by_norm():
    np.testing.assert_allclose(one_update(clip_value=0.2)["body"]["bias"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(one_update(clip_norm=1.0)["body"]["bias"], -0.5 / np.sqrt(10), rtol=1e-6)


def test_a_norm_is_clipped_over_all_parameters_also_with_rules():
    updates = one_update(clip_norm=1.0, rules=((".*/kernel", 2.0),))
    np.testing.assert_allclose(updates["body"]["bias"], -0.5 / np.sqrt(10), rtol=1e-6)
    np.testing.assert_allclose(updates["body"]["kernel"], -1.0 / np.sqrt(10), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "adm"}, "config.optimizer.name is 'adm'; known: adam, adamw, sgd; did you mean 'adam'"),
        ({"schedule": "cosin"}, "config.optimizer.schedule is 'cosin'.*did you mean 'cosine'"),
        ({"schedule": "halve"}, "needs config.optimizer.halve_every"),
    ],
)
def test_unknown_names_are_told(changes, message):
    with pytest.raises(ValueError, match=message):
        one_update(**changes)


def test_parameters_of_a_rule_of_zero_are_frozen():
    stays = optimizer.frozen(config(rules=(("body/.*", 0.0), ("head/.*", 0.1))), PARAMS)
    assert stays == {"body": {"kernel": True, "bias": True}, "head": {"kernel": False}}
    assert optimizer.frozen(config(rules=(("head/.*", 0.1),)), PARAMS) is None
    assert optimizer.frozen(config(), PARAMS) is None


def test_an_empty_group_of_parameters_stays_where_rules_are():
    made = optimizer.make(config(rules=(("body/.*", 0.0),)), {**PARAMS, "objective": {}}, steps=10)
    grown = {**ONES, "objective": {}}
    updates = made.update(grown, made.init({**PARAMS, "objective": {}}), {**PARAMS, "objective": {}})[0]
    assert updates["objective"] == {}
    np.testing.assert_allclose(updates["head"]["kernel"], -0.5)
