"""Classifies photos from a few examples a label, without training, and says where none of the labels is near.

Every score is the cosine similarity of two unit vectors, -1 to 1; larger is nearer. A head turns a query into
one score and one evidence a label; probabilities are the softmax of the evidence over a temperature.

| head | score of a label | evidence |
|---|---|---|
| prototype | with the mean direction of the label's photos | the score |
| k-nn | with the label's nearest photo | the score, and 2 for each of its votes |
| logistic | as of prototype | the logits of the regression, whose temperature is 1 |
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from fsl_jax.data.read import check_photos, read_rows
from fsl_jax.data.source import ALL_SPLITS, load_source
from fsl_jax.data.sources._files import why_skipped
from fsl_jax.data.table import Table
from fsl_jax.embedder import Embedder
from fsl_jax.evaluation.embed import embed_blocks
from fsl_jax.mesh import data_mesh
from fsl_jax.search import _heads
from fsl_jax.search._heads import Threshold

if TYPE_CHECKING:
    from fsl_jax.search.index import Added, Index

HEADS = ("prototype", "k-nn", "logistic")
AT_ONCE = 16
"""Photos of one program; a last block is filled up, so that any number of photos compiles once."""
FALSE_ACCEPT_RATE = 0.01
"""Of the calibration of an index that is made of a support, as of any other index."""


@dataclasses.dataclass(frozen=True)
class Support:
    """Examples of the labels.

    Attributes:
      embeddings: One row a photo, of any length.
      labels: Name of each photo's label.
      unreadable: (photo, reason) of those that were left out.

    Raises:
      ValueError: There is no row, arrays do not fit, or a value is not finite.
    """

    embeddings: Float[np.ndarray, "n d"]
    labels: Shaped[np.ndarray, "n"]
    unreadable: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        embeddings, labels = np.asarray(self.embeddings), np.asarray(self.labels)
        if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
            raise ValueError(
                f"embeddings are {embeddings.shape}, labels {labels.shape}; expected [n, d] and [n]"
            )
        if not len(labels):
            raise ValueError("the support has no photo; expected at least one a label")
        _check_finite(embeddings, "the support's")


@dataclasses.dataclass(frozen=True)
class Guess:
    """What is said of one photo.

    Attributes:
      label: None where even the best label is too far.
      probability: Of the best label among those of the support, 0 to 1; it knows of no other labels.
      score: Cosine similarity with the best label; what is below the threshold is unknown.
      ranked: Every label of the support with its probability, the best first; probabilities sum to 1.
    """

    label: str | None
    probability: float
    score: float
    ranked: tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A head that has learnt a support.

    Attributes:
      names: Labels, sorted.
      dimensions: Length of an embedding.
      measure: From unit vectors to scores and evidence of every label.
      temperature: Divides the evidence before the softmax.
      threshold: Learnt from the support; None where no label has two photos.
    """

    names: tuple[str, ...]
    dimensions: int
    measure: _heads.Measure
    temperature: float
    threshold: Threshold | None

    def limit(self, unknown_below: float | None) -> float:
        """Returns the score below which a photo is unknown: the one given, else the one learnt, else minus infinity.

        Raises:
          ValueError: The one given is no cosine similarity, or there is one label and no threshold, so that nothing
            would be asked.
        """
        if unknown_below is not None and not -1 <= unknown_below <= 1:
            raise ValueError(f"unknown-below is {unknown_below}; expected a score, -1 to 1")
        if unknown_below is not None:
            return float(unknown_below)
        if self.threshold is not None:
            return self.threshold.score
        if len(self.names) == 1:
            raise ValueError(
                f"the support has one photo of one label, {self.names[0]!r}, and no threshold: every photo would be "
                "of it; add a photo or a label, or say from which score on it is known, such as --unknown-below 0.7"
            )
        return -math.inf

    def __call__(
        self, queries: Float[np.ndarray, "q d"], *, unknown_below: float | None = None
    ) -> list[Guess]:
        """Classifies embeddings of any length, in order.

        Args:
          queries: One row a photo.
          unknown_below: See `limit`; -1 leaves nothing unknown.

        Raises:
          ValueError: See `limit`; or the queries have another length than the support, or a value is not finite.
        """
        limit = self.limit(unknown_below)
        if not len(queries):
            return []
        if np.shape(queries)[1:] != (self.dimensions,):
            raise ValueError(
                f"queries are {list(np.shape(queries))}; expected [q, {self.dimensions}], as the support is"
            )
        _check_finite(queries, "the queries'")
        scores, evidence = self.measure(_heads.unit(queries))
        shares = np.exp(_heads.log_softmax(evidence / self.temperature))
        orders = np.argsort(-evidence, axis=1, kind="stable")
        return [self._guess(*row, limit) for row in zip(scores, shares, orders, strict=True)]

    def _guess(
        self,
        scores: Float[np.ndarray, "labels"],
        shares: Float[np.ndarray, "labels"],
        order: Int[np.ndarray, "labels"],
        limit: float,
    ) -> Guess:
        best, score = int(order[0]), float(scores[order[0]])
        ranked = tuple((self.names[place], float(shares[place])) for place in order)
        return Guess(None if score < limit else self.names[best], float(shares[best]), score, ranked)


