"""Fills a network's variables from the arrays of a file: every array is used once, every variable is filled."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fsl_jax.models.pretrained.port import Arrays, Place, Port, laid_out, target

_SHOWN = 8


def filled(
    arrays: Arrays,
    port: Port,
    places: Mapping[str, Place],
    expected: Mapping[str, Any],
    *,
    new: Sequence[str],
) -> dict[str, np.ndarray]:
    """Lays the arrays of a file out as variables.

    Args:
      arrays: Of the file, prepared.
      port: Of the file's family.
      places: Where its modules go.
      expected: Variables with their shapes, by flat name such as "params/stem/conv/kernel".
      new: Regular expressions of whole flat names that the file need not have.

    Returns:
      float32 arrays by flat name; of the expected names those that the file has, and the classifier's
      ("params/head/...") where it has one.

    Raises:
      ValueError: Arrays are left over, variables are not filled, a shape differs, or two arrays have one place.
    """
    found: dict[str, np.ndarray] = {}
    left_over, wrong = [], []
    for name, array in arrays.items():
        if not port.needs(name):
            continue
        place = target(name, places)
        if place is None or not (place[0] in expected or place[0].startswith("params/head/")):
            left_over.append(name)
            continue
        problem = _put(found, place[0], array, place[1], expected)
        wrong += [f"{name} {problem}"] if problem else []
    missing = [name for name in expected if name not in found and not _matches(name, new)]
    _refuse(port.family, {"missing": [] if wrong else missing, "left over": left_over, "wrong": wrong})
    return found


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _put(found: dict, name: str, array: np.ndarray, kind: Any, expected: Mapping[str, Any]) -> str:
    """Adds an array, or says why not."""
    try:
        own = laid_out(array, kind)
    except ValueError as error:
        return str(error)
    if name in found:
        return f"fills {name}, which is filled already"
    if name in expected and own.shape != expected[name].shape:
        return f"has shape {array.shape}, as {name} {own.shape}; expected {expected[name].shape}"
    if not np.issubdtype(np.result_type(array.dtype, np.float32), np.floating):
        return f"has dtype {array.dtype}; expected real numbers"
    found[name] = np.ascontiguousarray(own, dtype=np.float32)
    return ""


def _refuse(family: str, problems: Mapping[str, Sequence[str]]) -> None:
    texts = [
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for kind, names in problems.items()
        if names
    ]
    if texts:
        raise ValueError(f"the file does not fit {family}; {'; '.join(texts)}")
