"""The contract that every method fulfils, and what methods over few-shot tasks share.

An algorithm knows neither files nor devices nor optimisers. The step hands it prepared (float) photos: tasks that
were spread over devices come back as one mean; a flat batch is one batch, however many devices share it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from fsl_jax.losses import reduce, softmax
from fsl_jax.models.layers import Statistics, is_transductive, norm_statistics
from fsl_jax.types import Aux, Batch, Collections, Episode, Key, Mean, Params, Scalar, Step

Result = TypeVar("Result")
Frozen = Any
"""Whether each parameter stays as it is: a pytree of Python booleans like the parameters; None is none."""


@flax.struct.dataclass
class Variables:
    """What a method has learned.

    Attributes:
      params: Moved by the gradient.
      collections: Moved by the forward pass, such as running statistics.
      extra: Moved by the method itself, such as a teacher.
    """

    params: Params
    collections: Collections = flax.struct.field(default_factory=dict)
    extra: Any = flax.struct.field(default_factory=dict)


class Algorithm(Protocol):
    """A published method: model, loss and prediction.

    Attributes:
      network: Photos to (output, intermediates).
      body_place: Where in its variables the embedding network's lie, for pretrained weights.
    """

    network: nn.Module
    body_place: tuple[str, ...]

    @property
    def way(self) -> int | None:
        """Labels of a task that it can be asked about; None for any number."""

    def init(self, key: Key, sample: Batch | Episode) -> Variables:
        """Makes the first variables; `sample` has prepared photos."""

    def gradient(
        self,
        params: Params,
        collections: Collections,
        batch: Any,
        key: Key,
        *,
        step: Step = 0,
        frozen: Frozen = None,
    ) -> tuple[tuple[Scalar, Aux], Params]:
        """Returns ((loss, aux), gradient); `key` is one key, or one a task where tasks are given.

        `step` is how many steps were taken, for methods with a schedule. Parameters that are frozen have a gradient of
        0, which costs nothing.
        """

    def outputs(self, variables: Variables, images: Float[Array, "n h w c"]) -> dict[str, Array]:
        """Returns at least "embedding" [n, d]; a photo's does not depend on the other photos."""

    def embedding_variables(self, variables: Variables) -> Collections:
        """Returns the "params" and collections by which photos are embedded, nested as those of the method are."""

    def predict(self, variables: Variables, episode: Episode) -> Float[Array, "t q way"]:
        """Returns logits of the queries."""

    def after_loading(self, variables: Variables) -> Variables:
        """Is given the first variables, after published weights were put into their place."""

    def after_update(self, variables: Variables) -> Variables:
        """Moves what no gradient moves."""

    def warning(self, figures: Mapping[str, float], step: int) -> str | None:
        """Says what is wrong where the logged figures of a run, by name, show it after so many steps."""

    def facts(self) -> dict[str, str | int | float | bool]:
        """Says what belongs to every figure of this method, such as its norm mode."""


def still(params: Params, frozen: Frozen) -> Params:
    """Makes frozen parameters constants, so that no backward pass is computed for what they alone need."""
    if frozen is None:
        return params
    return jax.tree.map(lambda p, stays: lax.stop_gradient(p) if stays else p, params, frozen)


def _largest_divisor(count: int, limit: int) -> int:
    return max(part for part in range(1, min(count, limit) + 1) if count % part == 0)


def chunk_of_tasks(tasks: int, wanted: int) -> int:
    """Returns how many tasks are computed side by side: a divisor of `tasks`.

    Args:
      tasks: Tasks on one device.
      wanted: At most so many; 0 takes one on a CPU, where tasks side by side only leave the cache, and all on an
        accelerator, which they fill.
    """
    limit = wanted or (1 if jax.default_backend() == "cpu" else tasks)
    return _largest_divisor(tasks, limit)


