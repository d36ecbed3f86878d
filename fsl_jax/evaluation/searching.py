"""Searches a split's gallery photos with its query photos."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from fsl_jax.algorithms.base import Variables
from fsl_jax.data.augment import Preprocess
from fsl_jax.data.table import Table
from fsl_jax.evaluation import retrieval
from fsl_jax.evaluation.embed import embed_table
from fsl_jax.progress import Counter


@dataclasses.dataclass(frozen=True)
class Searcher:
    """Embeds one table and searches it.

    Attributes:
      table: Photos. Where they have roles, query photos are searched in gallery photos, otherwise all in all others.
      embed: From variables and uint8 photos to embeddings; jitted.
      preprocess: How photos are prepared.
      mesh: Devices.
      distance: "cosine" or "euclidean".
      same_domain_is_junk: Whether gallery photos with the query's label and domain (camera) are ignored.
    """

    table: Table
    embed: Callable[[Variables, Array], Float[Array, "b d"]]
    preprocess: Preprocess
    mesh: Mesh
    distance: str
    same_domain_is_junk: bool

    def __post_init__(self) -> None:
        if self.same_domain_is_junk and self.table.domain is None:
            raise ValueError(
                f"config.eval.same_domain_is_junk, but {self.table.source} does not say where its photos come from "
                "(column domain or camera)"
            )

    @property
    def sides(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows of queries and of the gallery; None is leave-one-out among all photos."""
        role = self.table.role
        if role is None or not ((role == "query").any() and (role == "gallery").any()):
            return np.arange(len(self.table)), None
        return np.flatnonzero(role == "query"), np.flatnonzero(role == "gallery")

    def embeddings(self, variables: Variables) -> Float[Array, "n d"]:
        """Embeds the photos, on the devices."""
        return embed_table(
            lambda images: self.embed(variables, images),
            self.table,
            self.preprocess,
            mesh=self.mesh,
            block=128,
        )

    def search(self, variables: Variables) -> tuple[retrieval.PerQuery, Float[Array, "n d"]]:
        """Ranks the gallery for every query; returns the measures of each, and the embeddings."""
        embeddings, labels = self.embeddings(variables), self.table.label.codes
        queries, gallery = self.sides
        domain = self.table.domain.codes if self.same_domain_is_junk and self.table.domain else None
        found = retrieval.retrieval_per_query(
            embeddings if gallery is None else embeddings[queries],
            None if gallery is None else embeddings[gallery],
            labels[queries],
            None if gallery is None else labels[gallery],
            distance=self.distance,
            query_groups=None if domain is None else domain[queries],
            gallery_groups=None if domain is None or gallery is None else domain[gallery],
            devices=list(self.mesh.devices.flat),
            progress=Counter("searching", unit="queries"),
        )
        return found, embeddings

    def nearest(self, embeddings: Float[Array, "n d"], *, k: int) -> retrieval.Nearest:
        """Finds the nearest photos of each query, as places in the gallery, or among all photos."""
        queries, gallery = self.sides
        return retrieval.nearest(
            embeddings if gallery is None else embeddings[queries],
            None if gallery is None else embeddings[gallery],
            k=k,
            distance=self.distance,
            devices=list(self.mesh.devices.flat),
        )

    def base_rate(self) -> float:
        """Returns the mAP of embeddings that are all equal: the mean share of matches in the gallery."""
        queries, gallery = self.sides
        codes, names = self.table.label.codes, len(self.table.label.names)
        alone = gallery is None
        searched = np.bincount(codes if gallery is None else codes[gallery], minlength=names)
        matches = searched[codes[queries]] - alone
        share = matches / (searched.sum() - alone)
        return float(share[matches > 0].mean()) if (matches > 0).any() else float("nan")
