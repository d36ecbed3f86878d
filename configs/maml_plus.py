"""MAML++ (Antoniou et al. 2019, https://arxiv.org/abs/1810.09502).

Presets, as in `--config configs/maml_plus.py:omniglot_5way_1shot`; what to expect lies in benchmarks/results.md:

  (none)               the built-in catalogue, 5-way 1-shot, colour, 32 px. Minutes on two CPU cores.
      python -m fsl_jax.main --config configs/maml_plus.py
  omniglot_5way_1shot, omniglot_5way_5shot, omniglot_20way_1shot, omniglot_20way_5shot
                       the released settings: 8 tasks, 64 filters with max-pooling, 5 inner steps, 1 query a label,
                       50,000 steps, the multi-step loss over the first 5,000, a cosine rate from 1e-3 to 1e-5.
      python -m fsl_jax.main --config configs/maml_plus.py:omniglot_5way_1shot --config.data.root=FOLDER
      FOLDER holds images_background.zip and images_evaluation.zip.
  mini_imagenet_5way_1shot, mini_imagenet_5way_5shot
                       the released settings: 2 tasks, 48 filters, 5 inner steps, 15 queries, 50,000 steps, the
                       multi-step loss over the first 7,500, a constant rate, gradients clipped to 10.
      python -m fsl_jax.main --config configs/maml_plus.py:mini_imagenet_5way_1shot --config.data.root=FOLDER
      FOLDER in any layout of docs/data.md.
  smoke                seconds: proves that an installation works.

Every option alone: --config.algorithm.options.multi_step_until=0 (off), .second_order_from=STEP (first order before),
.per_step_norm=False, .rates=fixed; --config.optimizer.schedule=constant. All of them off is MAML. The released test, an
ensemble of the five best checkpoints, is not taken: the best checkpoint is judged.
"""

from ml_collections import ConfigDict

from fsl_jax.config import (
    base_config,
    read_mini_imagenet,
    read_omniglot,
    shrink_to_seconds,
    unknown_preset,
)

# way, shot
OMNIGLOT = {
    "omniglot_5way_1shot": (5, 1),
    "omniglot_5way_5shot": (5, 5),
    "omniglot_20way_1shot": (20, 1),
    "omniglot_20way_5shot": (20, 5),
}
# shot
MINI_IMAGENET = {"mini_imagenet_5way_1shot": 1, "mini_imagenet_5way_5shot": 5}


def get_config(preset: str = "") -> ConfigDict:
    """Returns the config of a preset."""
    config = base_config()
    config.algorithm.name = "maml_plus"
    config.algorithm.options = ConfigDict(
        {
            "inner_rate": 0.1,
            "inner_steps": 3,
            "eval_inner_steps": 3,
            "multi_step_until": 200,
            "second_order_from": 0,
            "per_step_norm": True,
            "rates": "per_layer_per_step",
            "adapt": "all",
            "first_order": False,
            "remat": True,
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
    config.optimizer.update({"schedule": "cosine", "final": 0.01})
    config.episode.tasks = 8
    config.train.update({"steps": 1000, "steps_per_call": 10, "log_every": 50, "save_every": 250})
    config.eval.update({"every": 250})
    if preset in OMNIGLOT:
        _omniglot(config, *OMNIGLOT[preset])
    elif preset in MINI_IMAGENET:
        _mini_imagenet(config, MINI_IMAGENET[preset])
    elif preset == "smoke":
        shrink_to_seconds(config)
        config.algorithm.options.multi_step_until = 10
    elif preset:
        raise unknown_preset(preset, "maml_plus.py", (*OMNIGLOT, *MINI_IMAGENET, "smoke"))
    config.preset = preset
    return config


def _released(config: ConfigDict) -> None:
    config.algorithm.options.update({"inner_steps": 5, "eval_inner_steps": 5})
    config.train.update({"steps": 50_000, "steps_per_call": 10, "log_every": 100, "save_every": 500})
    config.eval.update({"every": 2000, "episodes_during": 200})


def _omniglot(config: ConfigDict, way: int, shot: int) -> None:
    read_omniglot(config, "finn")
    _released(config)
    config.model.options.filters = 64
    config.algorithm.options.multi_step_until = 5000
    config.episode.update({"tasks": 8, "way": way, "shot": shot, "queries": 1})
    config.eval.update({"way": way, "shot": shot, "queries": 1})


def _mini_imagenet(config: ConfigDict, shot: int) -> None:
    read_mini_imagenet(config)
    _released(config)
    config.model.options.filters = 48
    config.algorithm.options.update({"inner_rate": 0.01, "multi_step_until": 7500})
    config.episode.update({"tasks": 2, "way": 5, "shot": shot, "queries": 15})
    config.eval.update({"way": 5, "shot": shot, "queries": 15})
    config.optimizer.update({"schedule": "constant", "clip_value": 10.0})
