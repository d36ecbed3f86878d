"""Distances, minings and losses as plain float64 loops over anchors, positives and negatives, written from the papers.

The tests hold fsl_jax to these. A loss gives Items: the value of each item and whether it takes part. Nothing here is
fast, vectorised or stable for extreme inputs, so that it can be read next to the paper.
"""

import math
import operator
from typing import NamedTuple

import numpy as np


class Items(NamedTuple):
    """Values of items and which of them count; 0 where they do not."""

    value: np.ndarray
    mask: np.ndarray


class Anchors(NamedTuple):
    """For each anchor the sum of its elements, their number, and how many are above 0."""

    total: np.ndarray
    count: np.ndarray
    active: np.ndarray


def where(row):
    """The indices at which a row of a mask is true."""
    return [int(i) for i in np.flatnonzero(row)]


def sigma(gap, margin):
    """Hinge [gap + margin]+ of FaceNet (Schroff et al. 2015), or softplus without a margin (Hermans et al. 2017)."""
    return math.log1p(math.exp(gap)) if margin is None else max(gap + margin, 0.0)


# Distances


def _squared(one, other):
    return sum((x - y) ** 2 for x, y in zip(one, other, strict=True))


def _cosine(one, other):
    norms = math.hypot(*one) * math.hypot(*other)
    return 1.0 - (sum(map(operator.mul, one, other)) / norms if norms else 0.0)


ROWS = {"squared_euclidean": _squared, "euclidean": math.dist, "cosine": _cosine}
"""A distance of two rows, by name."""


def distances(name, left, right):
    """[a, r], from every row to every row."""
    left, right = (np.asarray(rows, np.float64).tolist() for rows in (left, right))
    return np.array([[ROWS[name](one, other) for other in right] for one in left]).reshape(
        len(left), len(right)
    )


def paired(name, left, right):
    """[m], row by row."""
    left, right = (np.asarray(rows, np.float64).tolist() for rows in (left, right))
    return np.array([ROWS[name](one, other) for one, other in zip(left, right, strict=True)])


def similarities(left, right):
    """[a, r], cosines."""
    return 1.0 - distances("cosine", left, right)


def unit(rows):
    """Rows at length 1; a zero row stays zero."""
    return np.array([[x / (math.hypot(*row) or 1.0) for x in row] for row in np.asarray(rows).tolist()])


# Reducers


def mean(found):
    """Of the items that count; of all elements of all anchors."""
    if isinstance(found, Anchors):
        return found.total.sum() / found.count.sum() if found.count.sum() else 0.0
    kept = [float(v) for v, m in zip(found.value.flat, found.mask.flat, strict=True) if m]
    return sum(kept) / len(kept) if kept else 0.0


def nonzero_mean(found):
    """Of those above 0 (Hermans et al. 2017)."""
    if isinstance(found, Anchors):
        return found.total.sum() / found.active.sum() if found.active.sum() else 0.0
    kept = [float(v) for v, m in zip(found.value.flat, found.mask.flat, strict=True) if m and v > 0]
    return sum(kept) / len(kept) if kept else 0.0


def worst(found, share):
    """Of the largest int(share * count), at least one."""
    kept = sorted(
        (float(v) for v, m in zip(found.value.flat, found.mask.flat, strict=True) if m), reverse=True
    )
    kept = kept[: max(1, int(share * len(kept)))]
    return sum(kept) / len(kept) if kept else 0.0


# Masks and minings


def pair_masks(anchor_label, reference_label, anchor_row, reference_row, valid=None):
    """(positive, negative): the same label on another row; another label."""
    shape = len(anchor_label), len(reference_label)
    anchor_label, reference_label = list(anchor_label), list(reference_label)
    positive, negative = np.zeros(shape, bool), np.zeros(shape, bool)
    for a in range(shape[0]):
        for r in range(shape[1]):
            if valid is not None and not valid[r]:
                continue
            if anchor_label[a] != reference_label[r]:
                negative[a, r] = True
            elif anchor_row[a] != reference_row[r]:
                positive[a, r] = True
    return positive, negative


