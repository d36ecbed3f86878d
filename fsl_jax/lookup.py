"""Finds a part by name: a module path and the one name that every module of its kind defines."""

import difflib
import importlib
import pkgutil
from typing import Any


def known(package: str) -> list[str]:
    """Lists the modules of a package, in the order of the alphabet."""
    path = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_"))


def closest(name: str, choices: list[str]) -> str:
    """Says what the user may have meant, and what there is."""
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"known: {', '.join(choices) or 'none'}{hint}"


def find(package: str, module: str, attribute: str) -> Any:
    """Returns `attribute` of `package.module`.

    Args:
      package: For example "fsl_jax.data.sources".
      module: Module name inside the package, for example "omniglot".
      attribute: The name that every module of this kind defines, for example "load".

    Returns:
      The object.

    Raises:
      ValueError: There is no such module, or it does not define the name; the message lists what there is.
    """
    kind = package.rsplit(".", 1)[-1]
    if module not in known(package):
        raise ValueError(f"no {module!r} in {kind}; {closest(module, known(package))}")
    found = getattr(importlib.import_module(f"{package}.{module}"), attribute, None)
    if found is None:
        able = [name for name in known(package) if hasattr(importlib.import_module(f"{package}.{name}"), attribute)]
        raise ValueError(f"{module!r} in {kind} has no {attribute}; {closest(module, able)}")
    return found
