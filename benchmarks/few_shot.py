"""Times distribution calibration on episodes of frozen features against NumPy and scikit-learn.

python -m benchmarks.few_shot [--features FILE] [--shot 1] [--episodes 32]

Without a file features are drawn: 64 base labels and 20 novel ones of 600 photos, 384 dimensions. Ours runs on all CPU
devices; the reference is the paper's algorithm episode by episode, in this process before and after ours, with as many
threads of BLAS as --threads says. Prints one JSON line.
"""

import argparse
import json
import statistics
import time

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from fsl_jax import machine
from fsl_jax.data.sources import features as features_source
from fsl_jax.data.table import Coded, Table
from fsl_jax.evaluation import frozen
from fsl_jax.evaluation.calibrated import BaseLabels, DistributionCalibration
from fsl_jax.mesh import data_mesh
from fsl_jax.sampling import episodes as episode_sampling
from fsl_jax.sampling.episodes import LabelRows
from fsl_jax.sampling.keys import named_key

METHOD = DistributionCalibration()


def drawn_table(split: str, labels: int, photos: int, dimensions: int, seed: int) -> Table:
    rng = np.random.default_rng(seed)
    scale = 1 / np.sqrt(1 + np.arange(dimensions) / 8)
    centres = 0.8 * rng.standard_normal((labels, dimensions)) * scale
    code = np.repeat(np.arange(labels), photos)
    rows = centres[code] + rng.standard_normal((len(code), dimensions)) * scale
    names = np.array([f"{split}_{label:03d}" for label in code])
    images = rows.astype(np.float32)[:, None, None, :]
    return Table("drawn", Coded.of(names), np.full(len(code), split), images=images)


def reference_episode(
    means: np.ndarray,
    covariances: np.ndarray,
    support: np.ndarray,
    query: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    way, shot, dimensions = support.shape
    rows, labels = [support.reshape(-1, dimensions)], [np.repeat(np.arange(way), shot)]
    for label, vectors in enumerate(support):
        for vector in vectors:
            which = np.argsort(np.linalg.norm(means - vector, axis=1))[: METHOD.nearest]
            mean = np.concatenate([means[which], vector[None]]).mean(axis=0)
            covariance = covariances[which].mean(axis=0) + METHOD.alpha
            rows.append(rng.multivariate_normal(mean, covariance, METHOD.draws // shot, check_valid="ignore"))
            labels.append(np.full(METHOD.draws // shot, label))
    fitted = LogisticRegression(max_iter=1000).fit(np.concatenate(rows), np.concatenate(labels))
    return fitted.predict(query)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--features", default="")
    parser.add_argument("--shot", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--reference-episodes", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    machine.use_cpu_devices(0)
    if options.features:
        base, novel = (features_source.load(options.features, split) for split in ("train", "test"))
    else:
        base, novel = drawn_table("train", 64, 600, 384, 0), drawn_table("test", 20, 600, 384, 1)
    base, novel = (frozen.with_features(table, normalise=True, power=1.0) for table in (base, novel))
    novel, _ = frozen.enough_photos(novel, way=5, photos=options.shot + 15)
    assert base.images is not None
    assert novel.images is not None
    rows, features = base.images[:, 0, 0], novel.images[:, 0, 0]
    of_label = [rows[base.label.codes == label].astype(np.float64) for label in range(len(base.label.names))]
    means = np.stack([photos.mean(axis=0) for photos in of_label])
    covariances = np.stack([np.cov(photos.T) for photos in of_label])
    settings = {"way": 5, "shot": options.shot, "queries": 15, "seed": 0}
    plan = episode_sampling.make(novel, tasks=1, way=5, shot=options.shot, queries=15)

    def reference() -> tuple[list[float], list[np.ndarray]]:
        seconds, predicted, rng = [], [], np.random.default_rng(0)
        for number in range(options.reference_episodes):
            drawn = np.asarray(plan.rows(LabelRows.of(novel), named_key(0, "episodes"), number)[0])
            support = features[drawn[:, : options.shot]]
            query = features[drawn[:, options.shot :].reshape(-1)]
            begun = time.perf_counter()
            with threadpool_limits(options.threads):
                predicted.append(reference_episode(means, covariances, support, query, rng))
            seconds.append(time.perf_counter() - begun)
        return seconds, predicted

    before, predicted = reference()
    borrowed, mesh = BaseLabels.of(rows, base.label.codes), data_mesh(jax.device_count())
    runs = [
        frozen.judge(novel, METHOD, borrowed, episodes=options.episodes, mesh=mesh, **settings)
        for _ in range(options.runs)
    ]
    after, _ = reference()
    ours = statistics.median(run.episodes_a_second for run in runs)
    theirs = [1 / statistics.median(seconds) for seconds in (before, after)]
    same = np.mean(np.stack(predicted) == runs[0].episodes.predicted[: options.reference_episodes])
    figures = {
        "shot": options.shot,
        "dimensions": features.shape[1],
        "devices": mesh.size,
        "ours_episodes_a_second": round(ours, 2),
        "reference_before_after": [round(each, 3) for each in theirs],
        "times": [round(ours / each, 1) for each in theirs],
        "accuracy": round(runs[0].episodes.mean, 4),
        "queries_labelled_alike_with_other_draws": round(float(same), 4),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