def batch_hard(d, positive, negative):
    """{anchor: (furthest positive, nearest negative)} (Hermans et al. 2017, eq. 5)."""
    found = {}
    for a in range(len(d)):
        positives, negatives = where(positive[a]), where(negative[a])
        if positives and negatives:
            found[a] = max(positives, key=lambda p: d[a, p]), min(negatives, key=lambda n: d[a, n])
    return found


def semi_hard(d, positive, negative):
    """{(anchor, positive): nearest negative that is farther than the positive} (Schroff et al. 2015)."""
    found = {}
    for a in range(len(d)):
        for p in where(positive[a]):
            farther = [n for n in where(negative[a]) if d[a, n] > d[a, p]]
            if farther:
                found[a, p] = min(farther, key=lambda n: d[a, n])
    return found


def all_triplets(positive, negative):
    """Every (anchor, positive, negative)."""
    return [(a, p, n) for a in range(len(positive)) for p in where(positive[a]) for n in where(negative[a])]


def softmax_over(logits, chosen):
    """{index: probability} of a softmax over the chosen indices."""
    largest = max(logits[i] for i in chosen)
    weights = {i: math.exp(logits[i] - largest) for i in chosen}
    return {i: weight / sum(weights.values()) for i, weight in weights.items()}


def batch_sample(d, positive, negative):
    """{anchor: (probability of each positive, probability of each negative)} (Ristani & Tomasi 2018)."""
    found = {}
    for a in range(len(d)):
        if positive[a].any() and negative[a].any():
            found[a] = softmax_over(d[a], where(positive[a])), softmax_over(-d[a], where(negative[a]))
    return found


def batch_weighted(d, positive, negative):
    """(weighted positive distance, weighted negative distance, mask) (Ristani & Tomasi 2018)."""
    near, far, mask = np.zeros(len(d)), np.zeros(len(d)), np.zeros(len(d), bool)
    for a, (of_positives, of_negatives) in batch_sample(d, positive, negative).items():
        near[a] = sum(weight * d[a, p] for p, weight in of_positives.items())
        far[a] = sum(weight * d[a, n] for n, weight in of_negatives.items())
        mask[a] = True
    return near, far, mask


def distance_weighted(d, positive, negative, *, dimensions, cutoff, furthest):
    """{anchor: probability of each negative} (Wu et al. 2017, section 4.1): 1 / q(d), with

    q(d) = d^(n-2) (1 - d^2/4)^((n-3)/2), the density of distances between random unit vectors of n dimensions.
    """
    found = {}
    for a in range(len(d)):
        negatives = where(negative[a])
        if not positive[a].any() or not negatives:
            continue
        weights = {}
        for n in negatives:
            clipped = max(d[a, n], cutoff)
            if d[a, n] > furthest:
                weights[n] = 0.0
            else:
                weights[n] = 1 / (
                    clipped ** (dimensions - 2) * (1 - clipped**2 / 4) ** ((dimensions - 3) / 2)
                )
        total = sum(weights.values())
        found[a] = {n: w / total if total else 1 / len(negatives) for n, w in weights.items()}
    return found


# Triplet losses


def triplet(near, far, mask, margin):
    """One value a triplet; margin a number, None or one a triplet."""
    margins = margin if np.ndim(margin) else [margin] * len(near)
    value = [sigma(p - n, m) if k else 0.0 for p, n, m, k in zip(near, far, margins, mask, strict=True)]
    return Items(np.array(value), np.array(mask, bool))


def batch_all(d, positive, negative, margin):
    """All triplets, summed up for each anchor (Hermans et al. 2017, eq. 6); margin may be one for each (a, n)."""
    total, count, active = (np.zeros(len(d)) for _ in range(3))
    for a, p, n in all_triplets(positive, negative):
        value = sigma(d[a, p] - d[a, n], margin[a, n] if np.ndim(margin) else margin)
        total[a] += value
        count[a] += 1
        active[a] += value > 0
    return Anchors(total, count, active)


def from_descriptions(anchor_text, other_text, *, base, scaling):
    """Margins [a, r] that grow with the distance of two descriptions (Zhao et al. 2019)."""
    margins = np.zeros((len(anchor_text), len(other_text)))
    for a, one in enumerate(unit(anchor_text)):
        for r, other in enumerate(unit(other_text)):
            d = _squared(one, other) if one.any() and other.any() else 0.0
            margins[a, r] = base + (d / (4 - base) if scaling == "divide" else d * (4 - base) / 4)
    return margins


