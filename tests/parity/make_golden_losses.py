"""Writes golden/metric_losses.npz with pytorch-metric-learning: python tests/parity/make_golden_losses.py

Needs numpy, torch and pytorch-metric-learning, and nothing of this package; the test that reads the file needs none of
them. The file keeps the random batches in float32 and, computed from them in float64, each loss's value and some
entries of its gradient, with the gradient's largest entry.
"""

from pathlib import Path

import numpy as np
import torch
from pytorch_metric_learning import distances, losses, miners, reducers

GOLDEN = Path(__file__).parent / "golden" / "metric_losses.npz"
BATCHES, ROWS, WIDTH, LABELS, PROXY_SETS, ENTRIES = 100, 12, 8, 12, 10, 16
SEMI_HARD_BATCHES = 20
TRIPLET_MARGIN, CONTRASTIVE_MARGIN, BETA, BOUNDARY_MARGIN = 0.3, 1.8, 1.2, 0.2
"""The numbers of the losses are repeated in test_golden_losses.py, where they are arguments of fsl_jax."""


def label_row(rng, number):
    """Labels of a batch: P x K, ragged with singletons, and now and then one label only or no positives."""
    names = rng.permutation(LABELS)
    if number % 25 == 10:
        return np.full(ROWS, names[0])
    if number % 25 == 20:
        return names
    if number % 4 == 0:
        return np.repeat(names[:4], 3)
    if number % 4 == 2:
        return np.repeat(names[:6], 2)
    return rng.permutation(np.repeat(names[:6], [4, 3, 2, 1, 1, 1]))


def far_from_kinks(rows):
    """Says that no hinge and no choice of a mining is so near that rounding to float32 could decide it."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    euclidean = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    of_unit = np.linalg.norm(unit[:, None] - unit[None], axis=-1)
    apart = ~np.eye(len(rows), dtype=bool)
    gaps = [
        (matrix[:, :, None] - matrix[:, None, :])[apart[:, :, None] & apart[:, None, :] & apart[None]]
        for matrix in (euclidean, unit @ unit.T)
    ]
    hinges = [gaps[0] + c for c in (0, TRIPLET_MARGIN, -TRIPLET_MARGIN)] + [
        gaps[1] + c for c in (0, 0.1, -0.1)
    ]
    hinges += [euclidean[apart] - CONTRASTIVE_MARGIN]
    hinges += [of_unit[apart] - BETA + c for c in (BOUNDARY_MARGIN, -BOUNDARY_MARGIN)]
    return min(float(np.abs(h).min()) for h in hinges) > 1e-5


def batches():
    """Embeddings [batches, rows, width], labels [batches, rows] and proxies [sets, labels, width], from a seed."""
    rng = np.random.default_rng(20)
    proxies = rng.standard_normal((PROXY_SETS, LABELS, WIDTH)).astype(np.float32)
    embeddings, labels = [], []
    while len(embeddings) < BATCHES:
        label = label_row(rng, len(embeddings))
        # Every other batch as if something had been learnt: rows of a label lie together.
        centres = (len(embeddings) % 2) * rng.standard_normal((LABELS, WIDTH))
        rows = 0.5 * (centres[label] + rng.standard_normal((ROWS, WIDTH)))
        # Opposite to its own proxy: where ArcFace's angle would leave 0 to pi.
        rows[0] = -0.5 * proxies[len(embeddings) % PROXY_SETS, label[0]] + 0.1 * rows[0]
        rows = rows.astype(np.float32)
        if far_from_kinks(rows.astype(np.float64)):
            embeddings.append(rows)
            labels.append(label)
    return np.stack(embeddings), np.stack(labels).astype(np.int8), proxies


def triplet(*, miner=None, reducer=None, **options):
    """A triplet loss on Euclidean distances of embeddings as they are."""
    distance = distances.LpDistance(normalize_embeddings=False, p=2)
    loss = losses.TripletMarginLoss(distance=distance, reducer=reducer, swap=False, **options)
    mine = None if miner is None else miner(distance=distance)
    return lambda rows, labels, proxies: (loss(rows, labels, mine and mine(rows, labels)), None)


def plain(loss, miner=None):
    """A loss that has nothing to learn itself."""
    return lambda rows, labels, proxies: (loss(rows, labels, miner and miner(rows, labels)), None)


def with_proxies(kind, **options):
    """A loss with a vector for each label, which is set to the given proxies."""

    def compute(rows, labels, proxies):
        loss = kind(num_classes=LABELS, embedding_size=WIDTH, **options)
        own = loss.W if hasattr(loss, "W") else loss.proxies
        own.data = proxies.T.contiguous() if hasattr(loss, "W") else proxies
        return loss(rows, labels), own

    return compute


def margin_loss(rows, labels, proxies):
    """Wu et al.'s loss over all triplets, with a boundary for each label as the thing to learn."""
    loss = losses.MarginLoss(margin=BOUNDARY_MARGIN, beta=BETA, learn_beta=True, num_classes=LABELS)
    loss.beta.data = torch.full((LABELS,), BETA, dtype=torch.float64)
    return loss(rows, labels), loss.beta


