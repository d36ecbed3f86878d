"""Sweeps: runs of one config file that differ in a few settings, each in a workdir of its own.

A config file says what is swept in a function beside `get_config`:

    from fsl_jax.sweep import Settings, product

    def get_sweep(preset: str = "") -> Iterable[Settings]:
        return product({"optimizer.learning_rate": (1e-4, 1e-3), "seed": range(3)})

Running them is `sweep_launch.py`, reading them `sweep_table.py`, the flags `sweep_command.py`.
"""

import dataclasses
import hashlib
import inspect
import itertools
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from fsl_jax.config import as_json, config_file, config_module, differences, flat
from fsl_jax.lookup import closest
from fsl_jax.workdir import FREE_TO_CHANGE, kept_config, write_json

Settings = Mapping[str, Any]
"""Values by config path, such as {"optimizer.learning_rate": 1e-3, "seed": 0}."""
Axes = Mapping[str, Iterable[Any]]
"""Several values by config path."""

SEED, PRESET = "seed", "preset"
"""The setting that is averaged over, and the one that is given behind the config's colon."""
SWEEP, RESULT, FAILED, LOG = "sweep.json", "result.json", "failed.json", "output.log"
LONGEST_NAME = 100

_WRITABLE: Mapping[Any, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (float, int),
    str: (str,),
    tuple: (tuple,),
    ConfigDict: (dict,),
}
"""What a field of a type may be given on a command line."""


def product(*parts: Axes | Iterable[Settings]) -> Iterator[dict[str, Any]]:
    """Yields every combination; the last part changes fastest.

    Args:
      *parts: Axes, or other sweeps, such as `zipped`.

    Raises:
      ValueError: An axis is empty or one text, or a path is in two parts.

    Example:
      >>> [*product({"optimizer.learning_rate": (0.1, 0.2)}, {"seed": range(2)})][1]
      {'optimizer.learning_rate': 0.1, 'seed': 1}
    """
    lists = [choices for part in parts for choices in _choices(part)]
    for chosen in itertools.product(*lists):
        twice = [
            path for path, count in Counter(path for item in chosen for path in item).items() if count > 1
        ]
        if twice:
            raise ValueError(f"{twice[0]!r} is in two parts of a product: keep one")
        yield {path: value for item in chosen for path, value in item.items()}


def zipped(axes: Axes) -> Iterator[dict[str, Any]]:
    """Yields the first value of each axis, then the second, and so on.

    Raises:
      ValueError: The axes differ in length, or one is empty or one text.

    Example:
      >>> [*zipped({"episode.way": (5, 20), "episode.tasks": (32, 16)})]
      [{'episode.way': 5, 'episode.tasks': 32}, {'episode.way': 20, 'episode.tasks': 16}]
    """
    values = {path: _values(path, axis) for path, axis in axes.items()}
    lengths = {path: len(axis) for path, axis in values.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{path} {length}" for path, length in lengths.items())
        raise ValueError(f"zipped axes differ in length ({told}): make them equal, or take product")
    for row in zip(*values.values(), strict=True):
        yield dict(zip(values, row, strict=True))


def chained(*parts: Iterable[Settings]) -> Iterator[dict[str, Any]]:
    """Yields the items of one sweep after those of another.

    Example:
      >>> [*chained([{"seed": 0}], product({"seed": (1, 2)}))]
      [{'seed': 0}, {'seed': 1}, {'seed': 2}]
    """
    for part in parts:
        yield from map(dict, part)


def _choices(part: Axes | Iterable[Settings]) -> list[list[Settings]]:
    if not isinstance(part, Mapping):
        return [list(part)]
    return [[{path: value} for value in _values(path, axis)] for path, axis in part.items()]


def _values(path: str, axis: Iterable[Any]) -> list[Any]:
    if isinstance(axis, str) or not isinstance(axis, Iterable):
        raise ValueError(f"{path!r} is given {axis!r}: give a list of values, such as [{axis!r}]")
    values = list(axis)
    if not values:
        raise ValueError(f"{path!r} has no values: give some, or leave it out")
    return values


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      name: Of its folder in the sweep's root.
      settings: What it was given, as the config holds it.
      arguments: Of `fsl_jax.main`.
      workdir: Where it is kept.
      config: The whole config, as JSON values.
    """

    name: str
    settings: dict[str, Any]
    arguments: tuple[str, ...]
    workdir: Path
    config: dict[str, Any]

    @property
    def command(self) -> str:
        """As one would type it."""
        return shlex.join(["python", "-m", "fsl_jax.main", *self.arguments])

    @property
    def state(self) -> str:
        """As of `state_of`."""
        return state_of(self.workdir, steps=self.config.get("train", {}).get("steps"))


def state_of(workdir: Path, *, steps: int | None = None) -> str:
    """Says how far a run is: "done", "failed", "unfinished" or "not started".

    Args:
      workdir: Its folder.
      steps: Training steps without which a result is not the one that is wanted; by default those of its config.json.
    """
    if (workdir / FAILED).exists():
        return "failed"
    kept = workdir / "config.json"
    if (workdir / RESULT).exists():
        if steps is None and kept.exists():
            steps = read_json(kept).get("train", {}).get("steps")
        taken = read_json(workdir / RESULT).get("steps")
        return "unfinished" if steps is not None and taken is not None and taken < steps else "done"
    return "unfinished" if kept.exists() else "not started"


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      ValueError: It is none.
    """
    try:
        values = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is no JSON ({error}): remove it") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds no JSON object: remove it")
    return values


