"""MAML and its variants (Finn et al. 2017, https://arxiv.org/abs/1703.03400).

Presets, as in `--config configs/maml.py:omniglot_5way_1shot`; what to expect lies in benchmarks/results.md:

  (none)               the built-in catalogue, 5-way 1-shot, colour, 32 px. Minutes on two CPU cores.
      python -m fsl_jax.main --config configs/maml.py
  omniglot_5way_1shot  the paper's settings: stride 2, 32 tasks, 1 inner step (3 in test), 60,000 steps. Hours on a CPU.
  omniglot_5way_5shot, omniglot_20way_1shot, omniglot_20way_5shot
      python -m fsl_jax.main --config configs/maml.py:omniglot_5way_1shot --config.data.root=FOLDER
      FOLDER holds images_background.zip and images_evaluation.zip.
  smoke                seconds: proves that an installation works.

Your own photos: --config.data.source=image_folder --config.data.root=FOLDER (one folder a label).
Variants: --config.algorithm.options.first_order=True (FOMAML), --config.algorithm.options.adapt=head (ANIL) or
body (BOIL). The norm mode is "batch", as in the paper: predictions are transductive.
"""

from ml_collections import ConfigDict

from fsl_jax.config import base_config, read_omniglot, shrink_to_seconds, unknown_preset


def get_config(preset: str = "") -> ConfigDict:
    """Returns the config of a preset."""
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
            "chunk": 0,
        }
    )
    config.model.options = ConfigDict(
        {"filters": 32, "reduction": "max_pool", "readout": "flatten", "norm": "batch", "dtype": "float32"}
    )
    config.episode.tasks = 8
    config.train.update({"steps": 1000, "steps_per_call": 10, "log_every": 50, "save_every": 250})
    config.eval.update({"every": 250})
    if preset in OMNIGLOT:
        _omniglot(config, *OMNIGLOT[preset])
    elif preset == "smoke":
        shrink_to_seconds(config)
    elif preset:
        raise unknown_preset(preset, "maml.py", (*OMNIGLOT, "smoke"))
    config.preset = preset
    return config


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