def classify(
    support: Support,
    queries: Float[np.ndarray, "q d"],
    *,
    head: str,
    neighbours: int = 3,
    unknown_below: float | None,
) -> list[Guess]:
    """Labels embeddings by a support; where it is asked often, call `fit` once.

    Args:
      support: Examples of the labels.
      queries: One row a photo.
      head: "prototype", "k-nn" or "logistic".
      neighbours: Of "k-nn"; see `fit`.
      unknown_below: Score below which a photo is of no label; None for the one that is learnt from the support, where
        it can be; -1 leaves nothing unknown.

    Returns:
      One guess a row.

    Raises:
      ValueError: See `fit` and `Classifier`.

    Example:
      >>> support = Support(np.eye(2), np.array(["bag", "shoe"]))
      >>> classify(support, np.array([[3.0, 4.0]]), head="prototype", unknown_below=None)[0].label
      'shoe'
    """
    return fit(support, head=head, neighbours=neighbours)(queries, unknown_below=unknown_below)


def fit(support: Support, *, head: str, neighbours: int = 3) -> Classifier:
    """Learns a support.

    Two things are learnt from leaving photos out in turn, of the labels that have two or more. The threshold is the
    largest score that fewer than 5 % of them score below with their own label: of up to 20 photos, the smallest such
    score. The temperature T is the one with the smallest cross entropy, summed over the photos left out, plus
    (log(T / expected) / 0.7)^2 / 2, so that a few photos that are all told apart do not make for certainty; 0.07 is
    expected, and 1 of "k-nn".

    Args:
      support: Examples of the labels.
      head: "prototype": the label whose photos' mean direction is nearest. "k-nn": most votes among the nearest
        photos, and of equal votes the label of the nearest photo. "logistic": multinomial logistic regression on unit
        vectors with an L2 penalty, scikit-learn's C = 1; its probabilities are its own, and its scores those of
        "prototype".
      neighbours: Photos that vote; all where there are fewer.

    Returns:
      The classifier; its temperature is the expected one where no label has two photos.

    Raises:
      ValueError: An unknown head, or neighbours below 1.

    References:
      Snell et al. 2017, https://arxiv.org/abs/1703.05175.
    """
    if head not in HEADS:
        raise ValueError(f"head is {head!r}; expected one of {', '.join(HEADS)}")
    if neighbours < 1:
        raise ValueError(f"neighbours is {neighbours}; expected at least 1 photo that votes")
    grouped = _heads.Grouped.of(support.embeddings, support.labels)
    votes = neighbours if head == "k-nn" else None
    rows = grouped.left_out()
    scores, evidence = _heads.measure_left_out(grouped, rows, neighbours=votes)
    own = grouped.codes[rows]
    expected = _heads.TEMPERATURE if votes is None else _heads.VOTES_TEMPERATURE
    return Classifier(
        grouped.names,
        grouped.units.shape[1],
        _heads.measure_of(grouped, neighbours=votes, logistic=head == "logistic"),
        1.0 if head == "logistic" else _heads.fit_temperature(evidence, own, expected=expected),
        _heads.learn_threshold(scores, own) if len(rows) else None,
    )