def expand(
    config: str,
    root: Path,
    *,
    overrides: Sequence[str] = (),
    more: Sequence[str] = (),
    seeds: int | None = None,
) -> list[Run]:
    """Reads what a config file sweeps, and checks every run of it against its config.

    Args:
      config: File or name with a preset, as for `fsl_jax.main`.
      root: Folder of the sweep; runs that its sweep.json has already keep their names.
      overrides: "--config.path=value" for all runs.
      more: Other flags of `fsl_jax.main`, for all runs.
      seeds: So many seeds of each item, from 0; None leaves seeds to get_sweep.

    Returns:
      One run a config; items that come to the same one are joined.

    Raises:
      ValueError: There is nothing to sweep, or an item does not fit the config; the message names the item.
    """
    name, _, preset = config.partition(":")
    module = config_module(Path(config_file(name)))
    _check_overrides(module.get_config(*_given(preset)), overrides)
    runs: dict[str, Run] = {}
    for number, item in enumerate(_items(module, config, preset, seeds), start=1):
        try:
            run = _checked(module, name, preset, item, overrides)
        except ValueError as error:
            raise ValueError(f"item {number} of the sweep, {item}: {error}") from error
        runs.setdefault(canonical(run.config), run)
    folders = folder_names([run.settings for run in runs.values()], known_names(root))
    return [
        dataclasses.replace(
            run,
            name=folder,
            workdir=root / folder,
            arguments=(*run.arguments, *more, f"--workdir={root / folder}"),
        )
        for run, folder in zip(runs.values(), folders, strict=True)
    ]


def _given(preset: str) -> tuple[str, ...]:
    """Gives get_config and get_sweep a preset only where there is one, as the flag --config does."""
    return (preset,) if preset else ()


def _items(module: ModuleType, config: str, preset: str, seeds: int | None) -> list[dict[str, Any]]:
    """Lists what get_sweep gives, times the seeds."""
    get_sweep: Callable[..., Iterable[Settings]] | None = getattr(module, "get_sweep", None)
    if get_sweep is None and seeds is None:
        raise ValueError(f"{config} has no get_sweep(preset): write one, see docs/sweeps.md, or give --seeds")
    items: list[Any] = [{}]
    if get_sweep is not None:
        try:
            inspect.signature(get_sweep).bind(*_given(preset))
        except TypeError as error:
            raise ValueError(f'{config}: {error}; write get_sweep(preset: str = "")') from error
        items = list(get_sweep(*_given(preset)))
    if not items:
        raise ValueError(f"get_sweep of {config} gives nothing")
    for number, item in enumerate(items, start=1):
        if not isinstance(item, Mapping) or not all(isinstance(path, str) for path in item):
            raise ValueError(
                f"item {number} of the sweep is {item!r}: give values by config path, such as {{'seed': 0}}"
            )
    if seeds is None:
        return [dict(item) for item in items]
    if any(SEED in item for item in items):
        raise ValueError(f"get_sweep of {config} has seeds of its own: leave --seeds out")
    return [*product(items, {SEED: range(seeds)})]