def sum_over_tasks(function: Callable[[Any], Result], tasks: PyTree, *, chunk: int) -> Result:
    """Adds a function's results over the leading axis of its input, in memory for one chunk.

    Args:
      function: Of one task.
      tasks: Arrays with a leading task axis.
      chunk: Tasks side by side; a divisor of their number.

    Returns:
      The sum; leaves keep their shapes.
    """
    count = jax.tree.leaves(tasks)[0].shape[0]
    chunks = (
        tasks if chunk == 1 else jax.tree.map(lambda a: a.reshape(count // chunk, chunk, *a.shape[1:]), tasks)
    )

    # Compiled as a function, so that it is traced once for its shapes and for the loop.
    @jax.jit
    def sum_of(part: Any) -> Result:
        if chunk == 1:
            return function(part)
        return jax.tree.map(lambda a: jnp.sum(a, axis=0), jax.vmap(function)(part))

    if count == chunk:
        return sum_of(jax.tree.map(lambda a: a[0], chunks))
    shapes = jax.eval_shape(sum_of, jax.tree.map(lambda a: a[0], chunks))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    return lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, sum_of(part)), None), zeros, chunks)[0]


def over_tasks(function: Callable[[Episode], Array], episode: Episode, *, wanted: int) -> Array:
    """Stacks a function's results over the tasks of a meta-batch; `wanted` as in `chunk_of_tasks`."""
    chunk = chunk_of_tasks(episode.tasks, wanted)
    if chunk == episode.tasks:
        return jax.vmap(function)(episode)
    return lax.map(function, episode, batch_size=chunk)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeAlgorithm:
    """A method whose loss is the mean over few-shot tasks; subclasses say what happens in one task.

    Attributes:
      network: Photos to (output, intermediates).
      norm: Its norm mode.
      chunk: Tasks side by side; see `chunk_of_tasks`.
      body_place: Where in its variables the embedding network's lie.
    """

    network: nn.Module
    norm: str
    chunk: int = 0
    body_place: ClassVar[tuple[str, ...]] = ()

    @property
    def way(self) -> int | None:
        """Labels of a task that it can be asked about; None for any number."""
        return None

    def task_loss(
        self, params: Params, collections: Collections, task: Episode, key: Key, step: Step
    ) -> tuple[Scalar, Aux]:
        """Returns the loss of one task, whose arrays have no task axis, after so many steps of training."""
        raise NotImplementedError

    def task_logits(self, variables: Variables, task: Episode) -> Float[Array, "q way"]:
        """Returns the logits of one task's queries."""
        raise NotImplementedError

    def init(self, key: Key, sample: Episode) -> Variables:
        """Makes the first variables from the shapes of an episode."""
        images = sample.support.image[0]
        variables = dict(self.network.init(key, images, statistics="batch"))
        return Variables(params=variables.pop("params"), collections=variables)

    def loss(
        self,
        params: Params,
        collections: Collections,
        batch: Episode,
        key: Key,
        *,
        step: Step = 0,
    ) -> tuple[Scalar, Aux]:
        """Averages the loss over the tasks of a meta-batch."""
        chunk = chunk_of_tasks(batch.tasks, self.chunk)
        total = sum_over_tasks(
            lambda given: self.task_loss(params, collections, given[0], given[1], step),
            (batch, key),
            chunk=chunk,
        )
        return averaged(total, batch.tasks)

    def gradient(
        self,
        params: Params,
        collections: Collections,
        batch: Episode,
        key: Key,
        *,
        step: Step = 0,
        frozen: Frozen = None,
    ) -> tuple[tuple[Scalar, Aux], Params]:
        """Averages loss and gradient over the tasks; a chunk's gradient is taken before the next chunk starts."""
        chunk = chunk_of_tasks(batch.tasks, self.chunk)
        gradient = jax.value_and_grad(
            lambda params, *given: self.task_loss(still(params, frozen), *given), has_aux=True
        )
        total, gradients = sum_over_tasks(
            lambda task: gradient(params, collections, *task, step), (batch, key), chunk=chunk
        )
        return averaged(total, batch.tasks), jax.tree.map(lambda a: a / batch.tasks, gradients)

    def embedding_variables(self, variables: Variables) -> Collections:
        """Returns the "params" and collections by which photos are embedded."""
        return {"params": variables.params, **variables.collections}

    def predict(self, variables: Variables, episode: Episode) -> Float[Array, "t q way"]:
        """Returns the logits of every task's queries."""
        return over_tasks(lambda task: self.task_logits(variables, task), episode, wanted=self.chunk)

    def outputs(self, variables: Variables, images: Float[Array, "n h w c"]) -> dict[str, Array]:
        """Embeds photos with running statistics, so that a photo's embedding is its own."""
        embedding, _ = self.apply(variables.params, variables.collections, images, statistics="running")
        return {"embedding": embedding}

    def apply(
        self,
        params: Params,
        collections: Collections,
        images: Float[Array, "n h w c"],
        *,
        statistics: Statistics,
    ) -> tuple[Array, Any]:
        """Runs the network without keeping new statistics."""
        return self.network.apply({"params": params, **collections}, images, statistics=statistics)

    def apply_and_gather(
        self, params: Params, collections: Collections, images: Float[Array, "n h w c"]
    ) -> tuple[Array, Collections]:
        """Runs the network on its photos' statistics, and returns its output and the running statistics after it."""
        (output, _), gathered = self.network.apply(
            {"params": params, **collections}, images, statistics="batch", mutable=list(collections)
        )
        return output, dict(gathered)

    def after_loading(self, variables: Variables) -> Variables:
        """Leaves the variables as they are."""
        return variables

    def after_update(self, variables: Variables) -> Variables:
        """Leaves the variables as they are."""
        return variables

    def warning(self, figures: Mapping[str, float], step: int) -> str | None:
        """Has nothing to warn of."""
        del figures, step
        return None

    def facts(self) -> dict[str, str | int | float | bool]:
        """Names the norm mode, and whether it makes predictions transductive."""
        return {"norm_mode": self.norm, "transductive": is_transductive(self.norm)}