def _check_finite(embeddings: Float[np.ndarray, "n d"], whose: str) -> None:
    if not np.isfinite(embeddings).all():
        raise ValueError(f"{whose} embeddings hold a NaN or an infinity; expected finite values")


def support_table(folder: Path) -> Table:
    """Lists a support folder: one folder a label.

    Raises:
      ValueError: There is no folder or no photo in a label's folder, or a label's folder has none.
    """
    table = load_source("image_folder", folder, ALL_SPLITS, {})
    full = {parent for row in range(len(table)) for parent in Path(table.name(row)).parents}
    for place in sorted(folder.rglob("*")):
        inside = place.relative_to(folder)
        if place.is_dir() and inside not in full and why_skipped(f"{inside.as_posix()}/photo.jpg") is None:
            raise ValueError(
                f"label {inside.as_posix()!r} has no photo in {folder}; expected at least one: add it, or remove the "
                "folder"
            )
    return table


def _check_labels(table: Table, broken: Sequence[tuple[int, str]]) -> Bool[np.ndarray, "n"]:
    """Returns which rows can be read.

    Raises:
      ValueError: A label has none.
    """
    kept = np.ones(len(table), bool)
    kept[[row for row, _ in broken]] = False
    lost = np.setdiff1d(table.label.codes, table.label.codes[kept])
    if len(lost):
        row, reason = next(each for each in broken if table.label.codes[each[0]] == lost[0])
        raise ValueError(
            f"label {table.label.names[lost[0]]!r} has no photo that can be read, such as {table.file(row)} "
            f"({reason}): mend or add one, or remove the label"
        )
    return kept


def support_of(folder: Path, embedder: Embedder) -> Support:
    """Embeds a support folder.

    Args:
      folder: One folder a label, with one photo or more in it.
      embedder: The model.

    Returns:
      The photos that can be read, and which ones cannot.

    Raises:
      ValueError: See `support_table`; or a label has no photo that can be read.
    """
    table, how = support_table(folder), embedder.preprocess
    images, broken = read_rows(
        table,
        range(len(table)),
        size=how.size,
        channels=how.channels,
        fit=how.fit,  # type: ignore[arg-type]
        description="reading the support",
    )
    kept = _check_labels(table, broken)
    return Support(
        embed_photos(embedder, images[kept]),
        np.array(table.label.names)[table.label.codes[kept]],
        tuple((str(table.file(row)), reason) for row, reason in broken),
    )


def support_of_index(index: "Index") -> Support:
    """Takes the embeddings and labels of an index as the support."""
    if not len(index):
        raise ValueError(f"the index in {index.folder} has no photo; add some first")
    return Support(index.embeddings, index.labels)


def embed_photos(embedder: Embedder, images: UInt8[np.ndarray, "n s s c"]) -> Float[np.ndarray, "n d"]:
    """Embeds at least one photo, in blocks of one size on one device: a few photos gain nothing from more."""
    return np.asarray(embed_blocks(embedder.embed, images, mesh=data_mesh(1), block=AT_ONCE), np.float32)


def enrol(
    folder: Path, out: Path, embedder: Embedder, *, model: Mapping[str, str]
) -> tuple["Index", "Added"]:
    """Makes an index of a support folder, which can be searched, added to and served.

    It is calibrated where it has two labels, and two photos of one.

    Args:
      folder: One folder a label.
      out: The index, which is not there yet. Where no photo got into it, nothing is left of it.
      embedder: The model.
      model: How an index names it; see `models.spec_of`.

    Returns:
      The index and what was added.

    Raises:
      ValueError: See `support_of`; or there is an index already.
    """
    from fsl_jax.search import _filling

    table = support_table(folder)
    _check_labels(table, check_photos(table))
    index, added = _filling.build(out, embedder, model, table, block=AT_ONCE)
    return _filling.calibrate_where_possible(index, false_accept_rate=FALSE_ACCEPT_RATE), added