def _check_overrides(config: ConfigDict, overrides: Sequence[str]) -> None:
    for override in overrides:
        _type_at(_path_of(override), config)
    _with_overrides(config, overrides)


def _path_of(override: str) -> str:
    return override.partition("=")[0].split(".", 1)[1]


def _checked(
    module: ModuleType, name: str, preset: str, item: dict[str, Any], overrides: Sequence[str]
) -> Run:
    """Applies an item to the config as the run's own command line will."""
    chosen = item.get(PRESET, preset)
    if not isinstance(chosen, str):
        raise ValueError(f"{PRESET} is {chosen!r}: give the text behind the config's colon")
    swept = {path: plain(value) for path, value in item.items() if path != PRESET}
    for override in overrides:
        if _path_of(override) in swept:
            raise ValueError(f"{_path_of(override)} is swept: leave {override} out")
    before = _with_overrides(module.get_config(*_given(chosen)), overrides)
    written = [_override(path, value, before) for path, value in swept.items()]
    given = [*overrides, *filter(None, written)]
    config = _with_overrides(module.get_config(*_given(chosen)), given)
    settings = {PRESET: chosen} if PRESET in item else {}
    for path, wanted in swept.items():
        settings[path] = _held(path, config)
        if settings[path] != wanted:
            raise ValueError(
                f"{path}={wanted!r} cannot be given on a command line, which reads {settings[path]!r}"
            )
    arguments = ("--config", f"{name}:{chosen}" if chosen else name, *given)
    return Run("", settings, arguments, Path(), as_json(config))


def plain(value: Any) -> Any:
    """Turns NumPy's numbers into Python's, lists and ranges into tuples, and mappings into dicts."""
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if hasattr(value, "tolist"):  # arrays and their scalars
        value = value.tolist()
    return tuple(map(plain, value)) if isinstance(value, list | tuple | range) else value


def _held(path: str, config: ConfigDict) -> Any:
    return plain(config_path.get_value(path, config))


def _type_at(path: str, config: ConfigDict) -> Any:
    """Returns the type of a field.

    Raises:
      ValueError: There is no such field.
    """
    try:
        return config_path.get_type(path, config)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        if path.startswith("config."):
            raise ValueError(f"write {path.removeprefix('config.')!r}, without 'config.'") from error
        raise ValueError(f"no config option {path!r}; {closest(path, [*flat(config.to_dict())])}") from error


def _override(path: str, value: Any, config: ConfigDict) -> str | None:
    """Writes a value as a flag that is read as the same value; None where the field is None and stays it.

    Raises:
      ValueError: There is no such field, or it is of another type.
    """
    kind = _type_at(path, config)
    if value is None:
        if _held(path, config) is None:
            return None
        raise ValueError(f"{path} cannot be set to None on a command line: make a preset that does")
    accepted = _WRITABLE.get(kind)
    if accepted is None:
        raise ValueError(
            f"{path} takes {kind.__name__}, which no command line can give: make a preset that does"
        )
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        raise ValueError(f"{path} takes {kind.__name__}, not {value!r} ({type(value).__name__})")
    return f"--config.{path}={value if isinstance(value, str) else repr(value)}"


