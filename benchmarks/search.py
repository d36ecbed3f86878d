"""Measures the search engines: exact against a peer and the bare product, the others against exact.

python -m benchmarks.search --show 1 --peer-python PYTHON --peer-script SCRIPT      # 60,000 rows, k = 100 and k = 10
python -m benchmarks.search --show 2                                                # speed and recall of every engine
python -m benchmarks.search --show 3                                                # 1,000,000 rows; on an accelerator
python -m benchmarks.search --show 4 --root FOLDER                                  # what a second look finds

Prints one JSON line a figure. The peer is run as a process of its own, before and after, on the same cores. Seconds are
medians; the CPU's seconds, of all threads together, hardly depend on what else the machine does.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fsl_jax.data.filter import matching
from fsl_jax.data.source import load_source
from fsl_jax.evaluation._search import ahead
from fsl_jax.search import engines
from fsl_jax.search.commands import DRAWN
from fsl_jax.search.index import Index
from fsl_jax.search.models import load_model, spec_of
from fsl_jax.search.searching import Refinement, make_searcher


def tell(**figures) -> None:
    """Prints one JSON line."""
    print(json.dumps(figures), flush=True)


def random_sides(queries: int, rows: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes the queries and the gallery that the peer's script makes."""
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((rows, dimensions)).astype(np.float32)
    return rng.standard_normal((queries, dimensions)).astype(np.float32), gallery


