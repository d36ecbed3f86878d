"""The defaults that all configs share, and the way from a name on the command line to a config file."""

import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from fsl_jax.lookup import closest

_INSTALLED = Path(__file__).parent / "configs"
CONFIG_FOLDER = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parent.parent / "configs"
"""Beside the installed package, or in the checkout."""


def config_file(name: str) -> str:
    """Finds a config: a file as it is, or an installed one by its name, such as "maml".

    Raises:
      ValueError: There is neither; the message lists the installed ones.
    """
    if Path(name).is_file():
        return name
    installed = {file.stem: file for file in sorted(CONFIG_FOLDER.glob("*.py"))}
    if Path(name).stem in installed and name in (Path(name).stem, f"configs/{Path(name).stem}.py"):
        return str(installed[Path(name).stem])
    raise ValueError(f"no config {name!r}; {closest(Path(name).stem, [*installed])}")


def config_module(file: Path) -> ModuleType:
    """Runs a config file, which has `get_config(preset)`, and gives its functions.

    Raises:
      ValueError: It is no config.
    """
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is no Python file: give a config, such as configs/maml.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{file} has no get_config(preset): give a config, such as configs/maml.py")
    return module


def base_config() -> ConfigDict:
    """Returns the fields that every config has; each file in configs/ changes some.

    Options of a source, a model or a method lie under its own name, so that another one is chosen with one flag, and
    an option that it does not know is an error.
    """
    config = ConfigDict()
    config.seed = 0
    config.preset = ""
    config.data = _data()
    # What a training step is given: few-shot episodes, or flat batches of another sampler with its own options.
    config.sampler = ConfigDict({"name": "episodes", "options": {}})
    # With `group_by` the labels of a task are of one category, such as one alphabet, and are hard to tell apart.
    config.episode = ConfigDict({"tasks": 4, "way": 5, "shot": 1, "queries": 3, "group_by": ""})
    config.augment = ConfigDict(
        {
            "flip": False,
            "shift": 0,
            "light": 0.0,
            "crop": 0.0,
            "crop_size": 0,
            "rotate": 0.0,
            "scale": 0.0,
            "shear": 0.0,
            "colour": 0.0,
            "grey": 0.0,
            "erase": 0.0,
        }
    )
    # Several crops of each photo in place of `augment`, for self-distillation; a size of 0 is none.
    config.multicrop = ConfigDict(
        {
            "size": 0,
            "local_size": 0,
            "local": 0,
            "share": (0.4, 1.0),
            "local_share": (0.05, 0.4),
            "flip": True,
            "jitter": 0.8,
            "brightness": 0.4,
            "contrast": 0.4,
            "saturation": 0.2,
            "hue": 0.1,
            "grey": 0.2,
            "blur": (1.0, 0.1, 0.5),
            "sigma": (0.1, 2.0),
            "solarise": 0.2,
            "rotate": 0.0,
            "background": 0.0,
        }
    )
    # A pretrained model is a name or a file of `models.pretrained.load`; it says itself what network it is. A head
    # with sizes is put on top of either.
    config.model = ConfigDict(
        {
            "name": "conv4",
            "options": {},
            "pretrained": "",
            # A pretrained network that stays as it is: the features of the training photos are taken once.
            "frozen": False,
            # With `whitened` above 0 a head of one layer as wide as the embedding starts as a whitening of the
            # training photos, see fsl_jax/whitening.py.
            "head": {
                "sizes": (),
                "normalised": False,
                "hidden": "relu",
                "output": "none",
                "dropout": 0.0,
                "whitened": 0.0,
            },
        }
    )
    config.algorithm = ConfigDict({"name": "", "options": {}})
    config.optimizer = ConfigDict(
        {
            "name": "adam",
            "learning_rate": 1e-3,
            "schedule": "constant",
            "warmup": 0,
            "final": 0.0,
            "halve_every": 0,
            "momentum": 0.0,
            "weight_decay": 0.0,
            "weight_decay_final": placeholder(float),  # to which it goes by a cosine; without, it stays
            "clip_value": 0.0,
            "clip_norm": 0.0,
            "clip_each_norm": 0.0,  # of each array of parameters by itself
            # Batches whose gradients are averaged into one update; their photos need not fit into memory at once.
            "accumulate": 1,
            "rules": (),
        }
    )
    config.train = ConfigDict(
        {
            "steps": 1000,
            "steps_per_call": 10,
            "log_every": 50,
            "save_every": 500,
            "devices": 0,
            # Whether each device keeps a part of the parameters and of the optimiser's state, or all of them.
            "shard_parameters": False,
        }
    )
    config.eval = ConfigDict(
        {
            "every": 500,
            "best": "accuracy",  # figure of the validation split that chooses the checkpoint
            "split": "val",
            "test_split": "test",
            "episodes": 600,
            "episodes_during": 100,
            "way": 5,
            "shot": 1,
            "queries": 3,
            "group_by": "",  # as of config.episode
            "seed": 1,
            "retrieval": True,
            "distance": "cosine",
            # Of methods over categories: an attribute counts as found above this probability; top-k accuracies.
            "threshold": 0.5,
            "top_k": (5,),
            "same_domain_is_junk": False,  # gallery photos of the query's label and camera are ignored
            # Further searches whose mAP is logged, by name: "split" or "split:column=value&column=value"; with "?"
            # behind the split they are left out where no photo matches.
            "searches": {},
            # Labels of the split, or one of its levels, from the embeddings of its other photos; 0 neighbours is none.
            "held_out": {"level": "", "neighbours": 0, "temperature": 0.07, "linear": False},
            # Classification from few photos on frozen embeddings; no ways is none.
            "grid": {
                "ways": (5, 10),
                "shots": (1, 2, 3),
                "queries": 1,
                "repetitions": 50,
                "classifiers": ("1-nn", "k-nn", "prototype", "logistic"),
                "neighbours": 3,  # of "k-nn"
                "during": False,
            },
        }
    )
    return config