def _with_overrides(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Parses overrides as the flag --config of `fsl_jax.main` does."""
    values, arguments = flags.FlagValues(), ["fsl-jax sweep", *overrides]
    try:
        holder = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
        values(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    return holder.value


def canonical(values: Mapping[str, Any]) -> str:
    """Writes JSON in which equal values are equal texts."""
    return json.dumps(values, sort_keys=True, default=list)


def shortened(paths: Iterable[str]) -> dict[str, str]:
    """Returns the shortest ends of config paths that tell them apart.

    Example:
      >>> shortened(["optimizer.learning_rate", "episode.way", "eval.way"])
      {'optimizer.learning_rate': 'learning_rate', 'episode.way': 'episode.way', 'eval.way': 'eval.way'}
    """
    all_paths = list(dict.fromkeys(paths))

    def shortest(path: str) -> str:
        parts = path.split(".")
        ends = [".".join(parts[i:]) for i in reversed(range(len(parts)))]
        return next((end for end in ends if sum(f".{p}".endswith(f".{end}") for p in all_paths) == 1), path)

    return {path: shortest(path) for path in all_paths}


def folder_names(settings: Sequence[Settings], known: Mapping[str, str]) -> list[str]:
    """Names the folders of runs after their settings.

    What is long, and what another run is called already, ends with eight digits of the settings' SHA-256.

    Args:
      settings: Of each run, all different.
      known: Names that are given already, by `canonical` settings.

    Returns:
      One name each, safe on any file system.

    Example:
      >>> folder_names([{"optimizer.learning_rate": 0.001, "seed": 0}], {})
      ['learning_rate=0.001,seed=0']
    """
    short = shortened(path for each in settings for path in each)
    wanted = [_readable(each, short) for each in settings]
    count = Counter(name.lower() for name in wanted)  # some file systems do not tell cases apart
    given = {name.lower() for name in known.values()}
    result = []
    for each, name in zip(settings, wanted, strict=True):
        text = canonical(each)
        if count[name.lower()] > 1 or name.lower() in given or len(name) > LONGEST_NAME:
            name = f"{name[:LONGEST_NAME]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        result.append(known.get(text, name))
    return result


def _readable(settings: Settings, short: Mapping[str, str]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.6g}"
        return "-".join(map(text, value)) if isinstance(value, tuple) else str(value)

    parts = [
        f"{short[path]}={re.sub(r'[^A-Za-z0-9._+-]+', '-', text(value))}" for path, value in settings.items()
    ]
    return ",".join(parts) or "defaults"


def known_names(root: Path) -> dict[str, str]:
    """Returns the names in a root's sweep.json by `canonical` settings; none where there is no sweep yet."""
    return {canonical(run["settings"]): run["name"] for run in read_sweep(root).get("runs", [])}


def known_jobs(root: Path) -> dict[str, str]:
    """Returns SLURM's job of each run in a root's sweep.json, by the run's name, where it was submitted."""
    return {run["name"]: run["job"] for run in read_sweep(root).get("runs", []) if "job" in run}


def read_sweep(root: Path) -> dict[str, Any]:
    """Reads a root's sweep.json: "config", "overrides" and "runs"; empty where there is none."""
    return read_json(root / SWEEP) if (root / SWEEP).exists() else {}


def check_root(root: Path, config: str, overrides: Sequence[str], runs: Collection[Run]) -> None:
    """Checks that what lies in a root belongs to the same sweep.

    Raises:
      ValueError: Another config was swept there, or a run was made with another one; the message says how they differ.
    """
    kept = read_sweep(root)
    if kept:
        free = tuple(f"--config.{path}=" for path in FREE_TO_CHANGE)
        theirs, ours = (
            {flag for flag in given if not flag.startswith(free)} for given in (kept["overrides"], overrides)
        )
        if not _same_config(kept["config"], config) or theirs != ours:
            before = shlex.join([kept["config"], *kept["overrides"]])
            raise ValueError(f"{root} holds a sweep of {before}: choose another --root, or give the same")
    for run in runs:
        if (run.workdir / "config.json").exists():
            different = differences(as_json(kept_config(run.workdir)), run.config, but=FREE_TO_CHANGE)
            if different:
                raise ValueError(
                    f"{run.workdir} was made with another config ({'; '.join(different)}): "
                    "choose another --root, or remove it"
                )


def _same_config(one: str, other: str) -> bool:
    (file, _, preset), (other_file, _, other_preset) = one.partition(":"), other.partition(":")
    if preset != other_preset:
        return False
    return file == other_file or Path(config_file(file)).resolve() == Path(config_file(other_file)).resolve()


def write_sweep(
    root: Path,
    config: str,
    overrides: Sequence[str],
    runs: Iterable[Run],
    jobs: Mapping[str, str] | None = None,
) -> None:
    """Writes sweep.json; runs that it had already stay in it.

    Args:
      root: Folder of the sweep.
      config: As typed.
      overrides: Of all runs.
      runs: Those that were asked for now.
      jobs: SLURM's job of each run by its name, where it was submitted.
    """
    listed = {run["name"]: run for run in read_sweep(root).get("runs", [])}
    for run in runs:
        before = listed.get(run.name, {})
        job = (jobs or {}).get(run.name, before.get("job"))
        listed[run.name] = {
            "name": run.name,
            "settings": json.loads(canonical(run.settings)),
            "command": run.command,
            **({} if job is None else {"job": job}),
        }
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / SWEEP, {"config": config, "overrides": [*overrides], "runs": [*listed.values()]})
