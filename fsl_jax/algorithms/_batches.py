"""What methods over flat batches share: one network, an objective with parameters of its own, prototypes in test."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsl_jax.algorithms.base import Frozen, Variables, over_tasks, still
from fsl_jax.algorithms.protonet import prototypes
from fsl_jax.losses.distances import DISTANCES
from fsl_jax.models.vit import attention_of
from fsl_jax.ops.norm import at_least_float32, l2_normalise
from fsl_jax.types import Aux, Batch, Collections, Episode, Key, Mean, Params, Scalar, Step

MEMORY = "memory"
"""Collection of embeddings of earlier steps; the others hold the network's, such as running statistics."""
SAMPLE = 64
"""Photos of a batch, the first ones, whose distances are logged: quantiles of all would cost more than the loss."""
LEAST_FOR_DIMENSIONS = 16
"""Photos: fewer cannot lie in many dimensions, whatever the network does."""
COLLAPSED = 0.01
"""Distances of almost all photos below this share of the embeddings' length: nothing is told apart any more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchAlgorithm:
    """A method whose loss is that of one flat batch; subclasses give `objective`.

    Parameters are in two groups, "network" and "objective", so that rules of the optimiser can name them.

    Attributes:
      network: Photos to (embedding, intermediates).
      norm: Its norm mode.
      labels: Labels that are trained on.
      distance: By which photos are compared, of `losses.distances.DISTANCES`.
      normalised: Whether embeddings are brought to length 1.
      body_place: Where in its variables the embedding network's lie.
    """

    network: nn.Module
    norm: str
    labels: int
    distance: str
    normalised: bool
    body_place: ClassVar[tuple[str, ...]] = ("network",)

    @property
    def way(self) -> None:
        """Tasks of any number of labels can be asked about."""
        return None

    def objective_params(self, key: Key, dimensions: int) -> Params:
        """Makes the parameters of the objective, such as one proxy a label."""
        raise NotImplementedError

    def objective(
        self, params: Params, embedding: Float[Array, "b d"], batch: Batch, memory: Any, key: Key
    ) -> tuple[Scalar, dict[str, Mean]]:
        """Returns loss and figures of a batch's embeddings."""
        raise NotImplementedError

    def first_memory(self, dimensions: int) -> dict[str, Any]:
        """Makes an empty memory; none is kept here."""
        del dimensions
        return {}

    def remember(self, memory: Any, embedding: Float[Array, "b d"], batch: Batch) -> dict[str, Any]:
        """Returns the memory after a batch."""
        del embedding, batch
        return memory

    def init(self, key: Key, sample: Batch) -> Variables:
        """Makes the first variables from the shapes of photos."""
        of_network, of_objective = jax.random.split(key)
        (embedding, _), variables = self.network.init_with_output(
            of_network, sample.image, statistics="batch"
        )
        collections = dict(variables)
        # A network without parameters, such as one on features, has no collection of them.
        params = collections.pop("params", {})
        dimensions = embedding.shape[-1]
        return Variables(
            params={"network": params, "objective": self.objective_params(of_objective, dimensions)},
            collections={
                **{name: {"network": values} for name, values in collections.items()},
                MEMORY: self.first_memory(dimensions),
            },
        )

    def embed(
        self, params: Params, collections: Collections, images: Float[Array, "n h w c"], **call: Any
    ) -> tuple[Float[Array, "n d"], Collections]:
        """Runs the network, and returns embeddings and its collections after it."""
        own = {name: values["network"] for name, values in collections.items() if name != MEMORY}
        (embedding, _), gathered = self.network.apply(
            {"params": params["network"], **own}, images, mutable=list(own), **call
        )
        wide = at_least_float32(embedding)
        after = {name: {"network": values} for name, values in gathered.items()}
        return (l2_normalise(wide) if self.normalised else wide), after

    def loss(self, params: Params, collections: Collections, batch: Batch, key: Key) -> tuple[Scalar, Aux]:
        """Embeds a batch and compares its photos; the batch is one, however many devices share it."""
        of_network, of_objective = jax.random.split(key)
        embedding, gathered = self.embed(
            params, collections, batch.image, statistics="batch", rngs={"dropout": of_network}
        )
        memory = collections[MEMORY]
        loss, metrics = self.objective(params["objective"], embedding, batch, memory, of_objective)
        remembered = self.remember(memory, jax.lax.stop_gradient(embedding), batch)
        after = {**gathered, MEMORY: remembered}
        return loss, Aux(after, {**metrics, **spread_figures(embedding)})

    def gradient(
        self,
        params: Params,
        collections: Collections,
        batch: Batch,
        key: Key,
        *,
        step: Step = 0,
        frozen: Frozen = None,
    ) -> tuple[tuple[Scalar, Aux], Params]:
        """Returns ((loss, aux), gradient)."""
        del step

        def loss(params: Params) -> tuple[Scalar, Aux]:
            return self.loss(still(params, frozen), collections, batch, key)

        return jax.value_and_grad(loss, has_aux=True)(params)

    def outputs(self, variables: Variables, images: Float[Array, "n h w c"]) -> dict[str, Array]:
        """Embeds photos with running statistics, so that a photo's embedding is its own.

        A vision transformer's have "attention" [n, heads, rows, columns] besides: where the embedding looks.
        """
        found = self.embedding_variables(variables)
        given = {name: values["network"] for name, values in found.items() if "network" in values}
        ran: Any = self.network.apply(given, images, statistics="running")
        embedding, intermediates = ran
        wide = at_least_float32(self.read_out(embedding, intermediates))
        looks = attention_of(intermediates)
        return {
            "embedding": l2_normalise(wide) if self.normalised else wide,
            **({} if looks is None else {"attention": looks}),
        }

    def read_out(self, embedding: Float[Array, "n d"], intermediates: Mapping[str, Array]) -> Array:
        """Returns what a photo is known by where it is judged and used: the network's embedding."""
        del intermediates
        return embedding

    def embedding_variables(self, variables: Variables) -> Collections:
        """Returns the "params" and collections by which photos are embedded."""
        return {"params": variables.params, **variables.collections}

    def predict(self, variables: Variables, episode: Episode) -> Float[Array, "t q way"]:
        """Classifies queries by the nearest mean of a label's support embeddings."""

        def of_task(task: Episode) -> Float[Array, "q way"]:
            supports = task.support.label.shape[0]
            photos = jnp.concatenate([task.support.image, task.query.image])
            embedding = self.outputs(variables, photos)["embedding"]
            means = prototypes(embedding[:supports], way=task.way)
            return -DISTANCES[self.distance](embedding[supports:], means)

        return over_tasks(of_task, episode, wanted=0)

    def after_loading(self, variables: Variables) -> Variables:
        """Leaves the variables as they are."""
        return variables

    def after_update(self, variables: Variables) -> Variables:
        """Leaves the variables as they are."""
        return variables

    def warning(self, figures: Mapping[str, float], step: int) -> str | None:
        """Warns where nearly all photos have come to lie in one place, which no gradient leads out of."""
        del step
        far, length = figures.get("distance_q95"), figures.get("embedding_norm")
        if far is None or length is None or not far < COLLAPSED * max(length, 1e-12):
            return None
        return (
            f"the embeddings have collapsed: 95 % of distances are below {far:.2g}, embeddings are {length:.2g} long. "
            "Photos in one place have no gradient that parts them: lower --config.optimizer.learning_rate, warm up "
            "(--config.optimizer.warmup), or mine softer (semi_hard, batch_all)"
        )

    def facts(self) -> dict[str, str | int | float | bool]:
        """Names the norm mode and how photos are compared."""
        return {
            "norm_mode": self.norm,
            "transductive": False,
            "distance": self.distance,
            "normalised": self.normalised,
        }