class OnePass(EpisodeAlgorithm):
    """A method that embeds support and query photos in one pass, and has no step between them."""

    def logits(
        self, support: Float[Array, "s d"], query: Float[Array, "q d"], *, way: int
    ) -> Float[Array, "q way"]:
        """Returns the logits of one task's queries; support rows are ordered by label, equally many each."""
        raise NotImplementedError

    def task_loss(
        self, params: Params, collections: Collections, task: Episode, key: Key, step: Step
    ) -> tuple[Scalar, Aux]:
        """Classifies the queries among all labels of the episode."""
        del key, step
        embeddings, gathered = self.apply_and_gather(params, collections, _photos(task))
        value, metrics = query_loss(self._split(embeddings, task), task.query.label)
        return value, Aux(gathered, metrics)

    def task_logits(self, variables: Variables, task: Episode) -> Float[Array, "q way"]:
        """Classifies the queries of one task."""
        statistics = norm_statistics(self.norm, training=False)
        embeddings, _ = self.apply(
            variables.params, variables.collections, _photos(task), statistics=statistics
        )
        return self._split(embeddings, task)

    def _split(self, embeddings: Float[Array, "n d"], task: Episode) -> Float[Array, "q way"]:
        supports = task.support.label.shape[0]
        return self.logits(embeddings[:supports], embeddings[supports:], way=task.way)


def _photos(task: Episode) -> Float[Array, "n h w c"]:
    return jnp.concatenate([task.support.image, task.query.image])


def averaged(total: tuple[Scalar, Aux], tasks: int) -> tuple[Scalar, Aux]:
    """Makes means over tasks of summed losses and running statistics; metrics know their own counts."""
    loss, aux = total
    collections = jax.tree.map(lambda a: a / tasks, aux.collections)
    return loss / tasks, Aux(collections, aux.metrics)


def query_loss(logits: Float[Array, "q way"], labels: Array) -> tuple[Scalar, dict[str, Mean]]:
    """Returns mean cross entropy and accuracy of one task's queries."""
    value = reduce.mean(softmax.cross_entropy(logits, labels))
    return value, {"loss": Mean.of(value), "accuracy": Mean.of(softmax.hits(logits, labels))}