def _data() -> ConfigDict:
    data = ConfigDict(
        {
            "source": "catalogue",
            "root": "",
            "train_split": "train",
            "train_only": "",  # training photos by their columns, such as "role=gallery"; see fsl_jax/data/filter.py
            "size": 32,
            "channels": 3,
            "fit": "pad",
            "mean": (0.5,),
            "std": (0.25,),
            "min_photos": 1,
            "unreadable": "refuse",
            "resident_gb": 4.0,
            "reading_threads": 8,
            "steps_ahead": 16,
            # Description vectors, for losses that look at them: "tfidf", a .npz file, or "" for none.
            "text": {"vectors": "", "dimensions": 64},
            # What methods over categories tell apart: patterns of names; see fsl_jax/data/targets.py.
            "targets": {"levels": ("*",), "attributes": ("*",), "least": 5, "unstated": "unknown"},
            # Options of each source, under its name.
            "catalogue": {"labels": 600, "photos": 6, "seed": 0, "brands": 8},
            "image_folder": {"fractions": (0.6, 0.2, 0.2), "split_seed": 0, "only": placeholder(str)},
            "csv_manifest": {
                "fractions": (0.6, 0.2, 0.2),
                "split_seed": 0,
                "levels": placeholder(tuple),
                "photos": placeholder(str),
                "columns": placeholder(tuple),
                "attribute_columns": (),
            },
            "fashion_products": {
                "label": "id",
                "levels": ("masterCategory", "subCategory", "articleType"),
                "attributes": ("gender", "baseColour", "season", "usage"),
                "split_rule": "articles",
                "stratify": "articleType",
                "fractions": (0.7, 0.15, 0.15),
                "split_seed": 0,
            },
            "omniglot": {
                "split_rule": "lake",
                "split_seed": 0,
                "val_characters": 96,
                "alphabets": (),
                "rotations": False,
                "lists": placeholder(str),
                "inverted": True,
                "centred": False,
                "resample": "antialias",
            },
            "fashion_mnist": {"split_rule": "labels", "fractions": (0.4, 0.3, 0.3), "split_seed": 0},
            "features": {"fractions": (0.6, 0.2, 0.2), "split_seed": 0, "keep_splits": True},
            "inshop": {"val_fraction": 0.1, "split_seed": 0, "check_counts": True},
            "consumer2shop": {"fractions": (0.6, 0.2, 0.2), "split_seed": 0},
            "veri776": {"val_fraction": 0.1, "split_seed": 0, "check_counts": True},
            "sop": {"val_fraction": 0.1, "split_seed": 0, "check_counts": True},
            "cub": {"split_rule": "retrieval", "val_labels": 0, "split_seed": 0, "check_counts": True},
            "cars": {"val_labels": 0, "check_counts": True},
            "mini_imagenet": {"check_counts": True},
            "tfds": {
                "name": "",
                "image": "image",
                "label": "label",
                "fractions": (0.6, 0.2, 0.2),
                "split_seed": 0,
            },
        }
    )
    # What sources draw or shrink themselves has the size of the run.
    data.catalogue.size = data.get_ref("size")
    data.catalogue.channels = data.get_ref("channels")
    data.omniglot.side = data.get_ref("size")
    data.tfds.side = data.get_ref("size")
    data.tfds.channels = data.get_ref("channels")
    data.tfds.fit = data.get_ref("fit")
    return data


