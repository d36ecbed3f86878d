"""Measures the retrieval evaluator: exactness, speed against a peer and against the bare product, memory.

python -m benchmarks.retrieval --show 1
python -m benchmarks.retrieval --show 2 --peer-python PYTHON --peer-script SCRIPT
python -m benchmarks.retrieval --show 3 --photos 20000
python -m benchmarks.retrieval --show 3 --photos 60502 --runs 1
python -m benchmarks.retrieval --show 4          # on a GPU
python -m benchmarks.retrieval --show 5 --root FOLDER_OF_THE_SHOP_CATALOGUE

Prints one JSON line a figure. The peer is run as a process of its own, before and after, on the same cores.
"""

import argparse
import csv
import json
import platform
import resource
import statistics
import subprocess
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fsl_jax.data.read import read_photo
from fsl_jax.evaluation._search import TILE
from fsl_jax.evaluation.retrieval import retrieval_metrics, retrieval_per_query


def tell(**figures) -> None:
    """Prints one JSON line."""
    print(json.dumps(figures), flush=True)


def clustered(photos: int, dimensions: int, per_label: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Makes unit vectors around one centre a label, as the peer's script does."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((-(-photos // per_label), dimensions)).astype(np.float32)
    labels = np.arange(photos) // per_label
    points = centres[labels] + 3.0 * rng.standard_normal((photos, dimensions)).astype(np.float32)
    return points / np.linalg.norm(points, axis=1, keepdims=True), labels


def seconds_of(*functions: Callable[[], object], runs: int) -> list[float]:
    """Times functions in turn, so that a busy minute hits all of them; medians after one run to compile."""
    for function in functions:
        function()
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(runs):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def bare_product(points: np.ndarray, precision: str, queries: int | None = None) -> Callable[[], None]:
    """Returns a function that multiplies the first rows with all in the evaluator's blocks, and keeps nothing."""
    gallery, count = jnp.asarray(points, precision), queries or len(points)
    size = min(max(TILE // len(points) // 64 * 64, 64), 1024, count)
    blocks = [gallery[start : min(start + size, count)] for start in range(0, count, size)]
    multiply = jax.jit(
        lambda block, gallery: jax.lax.dot_general(
            block, gallery, (((1,), (1,)), ((), ())), precision="highest", preferred_element_type=jnp.float32
        )
    )

    def run() -> None:
        waiting: deque = deque()
        for block in blocks:
            waiting.append(multiply(block, gallery))
            if len(waiting) > 2:
                waiting.popleft().block_until_ready()
        while waiting:
            waiting.popleft().block_until_ready()

    return run


def exactness(cases: int) -> None:
    """Compares with scikit-learn on cases with ties, junk and missing positives."""
    from sklearn.metrics import average_precision_score

    worst, queries = 0.0, 0
    for seed in range(cases):
        rng = np.random.default_rng(seed)
        sides = [
            rng.integers(-2, 3, (n, 4)).astype(np.float32)
            for n in ((17, 40), (24, 63), (9, 301), (33, 8))[seed % 4]
        ]
        labels = [rng.integers(0, most, len(side)) for most, side in zip((8, 6), sides, strict=True)]
        groups = [rng.integers(0, 3, len(side)) for side in sides]
        found = retrieval_per_query(
            *sides, *labels, distance="euclidean", query_groups=groups[0], gallery_groups=groups[1]
        )
        for i in np.flatnonzero(found.has_match):
            same = labels[1] == labels[0][i]
            valid = ~(same & (groups[1] == groups[0][i]))
            scores = -np.square(sides[1][valid] - sides[0][i]).sum(axis=1)
            worst = max(worst, abs(found.average_precision[i] - average_precision_score(same[valid], scores)))
            queries += 1
    tell(show=1, cases=cases, queries=queries, devices=jax.local_device_count(), largest_difference=worst)


def peer_figures(python: str, script: str, photos: int) -> dict:
    """Runs the peer's script."""
    done = subprocess.run([python, script, "--n", str(photos)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def against_peer(photos: int, python: str, script: str, runs: int) -> None:
    """Compares all measures with the peer's full mAP."""
    points, labels = clustered(photos, 512)
    before = peer_figures(python, script, photos)
    ours, product = seconds_of(
        lambda: retrieval_metrics(points, None, labels, None, distance="cosine"),
        bare_product(points, "float32"),
        runs=runs,
    )
    after = peer_figures(python, script, photos)
    metrics = retrieval_metrics(points, None, labels, None, distance="cosine")
    peer = statistics.mean([before["seconds"], after["seconds"]])
    tell(
        show=2,
        photos=photos,
        seconds=ours,
        product_seconds=product,
        peer=before["peer"],
        peer_seconds=[before["seconds"], after["seconds"]],
        peer_product_seconds=[before["matrix_product_seconds"], after["matrix_product_seconds"]],
        times_as_fast=peer / ours,
        mAP=metrics["mAP"],
        peer_mAP=before["mean_average_precision"],
    )


def memory_now() -> int:
    """Bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def against_product(photos: int, runs: int, precision: str, show: int, queries: int | None = None) -> None:
    """Compares all measures with the bare product, and tells the peak of memory above the embeddings.

    Leave-one-out; with `queries` the first so many photos are searched in all, each without itself.
    """
    points, labels = clustered(photos, 512)
    sides = (
        (points, None, labels, None)
        if queries is None
        else (points[:queries], points, labels[:queries], labels)
    )
    options = {"distance": "cosine", "precision": precision, "exclude_self": queries is not None}
    held = memory_now()
    start = time.perf_counter()
    metrics = retrieval_metrics(*sides, **options)
    first = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    ours, product = seconds_of(
        lambda: retrieval_metrics(*sides, **options), bare_product(points, precision, queries), runs=runs
    )
    tell(
        show=show,
        photos=photos,
        queries=queries or photos,
        precision=precision,
        device=jax.devices()[0].device_kind,
        first_seconds=first,
        seconds=ours,
        product_seconds=product,
        ratio=ours / product,
        peak_gb_above_embeddings=(peak - held) / 1e9,
        mAP=metrics["mAP"],
    )


def frozen_pixels(root: Path) -> None:
    """Judges raw pixels on the shop's catalogue."""
    with open(root / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    photos = [read_photo(root / row["path"], size=224, channels=3, fit="pad")[::8, ::8] for row in rows]
    pixels = np.stack(photos).reshape(len(rows), -1) / 255.0
    pixels -= pixels.mean(axis=0)
    sides = [
        np.array([(row["split"], row["role"]) == ("test", role) for row in rows])
        for role in ("query", "gallery")
    ]
    labels = np.array([row["label"] for row in rows])
    tell(
        show=5,
        **retrieval_metrics(*(pixels[s] for s in sides), *(labels[s] for s in sides), distance="cosine"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--show", type=int, choices=range(1, 6), required=True)
    parser.add_argument("--photos", type=int, help="default 4000 for show 2, 20000 for 3, 1000000 for 4")
    parser.add_argument("--queries", type=int, default=10_000, help="of show 4")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--devices", type=int, default=1, help="CPU devices that JAX makes")
    parser.add_argument("--peer-python", help="interpreter that has the peer")
    parser.add_argument("--peer-script", help="prints one JSON line with seconds and matrix_product_seconds")
    parser.add_argument("--root", type=Path, help="folder of the shop's catalogue")
    given = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", given.devices)
    if given.show == 2 and not (given.peer_python and given.peer_script):
        parser.error("--show 2 needs --peer-python and --peer-script")
    if given.show == 5 and given.root is None:
        parser.error("--show 5 needs --root")
    tell(
        machine=platform.processor() or platform.machine(),
        platform=jax.default_backend(),
        jax=jax.__version__,
    )
    if given.show == 1:
        exactness(cases=200)
    elif given.show == 2:
        against_peer(given.photos or 4000, given.peer_python, given.peer_script, given.runs)
    elif given.show == 3:
        against_product(given.photos or 20_000, given.runs, "float32", show=3)
    elif given.show == 4:
        for precision in ("float32", "bfloat16"):
            against_product(given.photos or 1_000_000, given.runs, precision, show=4, queries=given.queries)
    else:
        frozen_pixels(given.root)


if __name__ == "__main__":
    main()