def clustered(queries: int, rows: int, dimensions: int, per_label: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes unit vectors around one centre a label, as a trained network does."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((-(-rows // per_label), dimensions)).astype(np.float32)

    def around(labels: np.ndarray) -> np.ndarray:
        points = centres[labels] + 0.7 * rng.standard_normal((len(labels), dimensions)).astype(np.float32)
        return points / np.linalg.norm(points, axis=1, keepdims=True)

    return around(rng.integers(0, len(centres), queries)), around(np.arange(rows) // per_label)


def seconds_of(*functions: Callable[[], object], runs: int) -> list[tuple[float, float]]:
    """Times functions in turn, so that a busy minute hits all of them; after one run to compile.

    Returns:
      Medians of the seconds, and of the CPU's seconds.
    """
    for function in functions:
        function()
    times: list[list[tuple[float, float]]] = [[] for _ in functions]
    for _ in range(runs):
        for function, taken in zip(functions, times, strict=True):
            start, busy = time.perf_counter(), time.process_time()
            function()
            taken.append((time.perf_counter() - start, time.process_time() - busy))
    return [tuple(map(statistics.median, zip(*taken, strict=True))) for taken in times]  # type: ignore[misc]


def bare_product(queries: np.ndarray, gallery: np.ndarray, block: int = 128) -> Callable[[], None]:
    """Returns a function that multiplies block by block on one device, and keeps nothing."""
    placed = jnp.asarray(gallery)
    multiply = jax.jit(lambda block, gallery: jnp.einsum("bd,nd->bn", block, gallery, precision="highest"))

    def run() -> None:
        blocks = (jnp.asarray(queries[start : start + block]) for start in range(0, len(queries), block))
        for scores in ahead(multiply(block, placed) for block in blocks):
            scores.block_until_ready()

    return run


def peer_figures(python: str, script: str, k: int, runs: int) -> dict:
    """Runs the peer's script."""
    done = subprocess.run(
        [python, script, "--k", str(k), "--runs", str(runs)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def against_peer(k: int, python: str, script: str, runs: int) -> None:
    """Compares exact search with the peer's, and with the bare product."""
    before = peer_figures(python, script, k, runs)
    queries, gallery = random_sides(before["queries"], before["gallery"], before["dim"])
    engine = engines.make("exact", gallery)
    (ours, busy), (product, product_busy) = seconds_of(
        lambda: engine.search(queries, k), bare_product(queries, gallery), runs=runs
    )
    after = peer_figures(python, script, k, runs)
    peer = [before["seconds"], after["seconds"]]
    tell(
        show=1,
        k=k,
        queries=len(queries),
        rows=len(gallery),
        dimensions=gallery.shape[1],
        seconds=ours,
        peer=before["peer"],
        peer_seconds=peer,
        times_the_peers=ours / statistics.mean(peer),
        product_seconds=product,
        times_the_product=ours / product,
        cpu_seconds=busy,
        product_cpu_seconds=product_busy,
        peak_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    )


def every_engine(rows: int, dimensions: int, per_label: int, k: int, runs: int) -> None:
    """Tells the recall and the speed of every engine that is installed, for a block and for one query."""
    queries, gallery = clustered(200, rows, dimensions, per_label)
    truth = np.argsort(-(queries @ gallery.T), axis=1, kind="stable")[:, :k]
    for name, options in (
        ("exact", {}),
        ("faiss", {"kind": "flat"}),
        ("faiss", {"kind": "ivf"}),
        ("faiss", {"kind": "hnsw"}),
        ("milvus", {}),
    ):
        start = time.perf_counter()
        try:
            engine = engines.make(name, gallery, **options)
        except ValueError as error:
            tell(show=2, engine=name, **options, left_out=str(error))
            continue
        built = time.perf_counter() - start
        found = engine.search(queries, k).rows
        (many, _), (one, _) = seconds_of(
            lambda engine=engine: engine.search(queries, k),
            lambda engine=engine: engine.search(queries[:1], k),
            runs=runs,
        )
        tell(
            show=2,
            engine=name,
            **options,
            rows=rows,
            dimensions=dimensions,
            per_label=per_label,
            k=k,
            build_seconds=built,
            recall=float(
                np.mean([len(np.intersect1d(*pair)) / k for pair in zip(found, truth, strict=True)])
            ),
            milliseconds_a_query=1e3 * many / len(queries),
            milliseconds_of_one=1e3 * one,
        )
        engine.close()


def a_million(runs: int) -> None:
    """Compares exact search with the bare product where an accelerator is."""
    if jax.default_backend() == "cpu":
        tell(show=3, left_out="there is no accelerator")
        return
    queries, gallery = random_sides(2_000, 1_000_000, 384)
    engine = engines.make("exact", gallery)
    for k in (10, 100):
        (ours, _), (product, _) = seconds_of(
            lambda k=k: engine.search(queries, k), bare_product(queries, gallery), runs=runs
        )
        tell(
            show=3,
            k=k,
            rows=len(gallery),
            device=jax.devices()[0].device_kind,
            devices=jax.local_device_count(),
            seconds=ours,
            product_seconds=product,
            times_the_product=ours / product,
        )


def second_look(root: str | None) -> None:
    """Tells what refinements find on the built-in catalogue, one photo of five as the query, or on a csv manifest."""
    spec = spec_of(model=None, workdir=None, fit="pad")
    model = load_model(spec)
    if root is None:
        table = load_source("catalogue", None, "train+val+test", {**DRAWN, "labels": 1000})
        asked = np.unique(table.label.codes, return_index=True)[1]
        sides = [table.take(np.setdiff1d(np.arange(len(table)), asked)), table.take(asked)]
    else:
        table = load_source("csv_manifest", root, "train+val+test", {})
        sides = [matching(table, f"role={role}") for role in ("gallery", "query")]
    with tempfile.TemporaryDirectory() as folder:
        index = Index.create(Path(folder) / "index", embedder=model, model=spec)
        index, _ = index.add_table(sides[0], model, ids=[str(i) for i in range(len(sides[0]))])
        beside = Index.create(Path(folder) / "queries", embedder=model, model=spec)
        beside, _ = beside.add_table(sides[1], model, ids=[str(i) for i in range(len(sides[1]))])
        for whiten in (0, 64, 128, 256):
            for refinement in (
                Refinement(),
                Refinement(expand=1),
                Refinement(expand=3),
                Refinement(rerank=100),
            ):
                searcher = make_searcher(index, model, "exact", refinement=refinement, whiten=whiten)
                start = time.perf_counter()
                answers = searcher.search(beside.embeddings, k=len(np.unique(index.labels)))
                seconds = time.perf_counter() - start
                rank = np.array(
                    [
                        next((place for place, hit in enumerate(hits) if hit.label == label), np.inf)
                        for hits, label in zip(answers, beside.labels, strict=True)
                    ]
                )
                tell(
                    show=4,
                    source=table.source,
                    photos=len(index),
                    queries=len(beside),
                    whiten=whiten,
                    expand=refinement.expand,
                    rerank=refinement.rerank,
                    found_first=float(np.mean(rank == 0)),
                    found_in_5=float(np.mean(rank < 5)),
                    mean_reciprocal_rank=float(np.mean(1 / (1 + rank))),
                    milliseconds_a_query=1e3 * seconds / len(beside),
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--show", type=int, choices=range(1, 5), required=True)
    parser.add_argument("--rows", type=int, default=20_000, help="of show 2")
    parser.add_argument("--per-label", type=int, default=20, help="photos a label, of show 2")
    parser.add_argument("--root", help="of show 4: folder of a manifest with roles; default the catalogue")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--peer-python", help="interpreter that has the peer")
    parser.add_argument("--peer-script", help="prints one JSON line with queries, gallery, dim and seconds")
    given = parser.parse_args()
    if given.show == 1 and not (given.peer_python and given.peer_script):
        parser.error("--show 1 needs --peer-python and --peer-script")
    tell(
        machine=platform.processor() or platform.machine(),
        platform=jax.default_backend(),
        jax=jax.__version__,
    )
    if given.show == 1:
        for k in (100, 10):
            against_peer(k, given.peer_python, given.peer_script, given.runs)
    elif given.show == 2:
        every_engine(given.rows, dimensions=128, per_label=given.per_label, k=10, runs=given.runs)
    elif given.show == 3:
        a_million(given.runs)
    else:
        second_look(given.root)


if __name__ == "__main__":
    main()