def shrink_to_seconds(config: ConfigDict) -> None:
    """Makes the preset "smoke" of a few-shot config: it proves that an installation works, and no more."""
    config.data.catalogue.update({"labels": 60, "photos": 5})
    config.data.size = 28
    config.episode.update({"tasks": 2, "way": 5, "shot": 1, "queries": 2})
    config.train.update({"steps": 20, "steps_per_call": 5, "log_every": 5, "save_every": 10})
    config.eval.update({"every": 10, "episodes": 20, "episodes_during": 10, "queries": 2})


def read_omniglot(config: ConfigDict, split_rule: str) -> None:
    """Takes Omniglot as the few-shot papers do: 28 px, ink is 1, rotations are labels of their own."""
    config.data.update({"source": "omniglot", "size": 28, "channels": 1, "mean": (0.0,), "std": (1.0,)})
    config.data.omniglot.update({"split_rule": split_rule, "rotations": True})


def read_mini_imagenet(config: ConfigDict) -> None:
    """Takes miniImageNet as the few-shot papers do: 84 px, colour, 0 to 1."""
    config.data.update({"source": "mini_imagenet", "size": 84, "channels": 3, "mean": (0.0,), "std": (1.0,)})


def split_preset(preset: str, file: str, **known: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Parts "name,option=value" into the name of a preset and its options.

    Args:
      preset: As typed behind the colon; the name may be left out.
      file: The config's, for the message.
      known: Values of each option.

    Raises:
      ValueError: An option or its value is unknown.

    Example:
      >>> split_preset("omniglot,variant=anil", "maml.py", variant=("fomaml", "anil"))
      ('omniglot', {'variant': 'anil'})
    """
    parts = [part.strip() for part in preset.split(",")] if preset else []
    name = parts.pop(0) if parts and "=" not in parts[0] else ""
    options: dict[str, str] = {}
    for part in parts:
        option, equals, value = part.partition("=")
        if option not in known or not equals:
            raise ValueError(f"no option {part!r} of a preset in configs/{file}; {closest(option, [*known])}")
        values = list(known[option])
        if value not in values:
            raise ValueError(f"no {option} {value!r} in configs/{file}; {closest(value, values)}")
        options[option] = value
    return name, options


def unknown_preset(preset: str, file: str, known: Iterable[str]) -> ValueError:
    """Returns the error for a preset that a config file does not have."""
    return ValueError(f"no preset {preset!r} in configs/{file}; {closest(preset, list(known))}")


def as_json(config: ConfigDict) -> dict[str, Any]:
    """Returns a config as plain JSON values."""
    return json.loads(json.dumps(config.to_dict(), default=list))


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested config with one dotted name a value."""
    result: dict[str, Any] = {}
    for name, value in config.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        result |= inner
    return result


def differences(old: dict[str, Any], new: dict[str, Any], *, but: tuple[str, ...] = ()) -> list[str]:
    """Lists where two configs differ, such as "seed: 0 -> 1", besides the names that start with one of `but`."""
    olds, news = flat(old), flat(new)
    missing = "(not there)"
    return [
        f"{name}: {olds.get(name, missing)} -> {news.get(name, missing)}"
        for name in sorted(olds.keys() | news.keys())
        if olds.get(name, missing) != news.get(name, missing) and not name.startswith(but or ("\0",))
    ]
