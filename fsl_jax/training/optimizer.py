"""Builds an optax optimiser from the config: schedule, clipping, decay, and rules by parameter name."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jaxtyping import Array, Bool
from ml_collections import ConfigDict

from fsl_jax.lookup import closest
from fsl_jax.types import Params


def schedule(config: ConfigDict, *, steps: int) -> optax.Schedule:
    """Builds the learning rate over the steps.

    Args:
      config: `schedule` ("constant", "cosine", "linear" or "halve"), `learning_rate` (the peak), `warmup` (steps that
        rise from 0), `final` (share of the peak at the end of "cosine" and "linear") and `halve_every` (steps, of
        "halve").
      steps: Length of the run.
    """
    peak, warmup = config.learning_rate, config.warmup
    left = max(steps - warmup, 1)
    shapes = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, left, alpha=config.final),
        "linear": lambda: optax.linear_schedule(peak, peak * config.final, left),
        "halve": lambda: optax.exponential_decay(peak, max(config.halve_every, 1), 0.5, staircase=True),
    }
    if config.schedule not in shapes:
        raise ValueError(
            f"config.optimizer.schedule is {config.schedule!r}; {closest(config.schedule, [*shapes])}"
        )
    if config.schedule == "halve" and config.halve_every < 1:
        raise ValueError("config.optimizer.schedule 'halve' needs config.optimizer.halve_every, in steps")
    if not warmup:
        return shapes[config.schedule]()
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup), shapes[config.schedule]()], [warmup]
    )


def decay(config: ConfigDict, *, steps: int) -> float | optax.Schedule:
    """Builds the weight decay over the steps: one number, or a cosine from `weight_decay` to `weight_decay_final`."""
    first, last = config.weight_decay, config.weight_decay_final
    if last is None or last == first:
        return first
    return lambda step: last + (first - last) * (1 + jnp.cos(jnp.pi * step / steps)) / 2


def clip_each_norm(most: float) -> optax.GradientTransformation:
    """Scales the gradient of each array down to a Euclidean norm of at most `most`, each by itself.

    References:
      Caron et al. 2021, https://arxiv.org/abs/2104.14294, clip so, at 3; the rule itself is in their code alone.
    """

    def clipped(gradient: Array) -> Array:
        return gradient * jnp.minimum(1.0, most / (jnp.linalg.norm(gradient.ravel()) + 1e-6))

    return optax.stateless(lambda gradients, _: jax.tree.map(clipped, gradients))


def _base(
    config: ConfigDict, rate: optax.Schedule, weight_decay: float | optax.Schedule
) -> optax.GradientTransformation:
    kinds = {
        "adam": lambda: optax.adam(rate),
        "adamw": lambda: optax.adamw(rate, weight_decay=weight_decay, mask=_decayed),
        "sgd": lambda: optax.sgd(rate, momentum=config.momentum or None),
    }
    if config.name not in kinds:
        raise ValueError(f"config.optimizer.name is {config.name!r}; {closest(config.name, [*kinds])}")
    if config.name == "adamw" or not (callable(weight_decay) or weight_decay):
        return kinds[config.name]()
    return optax.chain(optax.add_decayed_weights(weight_decay, mask=_decayed), kinds[config.name]())


def _decayed(params: Params) -> Params:
    """Decays whatever has several axes, such as kernels; not biases and scales."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def rates_by_name(params: Params, rules: Sequence[tuple[str, float]]) -> Params:
    """Returns each parameter's factor of the learning rate.

    Args:
      params: Nested dict of parameters; names are joined by "/", such as "body/conv1/kernel".
      rules: (regular expression of the whole name, factor); the first that matches counts, 0 freezes, and without a
        match the factor is 1.

    Raises:
      ValueError: A rule matches no parameter.
    """
    flat = traverse_util.flatten_dict(params, sep="/", keep_empty_nodes=True)
    # A method without parameters of its own has an empty group, which stays.
    factors: dict[str, Any] = {name: leaf for name, leaf in flat.items() if leaf is traverse_util.empty_node}
    names, used = [name for name in flat if name not in factors], set()
    for name in names:
        match = next((i for i, (pattern, _) in enumerate(rules) if re.fullmatch(pattern, name)), None)
        factors[name] = 1.0 if match is None else float(rules[match][1])
        used.add(match)
    idle = [pattern for i, (pattern, _) in enumerate(rules) if i not in used]
    if idle:
        raise ValueError(
            f"rule {idle[0]!r} of config.optimizer.rules matches no parameter; {closest(idle[0], names)}"
        )
    return traverse_util.unflatten_dict(factors, sep="/")


def frozen(config: ConfigDict, params: Params) -> Params | None:
    """Returns whether each parameter's rule has the factor 0; None where no rule freezes any."""
    if not config.rules:
        return None
    stays = jax.tree.map(lambda factor: factor == 0, rates_by_name(params, [tuple(r) for r in config.rules]))
    return stays if any(jax.tree.leaves(stays)) else None


def make(config: ConfigDict, params: Params, *, steps: int) -> optax.GradientTransformation:
    """Builds the optimiser.

    Args:
      config: `config.optimizer`; see configs/ for its fields.
      params: To which it will be applied, for the rules by name.
      steps: Length of the run.

    Returns:
      With `accumulate` above 1 an `optax.MultiSteps`, which has an update only every so many gradients: their mean.
      Schedules go on counting steps, each of one gradient.

    Raises:
      ValueError: A name is unknown, a rule matches nothing, or the steps are no multiple of `accumulate`.
    """
    together = config.accumulate
    if together < 1 or steps % together:
        raise ValueError(
            f"config.optimizer.accumulate is {together}; expected at least 1, and a divisor of config.train.steps "
            f"({steps})"
        )
    rate, decayed = schedule(config, steps=steps), decay(config, steps=steps)
    if together == 1:
        return _of_one_gradient(config, params, rate, decayed)

    def of_updates(over_steps: Any) -> Any:
        # Within an update of several steps a value is that of the last of them.
        return (
            (lambda count: over_steps(count * together + together - 1))
            if callable(over_steps)
            else over_steps
        )

    averaged = _of_one_gradient(config, params, of_updates(rate), of_updates(decayed))
    return optax.MultiSteps(averaged, every_k_schedule=together).gradient_transformation()


def updated(config: ConfigDict, state: optax.OptState) -> Bool[Array, ""] | bool:
    """Whether the last gradient brought an update, rather than being kept for one."""
    return True if config.accumulate == 1 else state.mini_step == 0


def _of_one_gradient(
    config: ConfigDict, params: Params, rate: optax.Schedule, weight_decay: float | optax.Schedule
) -> optax.GradientTransformation:
    clips = [optax.clip(config.clip_value)] if config.clip_value else []
    clips += [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    clips += [clip_each_norm(config.clip_each_norm)] if config.clip_each_norm else []
    base = _base(config, rate, weight_decay)
    if not config.rules:
        return optax.chain(*clips, base)
    factors = rates_by_name(params, [tuple(rule) for rule in config.rules])
    labels = jax.tree.map(str, factors)
    kinds = {
        str(factor): optax.chain(base, optax.scale(factor)) if factor else optax.set_to_zero()
        for factor in jax.tree.leaves(factors)
    }
    # Clipped before it is parted: a norm is of all parameters, not of those that share a rule.
    return optax.chain(*clips, optax.partition(kinds, labels))
