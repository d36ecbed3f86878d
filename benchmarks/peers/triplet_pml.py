"""Times batch-hard and batch-all triplet losses of pytorch-metric-learning; needs torch and nothing of this project.

python benchmarks/peers/triplet_pml.py --count 512 --dimensions 512 --photos 4

Prints one JSON line: medians of forward and backward, with respect to the embeddings.
"""

import argparse
import json
import statistics
import time

import torch
from pytorch_metric_learning import distances, losses, miners, reducers


def median_seconds(function, runs):
    function()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(options.count, options.dimensions)).requires_grad_()
    labels = torch.arange(options.count) // options.photos
    # The same distances as ours: no normalisation inside.
    distance = distances.LpDistance(normalize_embeddings=False, p=2)
    miner = miners.BatchHardMiner(distance=distance)
    kinds = {
        "batch_hard": (
            losses.TripletMarginLoss(margin=0.2, distance=distance, reducer=reducers.MeanReducer()),
            miner,
        ),
        "batch_all": (
            losses.TripletMarginLoss(margin=0.2, distance=distance, reducer=reducers.AvgNonZeroReducer()),
            None,
        ),
    }

    def step(loss, mining):
        points.grad = None
        chosen = None if mining is None else mining(points, labels)
        loss(points, labels, chosen).backward()

    figures = {name: median_seconds(lambda k=kind: step(*k), options.runs) for name, kind in kinds.items()}
    print(json.dumps({"threads": torch.get_num_threads(), **figures}))


if __name__ == "__main__":
    main()
