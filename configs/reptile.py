"""Reptile (Nichol et al. 2018, https://arxiv.org/abs/1803.02999).

Presets, as in `--config configs/reptile.py:omniglot_5way_1shot`; what to expect lies in benchmarks/results.md:

  (none)               the built-in catalogue, 5-way 1-shot, colour, 32 px. Minutes on two CPU cores.
      python -m fsl_jax.main --config configs/reptile.py
  omniglot_5way_1shot, omniglot_5way_5shot, omniglot_20way_1shot, omniglot_20way_5shot
                       the released settings; the outer rate falls to 0 over 100,000 steps (20-way: 200,000).
      python -m fsl_jax.main --config configs/reptile.py:omniglot_5way_1shot --config.data.root=FOLDER
      FOLDER holds images_background.zip and images_evaluation.zip.
  mini_imagenet_5way_1shot, mini_imagenet_5way_5shot
                       the released settings: 100,000 steps (5-shot: 200,000).
      python -m fsl_jax.main --config configs/reptile.py:mini_imagenet_5way_1shot --config.data.root=FOLDER
      FOLDER in any layout of docs/data.md.
  smoke                seconds: proves that an installation works.

A training task has more support photos than a test task; its query photos are only for the log. The norm mode is
"batch": predictions are transductive. Of the released settings those of 5-way 1-shot are the ones for transductive
tests; the others were chosen for tests of one query at a time.
"""

from ml_collections import ConfigDict

from fsl_jax.config import (
    base_config,
    read_mini_imagenet,
    read_omniglot,
    shrink_to_seconds,
    unknown_preset,
)

# Columns: training shots, inner batch, inner steps, inner rate, tasks, outer rate, steps, batch and steps in test.
# From the commands at https://github.com/openai/supervised-reptile.
OMNIGLOT = {
    "omniglot_5way_1shot": (15, 25, 3, 1e-3, 10, 1.0, 100_000, 25, 5),
    "omniglot_5way_5shot": (10, 10, 5, 1.5e-3, 5, 0.7, 100_000, 6, 100),
    "omniglot_20way_1shot": (9, 15, 12, 4.6e-4, 3, 1.0, 200_000, 10, 97),
    "omniglot_20way_5shot": (12, 20, 12, 4.6e-4, 3, 1.0, 200_000, 10, 97),
}
MINI_IMAGENET = {
    "mini_imagenet_5way_1shot": (15, 5, 15, 1e-3, 10, 1.0, 100_000, 5, 10),
    "mini_imagenet_5way_5shot": (15, 10, 8, 2.2e-4, 5, 1.0, 200_000, 15, 88),
}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the config of a preset."""
    config = base_config()
    config.algorithm.name = "reptile"
    config.algorithm.options = ConfigDict(
        {
            "inner_optimizer": "adam",
            "inner_rate": 2e-3,
            "inner_steps": 5,
            "inner_batch": 10,
            "eval_inner_steps": 30,
            "eval_inner_batch": 5,
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
    # The gradient is theta - phi: plain descent with the outer rate.
    config.optimizer.update({"name": "sgd", "learning_rate": 1.0, "schedule": "linear"})
    config.episode.update({"tasks": 6, "way": 5, "shot": 4, "queries": 1})
    config.train.update({"steps": 2000, "steps_per_call": 20, "log_every": 100, "save_every": 500})
    config.eval.update({"every": 500})
    if preset in OMNIGLOT:
        read_omniglot(config, "finn")
        config.model.options.update({"filters": 64, "reduction": "stride"})
        _released(config, preset, *OMNIGLOT[preset])
    elif preset in MINI_IMAGENET:
        read_mini_imagenet(config)
        _released(config, preset, *MINI_IMAGENET[preset])
    elif preset == "smoke":
        shrink_to_seconds(config)
        config.episode.update({"shot": 3, "queries": 1})
        config.algorithm.options.eval_inner_steps = 5
    elif preset:
        raise unknown_preset(preset, "reptile.py", (*OMNIGLOT, *MINI_IMAGENET, "smoke"))
    config.preset = preset
    return config


def _released(
    config: ConfigDict,
    preset: str,
    training_shots: int,
    inner_batch: int,
    inner_steps: int,
    inner_rate: float,
    tasks: int,
    rate: float,
    steps: int,
    eval_batch: int,
    eval_steps: int,
) -> None:
    way, shot = (int(word.rstrip("wayshot")) for word in preset.split("_")[-2:])
    config.algorithm.options.update(
        {
            "inner_rate": inner_rate,
            "inner_steps": inner_steps,
            "inner_batch": inner_batch,
            "eval_inner_steps": eval_steps,
            "eval_inner_batch": eval_batch,
        }
    )
    config.optimizer.learning_rate = rate
    config.episode.update({"tasks": tasks, "way": way, "shot": training_shots, "queries": 1})
    config.eval.update({"way": way, "shot": shot, "queries": 1, "every": 5000, "episodes_during": 200})
    config.train.update({"steps": steps, "steps_per_call": 20, "log_every": 100, "save_every": 1000})
