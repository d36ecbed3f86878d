"""Finds a part by name: a module path and the one name that every module of its kind defines."""

import difflib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Mapping
from typing import Any

LISTED = 40
"""So many choices are all listed in a message; of more, those that are nearest."""


def known(package: str) -> list[str]:
    """Lists the modules of a package, in the order of the alphabet."""
    path = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_"))


def closest(name: str, choices: list[str]) -> str:
    """Says what the user may have meant, and what there is."""
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if len(choices) > LISTED:
        likely = difflib.get_close_matches(name, choices, n=LISTED // 4, cutoff=0.1) or choices[: LISTED // 4]
        return f"the nearest of {len(choices)}: {', '.join(likely)}{hint}"
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
        able = [
            name
            for name in known(package)
            if hasattr(importlib.import_module(f"{package}.{name}"), attribute)
        ]
        raise ValueError(f"{module!r} in {kind} has no {attribute}; {closest(module, able)}")
    return found


def with_options(
    function: Callable, options: Mapping[str, Any], section: str, *arguments: Any, **keywords: Any
) -> Any:
    """Calls a function with options from a config; none is filtered.

    Args:
      function: What is built.
      options: Keyword arguments as the config names them.
      section: Where the config has them, for messages.
      *arguments: Further positional arguments, which no config names.
      **keywords: Further keyword arguments, which no config names.

    Raises:
      ValueError: An option is unknown, or one that has no default is missing.
    """
    parameters = inspect.signature(function).parameters
    # Every flax module takes these two besides its own fields.
    of_flax = ("parent", "name") if isinstance(function, type) else ()
    choices = [name for name in list(parameters)[len(arguments) :] if name not in (*keywords, *of_flax)]
    for name in options:
        if name not in choices:
            raise ValueError(f"{section} has no option {name!r}; {closest(name, choices)}")
    given = {*options, *keywords}
    needed = [
        name for name in choices if parameters[name].default is inspect.Parameter.empty and name not in given
    ]
    if needed:
        raise ValueError(f"{section} lacks the option {', '.join(needed)}: give it, such as {needed[0]}=...")
    return function(*arguments, **dict(options), **keywords)


def bound(
    function: Callable, options: Mapping[str, Any], section: str, *, given: Collection[str] = ()
) -> Callable:
    """Fixes a function's keyword-only arguments with options from a config; none is filtered.

    Args:
      function: Whose positional arguments are given later.
      options: Keyword-only arguments as the config names them.
      section: Where the config has them, for messages.
      given: Keyword-only arguments that no config names, since the caller gives them.

    Raises:
      ValueError: An option is unknown, or one that has no default is missing.
    """
    parameters = inspect.signature(function).parameters.values()
    keyword_only = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in given]
    choices = [p.name for p in keyword_only]
    for name in options:
        if name not in choices:
            raise ValueError(f"{section} has no option {name!r}; {closest(name, choices)}")
    needed = [p.name for p in keyword_only if p.default is p.empty and p.name not in options]
    if needed:
        raise ValueError(f"{section} lacks the option {', '.join(needed)}: give it, such as {needed[0]}=...")
    return functools.partial(function, **dict(options))
