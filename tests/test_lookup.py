"""A function with options from a config: none is filtered, none is forgotten."""

import pytest
from ml_collections import ConfigDict

from fsl_jax.lookup import bound


def hinge(gap, floor=0.0, *, margin, scale=2.0):
    return gap, floor, margin, scale


def clipped(gap, *, low, high, scale=1.0):
    return gap, low, high, scale


def test_options_are_fixed_and_positional_arguments_given_later():
    assert bound(hinge, {"margin": 0.5, "scale": 3.0}, "config.loss")(7.0) == (7.0, 0.0, 0.5, 3.0)
    assert bound(hinge, {"margin": 0.5}, "config.loss")(7.0, 1.0) == (7.0, 1.0, 0.5, 2.0)


def test_a_config_section_is_taken_as_it_is():
    assert bound(hinge, ConfigDict({"margin": 0.5}), "config.loss")(7.0) == (7.0, 0.0, 0.5, 2.0)


def test_later_changes_of_the_options_change_nothing():
    options = {"margin": 0.5}
    made = bound(hinge, options, "config.loss")
    options["margin"] = 9.0
    assert made(7.0) == (7.0, 0.0, 0.5, 2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"margin": 1.0, "scal": 2.0},
            r"^config.loss has no option 'scal'; known: margin, scale; did you mean 'scale'\?$",
        ),
        ({"margn": 1.0}, r"^config.loss has no option 'margn'; .*did you mean 'margin'\?$"),
        ({"margin": 1.0, "zzz": 2.0}, r"^config.loss has no option 'zzz'; known: margin, scale$"),
        # Positional arguments are no options.
        ({"margin": 1.0, "gap": 2.0}, "has no option 'gap'; known: margin, scale"),
        ({"margin": 1.0, "floor": 2.0}, "has no option 'floor'; known: margin, scale"),
    ],
)
def test_an_unknown_option_is_named_with_those_there_are(options, message):
    with pytest.raises(ValueError, match=message):
        bound(hinge, options, "config.loss")


def test_a_function_without_options_says_so():
    with pytest.raises(ValueError, match=r"^config.reducer has no option 'share'; known: none$"):
        bound(lambda values: values, {"share": 0.5}, "config.reducer")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"^config.mining lacks the option low, high: give it, such as low=...$"),
        ({"low": 1}, r"^config.mining lacks the option high: give it, such as high=...$"),
        ({"high": 1, "scale": 2.0}, r"^config.mining lacks the option low: give it, such as low=...$"),
    ],
)
def test_missing_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        bound(clipped, options, "config.mining")


def test_what_the_caller_gives_is_neither_missing_nor_an_option():
    made = bound(clipped, {"high": 4}, "config.mining", given=("low", "scale"))
    assert made(1, low=3) == (1, 3, 4, 1.0)
    assert made(1, low=3, scale=5.0) == (1, 3, 4, 5.0)
    with pytest.raises(ValueError, match=r"^config.mining has no option 'low'; known: high$"):
        bound(clipped, {"high": 4, "low": 3}, "config.mining", given=("low", "scale"))
    with pytest.raises(ValueError, match=r"^config.mining lacks the option high"):
        bound(clipped, {}, "config.mining", given=("low", "scale"))
