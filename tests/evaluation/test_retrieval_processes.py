"""Two real processes, each with its own part of the gallery, against one process that has all of it."""

import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from fsl_jax.evaluation.retrieval import nearest, retrieval_per_query

PARTS = (slice(0, 290), slice(290, 333))
"""Very uneven: the second process fills up its shards."""


def given():
    rng = np.random.default_rng(0)
    query, gallery = (rng.integers(-2, 3, (n, 4)).astype(np.float32) for n in (29, 333))
    labels = rng.integers(0, 40, 29), rng.integers(0, 36, 333)
    return query, gallery, *labels, rng.integers(0, 2, 29), rng.integers(0, 2, 333)


def work(rank, port, output):
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)
    query, gallery, query_labels, gallery_labels, query_groups, gallery_groups = given()
    part = PARTS[rank]
    result = retrieval_per_query(
        query,
        gallery[part],
        query_labels,
        gallery_labels[part],
        distance="euclidean",
        query_groups=query_groups,
        gallery_groups=gallery_groups[part],
        block=8,
        collective=True,
    )
    np.savez(output, **result.named())
    own = retrieval_per_query(
        gallery,
        gallery[part],
        gallery_labels,
        gallery_labels[part],
        distance="euclidean",
        exclude_self=True,
        collective=True,
    )
    np.savez(output.with_suffix(".own.npz"), **own.named())

    everywhere = jax.sharding.Mesh(jax.devices(), ("rows",))
    rows = jax.sharding.NamedSharding(everywhere, jax.sharding.PartitionSpec())
    of_all = jax.make_array_from_process_local_data(rows, gallery)
    for name, array in (("global", of_all), ("same", gallery)):
        alone = retrieval_per_query(
            array, None, gallery_labels, None, distance="euclidean", devices=jax.devices()
        )
        np.savez(output.with_suffix(f".{name}.npz"), **alone.named())
    found = nearest(query, of_all, k=3, distance="euclidean", devices=jax.devices())
    np.savez(output.with_suffix(".nearest.npz"), **found._asdict())


def run_two_processes(folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    outputs = [folder / f"{rank}.npz" for rank in range(2)]
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(port), str(output)],
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={"PYTHONPATH": ".", "JAX_PLATFORMS": "cpu", "PATH": ""},
        )
        for rank, output in enumerate(outputs)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()[-3000:]
    return outputs


def test_two_processes_give_every_process_the_whole_result(tmp_path):
    outputs = run_two_processes(tmp_path)
    query, gallery, query_labels, gallery_labels, query_groups, gallery_groups = given()
    groups = {"query_groups": query_groups, "gallery_groups": gallery_groups}
    labels = query_labels, gallery_labels
    whole = retrieval_per_query(query, gallery, *labels, distance="euclidean", **groups)
    alone = retrieval_per_query(gallery, None, gallery_labels, None, distance="euclidean")
    figures = {
        ".npz": whole.named(),
        **dict.fromkeys((".own.npz", ".global.npz", ".same.npz"), alone.named()),
    }
    figures[".nearest.npz"] = nearest(query, gallery, k=3, distance="euclidean")._asdict()
    for output in outputs:
        for suffix, expected in figures.items():
            with np.load(output.with_suffix(suffix)) as found:
                for name, values in expected.items():
                    np.testing.assert_allclose(found[name], values, rtol=1e-12, err_msg=name)


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