def golden_losses():
    """Each loss as a function of embeddings, labels and proxies, which gives its value and what else is learnt."""
    mean, hard = reducers.MeanReducer, miners.BatchHardMiner
    contrastive = losses.ContrastiveLoss(
        pos_margin=0, neg_margin=CONTRASTIVE_MARGIN, distance=distances.LpDistance(normalize_embeddings=False)
    )
    similarity = {"alpha": 2, "beta": 40, "base": 0.5}
    return {
        "triplet_all": triplet(margin=TRIPLET_MARGIN, reducer=mean()),
        "triplet_all_nonzero": triplet(margin=TRIPLET_MARGIN),
        "triplet_all_soft": triplet(margin=0, smooth_loss=True, reducer=mean()),
        "triplet_hard": triplet(margin=TRIPLET_MARGIN, miner=hard, reducer=mean()),
        "triplet_hard_nonzero": triplet(margin=TRIPLET_MARGIN, miner=hard),
        "triplet_hard_soft": triplet(margin=0, smooth_loss=True, miner=hard, reducer=mean()),
        "contrastive": plain(contrastive),
        "nt_xent": plain(losses.NTXentLoss(temperature=0.1)),
        "sup_con": plain(losses.SupConLoss(temperature=0.1)),
        # The inner products of NPairsLoss are those of unit vectors unless its distance is told otherwise.
        "n_pairs": plain(
            losses.NPairsLoss(distance=distances.DotProductSimilarity(normalize_embeddings=False))
        ),
        "multi_similarity": plain(losses.MultiSimilarityLoss(**similarity)),
        "multi_similarity_mined": plain(
            losses.MultiSimilarityLoss(**similarity), miners.MultiSimilarityMiner(epsilon=0.1)
        ),
        "circle": plain(losses.CircleLoss(m=0.4, gamma=80)),
        "margin": margin_loss,
        "arcface": with_proxies(losses.ArcFaceLoss, margin=np.degrees(0.5), scale=64),
        "cosface": with_proxies(losses.CosFaceLoss, margin=0.35, scale=64),
        "normalised": with_proxies(losses.NormalizedSoftmaxLoss, temperature=0.05),
        "proxy_nca": with_proxies(losses.ProxyNCALoss, softmax_scale=9),
        "proxy_anchor": with_proxies(losses.ProxyAnchorLoss, margin=0.1, alpha=32),
    }


def outputs():
    """Everything that the golden file holds, by name."""
    embeddings, labels, proxies = batches()
    rng = np.random.default_rng(7)
    chosen = np.stack([rng.permutation(ROWS * WIDTH)[:ENTRIES] for _ in range(BATCHES)])
    found = {
        "embeddings": embeddings,
        "labels": labels,
        "proxies": proxies,
        "chosen": chosen.astype(np.int16),
    }
    for name, compute in golden_losses().items():
        kept = {}
        for number in range(BATCHES):
            rows = torch.from_numpy(embeddings[number]).double().requires_grad_()
            label = torch.from_numpy(labels[number]).long()
            value, learnt = compute(rows, label, torch.from_numpy(proxies[number % PROXY_SETS]).double())
            value.backward()
            kept.setdefault("value", []).append(value.item())
            for part, tensor in (("embedding", rows), ("learnt", learnt)):
                if tensor is not None:
                    entries, largest = sampled(tensor, chosen[number])
                    kept.setdefault(f"{part}_entries", []).append(entries)
                    kept.setdefault(f"{part}_largest", []).append(largest)
        found |= {f"{name}/{key}": np.asarray(values) for key, values in kept.items()}
    return found | {"semi_hard": semi_hard(embeddings, labels)}


def sampled(tensor, chosen):
    """The chosen entries of a tensor's gradient, all of a boundary a label, and the largest absolute entry."""
    gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
    # The columns of PML's W are the labels.
    flat = (gradient.T if gradient.shape == (WIDTH, LABELS) else gradient).numpy().reshape(-1)
    entries = flat if flat.size == LABELS else flat[chosen]
    return entries.astype(np.float32), np.abs(flat).max().astype(np.float32)


def semi_hard(embeddings, labels):
    """PML's semi-hard triplets within a margin of 1, as packed bits [batches, rows^3 / 8]."""
    distance = distances.LpDistance(normalize_embeddings=False, p=2)
    miner = miners.TripletMarginMiner(margin=1.0, type_of_triplets="semihard", distance=distance)
    found = np.zeros((SEMI_HARD_BATCHES, ROWS, ROWS, ROWS), bool)
    for number in range(SEMI_HARD_BATCHES):
        rows, label = torch.from_numpy(embeddings[number]).double(), torch.from_numpy(labels[number]).long()
        found[number][tuple(index.numpy() for index in miner(rows, label))] = True
    return np.packbits(found.reshape(SEMI_HARD_BATCHES, -1), axis=1)


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **outputs())