def boundary(near, far, mask, beta, margin):
    """First the terms of the positives, then those of the negatives (Wu et al. 2017, section 4.2)."""
    pull = [max(d - b + margin, 0.0) if k else 0.0 for d, b, k in zip(near, beta, mask, strict=True)]
    push = [max(b - d + margin, 0.0) if k else 0.0 for d, b, k in zip(far, beta, mask, strict=True)]
    return Items(np.array(pull + push), np.array([*mask, *mask], bool))


# Pair losses


def contrastive(d, same, mask, *, margin, power=2, half=False):
    """Same: d^power; different: [margin - d]+^power (Hadsell et al. 2006 has power 2 and the half)."""
    value = np.zeros(len(d))
    for i in where(mask):
        value[i] = (d[i] if same[i] else max(0.0, margin - d[i])) ** power * (0.5 if half else 1.0)
    return Items(value, np.array(mask, bool))


def nt_xent(s, positive, negative, temperature):
    """One value a positive pair; the denominator holds that pair and the negatives (Chen et al. 2020, eq. 1)."""
    value = np.zeros(s.shape)
    for a in range(len(s)):
        for p in where(positive[a]):
            own = math.exp(s[a, p] / temperature)
            others = sum(math.exp(s[a, n] / temperature) for n in where(negative[a]))
            value[a, p] = -math.log(own / (own + others))
    return Items(value, positive.copy())


def sup_con(s, positive, negative, temperature):
    """One value an anchor: the mean over its positives is outside of the logarithm (Khosla et al. 2020, eq. 2)."""
    value = np.zeros(len(s))
    for a in range(len(s)):
        positives = where(positive[a])
        everyone = sum(math.exp(s[a, r] / temperature) for r in positives + where(negative[a]))
        for p in positives:
            value[a] -= math.log(math.exp(s[a, p] / temperature) / everyone) / len(positives)
    return Items(value, positive.any(1))


def n_pair(anchor, positive):
    """log(1 + sum over the other pairs of exp(f_i g_j - f_i g_i)) (Sohn 2016, without its term of the norms)."""
    value = []
    for i, f in enumerate(anchor):
        products = [float(np.dot(f, g)) for g in positive]
        value.append(math.log1p(sum(math.exp(x - products[i]) for j, x in enumerate(products) if j != i)))
    return Items(np.array(value), np.ones(len(value), bool))


def multi_similarity_kept(s, positive, negative, mining_margin):
    """(positives, negatives) that the mining keeps (Wang et al. 2019)."""
    kept = np.zeros_like(positive), np.zeros_like(negative)
    for a in range(len(s)):
        positives, negatives = where(positive[a]), where(negative[a])
        for n in negatives:
            kept[1][a, n] = bool(positives) and s[a, n] + mining_margin > min(s[a, p] for p in positives)
        for p in positives:
            kept[0][a, p] = bool(negatives) and s[a, p] - mining_margin < max(s[a, n] for n in negatives)
    return kept


def multi_similarity(s, positive, negative, *, positive_scale, negative_scale, threshold, mining_margin):
    """One value an anchor (Wang et al. 2019); their mean is over all anchors that have a pair before the mining."""
    mask = positive.any(1) | negative.any(1)
    if mining_margin is not None:
        positive, negative = multi_similarity_kept(s, positive, negative, mining_margin)
    value = np.zeros(len(s))
    for a in range(len(s)):
        pull = sum(math.exp(-positive_scale * (s[a, p] - threshold)) for p in where(positive[a]))
        push = sum(math.exp(negative_scale * (s[a, n] - threshold)) for n in where(negative[a]))
        value[a] = math.log1p(pull) / positive_scale + math.log1p(push) / negative_scale
    return Items(value, mask)


