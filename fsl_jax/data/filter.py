"""Rows of a table by what their columns say, such as "role=gallery&category=bags"."""

import fnmatch

import numpy as np
from jaxtyping import Bool

from fsl_jax.data.table import Table
from fsl_jax.lookup import closest


def matching(table: Table, condition: str) -> Table:
    """Keeps the rows that match all parts of a condition.

    Args:
      table: Photos.
      condition: Parts joined by "&", such as "role=query", "domain=shop", "category=bags" (any level),
        "label=Versace/*" (a pattern) or a whole attribute such as "brand=Aurelio"; "" keeps all. In a pattern "?"
        stands for any sign, an "&" too.

    Raises:
      ValueError: A column is unknown, or no row is left.
    """
    kept = np.ones(len(table), bool)
    for part in filter(None, (part.strip() for part in condition.split("&"))):
        kept &= _matches(table, part)
    if not kept.any():
        raise ValueError(f"{table.source}: no photo of {len(table)} matches {condition!r}")
    return table.take(kept)


def _matches(table: Table, part: str) -> Bool[np.ndarray, "n"]:
    name, equals, value = (text.strip() for text in part.partition("="))
    attributes = table.attributes.names if table.attributes is not None else ()
    if (whole := f"{name}{equals}{value}") in attributes:
        return table.attributes.values[:, attributes.index(whole)]  # type: ignore[union-attr]
    if not equals:
        raise ValueError(
            f"condition {part!r} has no '='; expected a column and its value, such as role=query"
        )
    if name == "label":
        wanted = np.array([fnmatch.fnmatchcase(label, value) for label in table.label.names])
        return wanted[table.label.codes]
    coded = {**table.levels, **({} if table.domain is None else {"domain": table.domain})}
    if name in coded:
        return np.array([*coded[name].names, ""])[coded[name].codes] == value
    plain = {"split": table.split, **({} if table.role is None else {"role": table.role})}
    if name in plain:
        return np.asarray(plain[name]) == value
    columns = ["label", *coded, *plain, *sorted({attribute.partition("=")[0] for attribute in attributes})]
    if name in columns:
        return np.zeros(len(table), bool)
    raise ValueError(f"{table.source} has no column {name!r}; {closest(name, columns)}")
