"""The clock: everything falls on the end of a dispatch."""

import pytest
from ml_collections import ConfigDict

from fsl_jax.config import base_config
from fsl_jax.training.clock import Clock


def clock(**changes):
    config = base_config()
    config.train.update({"steps": 100, "steps_per_call": 10, "log_every": 20, "save_every": 50})
    config.eval.every = 40
    for name, value in changes.items():
        section, field = name.split("__")
        config[section][field] = value
    return Clock.of(config)


def steps_where(question):
    return [step for step in range(10, 101, 10) if question(step)]


def test_periods_are_aligned_to_absolute_steps_and_the_end():
    assert steps_where(clock().logs) == [20, 40, 60, 80, 100]
    assert steps_where(clock().evaluates) == [40, 80, 100]
    assert steps_where(clock().saves) == [40, 50, 80, 100]


def test_zero_is_never_but_the_end_is_saved_and_logged():
    silent = clock(train__log_every=0, train__save_every=0, eval__every=0)
    assert steps_where(silent.logs) == [100]
    assert steps_where(silent.evaluates) == []
    assert steps_where(silent.saves) == [100]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train__steps": 105},
            r"config.train.steps is 105, no multiple .* \(10\): try --config.train.steps=100",
        ),
        ({"eval__every": 15}, "config.eval.every is 15, no multiple"),
        ({"train__save_every": -10}, "config.train.save_every is -10"),
        ({"train__steps_per_call": 0}, "steps_per_call 0; expected at least 1"),
    ],
)
def test_a_period_that_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        clock(**change)


def test_windows_begin_at_their_absolute_steps_and_fit_the_dispatches():
    def with_windows(steps):
        config = base_config()
        config.sampler.options = ConfigDict({"refresh_every": steps})
        return Clock.of(config)

    windows = with_windows(30)
    assert [step for step in range(0, 100, 10) if windows.refreshes(step)] == [0, 30, 60, 90]
    assert not any(clock().refreshes(step) for step in range(0, 100, 10))
    with pytest.raises(ValueError, match=r"config\.sampler\.options\.refresh_every is 25, no multiple"):
        with_windows(25)