def circle(s, positive, negative, *, relaxation, scale, weights_of=None):
    """One value an anchor with both sides (Sun et al. 2020).

    The weights are constants of the gradient there: weights_of gives the similarities that they are made from.
    """
    weights_of = s if weights_of is None else weights_of
    value, mask = np.zeros(len(s)), np.zeros(len(s), bool)
    for a in range(len(s)):
        pull = push = 0.0
        for p in where(positive[a]):
            weight = max(1 + relaxation - weights_of[a, p], 0.0)
            pull += math.exp(-scale * weight * (s[a, p] - (1 - relaxation)))
        for n in where(negative[a]):
            weight = max(weights_of[a, n] + relaxation, 0.0)
            push += math.exp(scale * weight * (s[a, n] - relaxation))
        mask[a] = positive[a].any() and negative[a].any()
        value[a] = math.log1p(pull * push)
    return Items(value, mask)


# Softmax and proxy losses


def cross_entropy(logits, labels, smoothing=0.0):
    """The target is 1 - smoothing at the label, and smoothing shared by all labels (Szegedy et al. 2016)."""
    value = []
    for row, label in zip(np.asarray(logits, np.float64).tolist(), labels, strict=True):
        log_sum = max(row) + math.log(sum(math.exp(x - max(row)) for x in row))
        target = [smoothing / len(row) + (1 - smoothing) * (i == label) for i in range(len(row))]
        value.append(sum(t * (log_sum - x) for t, x in zip(target, row, strict=True)))
    return Items(np.array(value), np.ones(len(value), bool))


def arcface(cosines, labels, *, margin, scale):
    """cos(angle + margin) at the label (Deng et al. 2019, eq. 3).

    Beyond pi - margin that would rise again; there the authors' code takes cos(angle) - margin sin(margin).
    """
    logits = np.array(cosines, np.float64)
    for i, label in enumerate(labels):
        angle = math.acos(min(1.0, max(-1.0, logits[i, label])))
        if angle <= math.pi - margin:
            logits[i, label] = math.cos(angle + margin)
        else:
            logits[i, label] = math.cos(angle) - margin * math.sin(margin)
    return cross_entropy(scale * logits, labels)


def cosface(cosines, labels, *, margin, scale):
    """Cosine - margin at the label (Wang et al. 2018, eq. 4)."""
    logits = np.array(cosines, np.float64)
    for i, label in enumerate(labels):
        logits[i, label] -= margin
    return cross_entropy(scale * logits, labels)


def normalised(cosines, labels, *, temperature):
    """Softmax of cosines (Zhai & Wu 2019)."""
    return cross_entropy(np.asarray(cosines, np.float64) / temperature, labels)


def proxy_nca(embedding, proxies, labels, *, scale, own_in_denominator):
    """-log(exp(-d to the own proxy) / sum of exp(-d)) (Movshovitz-Attias et al. 2017).

    There the sum is over the other proxies; own_in_denominator takes all of them (Teh et al. 2020).
    """
    d = distances("squared_euclidean", scale * unit(embedding), scale * unit(proxies))
    value = []
    for row, label in zip(d, labels, strict=True):
        others = [z for z in range(len(row)) if own_in_denominator or z != label]
        nearest = min(row[z] for z in others)
        value.append(row[label] - nearest + math.log(sum(math.exp(nearest - row[z]) for z in others)))
    return Items(np.array(value), np.ones(len(value), bool))


def proxy_anchor(s, labels, *, margin, scale):
    """(pull of the proxies that have positives, push of all proxies) (Kim et al. 2020, eq. 4)."""
    pull, push, present = (np.zeros(s.shape[1]) for _ in range(3))
    for z in range(s.shape[1]):
        own = [i for i, label in enumerate(labels) if label == z]
        others = [i for i, label in enumerate(labels) if label != z]
        present[z] = bool(own)
        pull[z] = math.log1p(sum(math.exp(-scale * (s[i, z] - margin)) for i in own))
        push[z] = math.log1p(sum(math.exp(scale * (s[i, z] + margin)) for i in others))
    return Items(pull, present.astype(bool)), Items(push, np.ones(len(push), bool))


# Gradients


def numerical_gradient(function, at, step=1e-6):
    """Central differences of a scalar function."""
    gradient = np.zeros(at.shape)
    for index in np.ndindex(*at.shape):
        shifted = np.zeros(at.shape)
        shifted[index] = step
        gradient[index] = (function(at + shifted) - function(at - shifted)) / (2 * step)
    return gradient
