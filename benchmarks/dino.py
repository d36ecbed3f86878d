"""What self-distillation without labels learns: neighbours and a linear probe on labels that it never saw.

    python -m benchmarks.dino                                        baselines: raw pixels, and the untrained network
    python -m benchmarks.dino --preset fashion_small --root FOLDER
    python -m benchmarks.dino --workdir RUN --workdir RUN ...        beside trained runs, with the interval over them

All on the test split, with the settings of `config.eval.held_out`; networks by both of their readouts, the embedding
and, of a vision transformer, the patch tokens side by side. Runs are of one data set: the settings of the first hold
for all.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from fsl_jax.algorithms.base import Variables
from fsl_jax.algorithms.dino import READOUTS, Dino
from fsl_jax.building import build, sample
from fsl_jax.config import config_file, config_module
from fsl_jax.data.augment import Preprocess
from fsl_jax.data.load import load_split
from fsl_jax.data.table import Table
from fsl_jax.evaluation import held_out
from fsl_jax.evaluation.embed import embed_table
from fsl_jax.mesh import data_mesh
from fsl_jax.models.vit import ViT
from fsl_jax.run import restored
from fsl_jax.sampling.keys import named_key
from fsl_jax.sweep_table import mean_interval
from fsl_jax.workdir import kept_config


def config_of(preset: str, root: str) -> ConfigDict:
    """Reads configs/dino.py."""
    config = config_module(Path(config_file("dino"))).get_config(preset)
    config.data.root = root
    return config


def figures(embeddings: Array, table: Table, config: ConfigDict) -> dict[str, float]:
    """Judges embeddings as a run does."""
    settings, mesh = config.eval.held_out, data_mesh(1)
    codes = held_out.codes_of(table, settings.level)
    return {
        "knn": held_out.weighted_knn(
            embeddings, codes, mesh=mesh, neighbours=settings.neighbours, temperature=settings.temperature
        ),
        "linear": held_out.linear_probe(named_key(config.eval.seed, "linear"), embeddings, codes),
    }


def judged(
    method: Dino, variables: Variables, preprocess: Preprocess, table: Table, config: ConfigDict
) -> dict[str, dict[str, float]]:
    """Judges a network by each of its readouts."""
    found = {}
    for readout in READOUTS if isinstance(method.network, ViT) else READOUTS[:1]:
        of = dataclasses.replace(method, readout=readout)
        embed = jax.jit(lambda images, of=of: of.outputs(variables, preprocess(images))["embedding"])
        embeddings = embed_table(embed, table, preprocess, mesh=data_mesh(1), block=128)
        found[readout] = figures(embeddings, table, config)
    return found


def pixels(preprocess: Preprocess, table: Table, config: ConfigDict) -> dict[str, float]:
    """Judges the photos as they are."""
    flat = jax.jit(lambda images: preprocess(images).reshape(images.shape[0], -1))
    return figures(embed_table(flat, table, preprocess, mesh=data_mesh(1), block=128), table, config)


def untrained(config: ConfigDict, table: Table, seed: int) -> dict[str, dict[str, float]]:
    """Judges the network as it is drawn."""
    built = build(config, labels=2)
    shape = (config.data.size, config.data.size, config.data.channels)
    variables = built.algorithm.init(named_key(seed, "init"), sample(config, shape))
    return judged(built.algorithm, variables, built.preprocess, table, config)


def trained(workdir: Path, table: Table, config: ConfigDict) -> dict[str, dict[str, float]]:
    """Judges a run's best checkpoint."""
    run, variables = restored(workdir)
    return judged(run.algorithm, variables, run.preprocess, table, config)


def told(values: list[float]) -> str:
    """Writes a mean, with the 95 % interval of Student's t where there are several values."""
    found = mean_interval(100 * np.asarray(values))
    return f"{found.mean:.1f}{f' ± {found.ci95:.1f}' if found.n > 1 else ''} %"


def main() -> None:
    """Prints one line a network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="", help="of configs/dino.py")
    parser.add_argument("--root", default="", help="folder of the photos, where the preset needs one")
    parser.add_argument("--workdir", action="append", default=[], help="of a run; may be given several times")
    parser.add_argument("--seeds", type=int, default=3, help="of the untrained network")
    asked = parser.parse_args()
    config = kept_config(Path(asked.workdir[0])) if asked.workdir else config_of(asked.preset, asked.root)
    table = load_split(config.data, config.eval.test_split)
    found = {"raw pixels": [pixels(build(config, labels=2).preprocess, table, config)]}
    drawn = [untrained(config, table, seed) for seed in range(asked.seeds)]
    runs = [trained(Path(workdir), table, config) for workdir in asked.workdir]
    for name, each in (("untrained", drawn), ("trained", runs)):
        for readout in each[0] if each else ():
            found[f"{name}, {readout}"] = [of[readout] for of in each]
    codes = held_out.codes_of(table, config.eval.held_out.level)
    chance = np.mean([(codes == code).sum() - 1 for code in codes if code >= 0]) / ((codes >= 0).sum() - 1)
    print(
        f"test: {len(table):,} photos of {len(np.unique(codes[codes >= 0]))} labels; chance {100 * chance:.1f} %"
    )
    for name, each in found.items():
        print(
            f"{name:20}  k-NN {told([f['knn'] for f in each]):18} linear {told([f['linear'] for f in each])}"
        )


if __name__ == "__main__":
    main()