def spread_figures(embedding: Float[Array, "b d"]) -> dict[str, Mean]:
    """Returns the mean length of the first embeddings, quantiles of their distances, and their `dimensions`."""
    some = jax.lax.stop_gradient(embedding[:SAMPLE])
    apart = DISTANCES["euclidean"](some, some)
    above = jnp.arange(some.shape[0])[:, None] < jnp.arange(some.shape[0])[None, :]
    values = jnp.nanquantile(
        jnp.where(above, apart, jnp.nan), jnp.asarray([0.05, 0.5, 0.95]), method="nearest"
    )
    names = ("distance_q05", "distance_q50", "distance_q95")
    return {
        "embedding_norm": Mean.of(jnp.linalg.norm(some, axis=1)),
        **({"embedding_dimensions": Mean.of(dimensions(some))} if len(some) >= LEAST_FOR_DIMENSIONS else {}),
        **{name: Mean.of(values[i]) for i, name in enumerate(names)},
    }


def dimensions(points: Float[Array, "n d"]) -> Float[Array, ""]:
    """Returns in how many dimensions points lie apart: the participation ratio of their covariance's eigenvalues.

    (sum of eigenvalues)^2 / sum of their squares: k where the variance is evenly in k directions, at most n - 1; 0 of
    equal points. By the n x n inner products, whose eigenvalues are the same.

    References:
      Gao et al. 2017, https://doi.org/10.1101/214262.
    """
    centred = at_least_float32(points - jnp.mean(points, axis=0, keepdims=True))
    products = jnp.matmul(centred, centred.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(jnp.square(products))
    return jnp.where(squares > 0, jnp.square(jnp.trace(products)) / jnp.where(squares > 0, squares, 1), 0)
