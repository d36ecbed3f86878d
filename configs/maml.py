"""MAML and its variants (Finn et al. 2017, https://arxiv.org/abs/1703.03400).

Presets, as in `--config configs/maml.py:omniglot_5way_1shot`; what to expect lies in benchmarks/results.md:

  (none)               the built-in catalogue, 5-way 1-shot, colour, 32 px. Two to three minutes on two CPU cores.
      python -m fsl_jax.main --config configs/maml.py
  omniglot_5way_1shot  the paper's settings: stride 2, 32 tasks, 1 inner step (3 in test), 60,000 steps. Two
                       and a half hours on two CPU cores.
  omniglot_5way_5shot, omniglot_20way_1shot, omniglot_20way_5shot
      python -m fsl_jax.main --config configs/maml.py:omniglot_5way_1shot --config.data.root=FOLDER
      FOLDER holds images_background.zip and images_evaluation.zip.
  mini_imagenet_5way_1shot, mini_imagenet_5way_5shot
                       the paper's settings: 84 px, 32 filters, 5 inner steps (10 in test), 15 queries, 60,000 steps.
      python -m fsl_jax.main --config configs/maml.py:mini_imagenet_5way_1shot --config.data.root=FOLDER
      FOLDER in any layout of docs/data.md.
  smoke                seconds: proves that an installation works.

Each takes a variant, as in `configs/maml.py:omniglot_5way_1shot,variant=anil` or `configs/maml.py:variant=anil`:

  fomaml    first order; anil: the head alone adapts; boil: the body alone adapts
  meta_sgd  a learned rate for each parameter
  lslr      a learned rate for each layer and step
  imaml     the implicit gradient, with the settings of its paper for Omniglot: 16 inner
            steps, pull 2, 5 solver steps; damping 10

Your own photos: --config.data.source=image_folder --config.data.root=FOLDER (one folder a label).
The norm mode is "batch", as in the paper: predictions are transductive.
"""

from ml_collections import ConfigDict

from fsl_jax.config import (
    base_config,
    read_mini_imagenet,
    read_omniglot,
    shrink_to_seconds,
    split_preset,
    unknown_preset,
)


def get_config(preset: str = "") -> ConfigDict:
    """Returns the config of a preset."""
    name, chosen = split_preset(preset, "maml.py", variant=VARIANTS)
    config = base_config()
    config.algorithm.name = "maml"
    config.algorithm.options = ConfigDict(
        {
            "inner_rate": 0.1,
            "inner_steps": 1,
            "eval_inner_steps": 3,
            "adapt": "all",
            "first_order": False,
            "remat": True,
            "rates": "fixed",
            "chunk": 0,
        }
    )
    config.model.options = ConfigDict(
        {
            "filters": 32,
            "reduction": "max_pool",
            "readout": "flatten",
            "norm": "batch",
            "dtype": "float32",
            "formulation": "auto",
        }
    )
    config.episode.tasks = 8
    config.train.update({"steps": 1000, "steps_per_call": 10, "log_every": 50, "save_every": 250})
    config.eval.update({"every": 250})
    if name in OMNIGLOT:
        _omniglot(config, *OMNIGLOT[name])
    elif name in MINI_IMAGENET:
        _mini_imagenet(config, *MINI_IMAGENET[name])
    elif name == "smoke":
        shrink_to_seconds(config)
    elif name:
        raise unknown_preset(name, "maml.py", (*OMNIGLOT, *MINI_IMAGENET, "smoke"))
    if chosen.get("variant") == "imaml":
        _implicit(config)
    elif chosen:
        config.algorithm.options.update(VARIANTS[chosen["variant"]])
    config.preset = preset
    return config


VARIANTS: dict[str, dict[str, bool | str]] = {
    "fomaml": {"first_order": True},
    "anil": {"adapt": "head"},
    "boil": {"adapt": "body"},
    "meta_sgd": {"rates": "per_parameter"},
    "lslr": {"rates": "per_layer_per_step"},
    "imaml": {},
}

# way, shot, inner rate, inner steps in training and test, tasks
OMNIGLOT = {
    "omniglot_5way_1shot": (5, 1, 0.4, 1, 3, 32),
    "omniglot_5way_5shot": (5, 5, 0.4, 1, 3, 32),
    "omniglot_20way_1shot": (20, 1, 0.1, 5, 5, 16),
    "omniglot_20way_5shot": (20, 5, 0.1, 5, 5, 16),
}


def _omniglot(
    config: ConfigDict,
    way: int,
    shot: int,
    inner_rate: float,
    inner_steps: int,
    eval_inner_steps: int,
    tasks: int,
) -> None:
    read_omniglot(config, "finn")
    # Finn's net: stride 2, mean over places, a normalisation that only centres; as many queries as shots.
    config.model.options.update({"filters": 64, "reduction": "stride", "readout": "mean"})
    config.model.options.norm_scale = False
    config.algorithm.options.update(
        {"inner_rate": inner_rate, "inner_steps": inner_steps, "eval_inner_steps": eval_inner_steps}
    )
    config.episode.update({"tasks": tasks, "way": way, "shot": shot, "queries": shot})
    config.eval.update({"way": way, "shot": shot, "queries": shot, "every": 2000, "episodes_during": 200})
    config.train.update({"steps": 60_000, "steps_per_call": 20, "log_every": 100, "save_every": 1000})


# shot, tasks
MINI_IMAGENET = {"mini_imagenet_5way_1shot": (1, 4), "mini_imagenet_5way_5shot": (5, 2)}


def _mini_imagenet(config: ConfigDict, shot: int, tasks: int) -> None:
    read_mini_imagenet(config)
    config.model.options.norm_scale = False
    config.algorithm.options.update({"inner_rate": 0.01, "inner_steps": 5, "eval_inner_steps": 10})
    config.episode.update({"tasks": tasks, "way": 5, "shot": shot, "queries": 15})
    config.eval.update({"way": 5, "shot": shot, "queries": 15, "every": 2000, "episodes_during": 200})
    # The released program clips the gradient of this set alone.
    config.optimizer.clip_value = 10.0
    config.train.update({"steps": 60_000, "steps_per_call": 10, "log_every": 100, "save_every": 1000})


def _implicit(config: ConfigDict) -> None:
    given = config.algorithm.options
    config.algorithm.name = "imaml"
    config.algorithm.options = ConfigDict(
        {
            "inner_rate": given.inner_rate,
            "inner_steps": 16,
            "eval_inner_steps": 16,
            "pull": 2.0,
            "solver_steps": 5,
            "damping": 10.0,
            "chunk": 0,
        }
    )
