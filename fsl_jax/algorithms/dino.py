"""DINO: a student learns without labels to say of each view of a photo what its own moving average says of another.

The student sees all views, the teacher the large ones. What is used afterwards is the teacher's network.

References:
  Caron et al. 2021, https://arxiv.org/abs/2104.14294; as the start of few-shot classification and of retrieval,
  Bhattacharyya et al. 2022, https://arxiv.org/abs/2201.08951.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Float

from fsl_jax.algorithms._batches import MEMORY, BatchAlgorithm, spread_figures
from fsl_jax.algorithms.base import Frozen, Variables, still
from fsl_jax.losses import dino, reduce
from fsl_jax.models.heads import ProjectionHead
from fsl_jax.models.vit import ViT
from fsl_jax.ops.norm import at_least_float32
from fsl_jax.types import LOCAL, Aux, Batch, Collections, Key, Mean, Params, Scalar, Step

TEACHER, CENTRE = "teacher", "centre"
"""Collections."""
SAME_FOR_ALL = 0.01
"""Share of log k: below it the entropy of the mean over photos tells that all photos have become one."""
SAYS_NOTHING = 0.995
"""Share of log k: above it the teacher's answers are as good as uniform."""
FEW_DIMENSIONS = 4.0
"""Of a batch's embeddings, below which neighbours tell little. On the built-in catalogue a run that fails stays at 3;
with answers spread and embeddings kept apart it comes from 3 to 13 in 100 steps, and to 20 in 400."""
EARLY_STEPS, EARLY_SHARE = 200, 0.05
"""Embeddings of a network that has not learnt yet lie in few dimensions."""
READOUTS = ("embedding", "patches")
LEAST_PHOTOS = 2
"""Of a batch whose photos are kept apart."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dino(BatchAlgorithm):
    """Self-distillation without labels.

    The collections hold the teacher and the centre, since the loss looks at both; `extra` counts updates.

    Attributes:
      head: From embeddings to the similarities that are compared; of student and teacher each its own.
      updates: Of the whole run, over which the momentum goes from `momentum` to 1.
      momentum: Of the teacher at the start.
      student_temperature: Divides the student's logits.
      teacher_temperature: Divides the teacher's, after `temperature_warmup` steps.
      first_temperature: The same at the start.
      temperature_warmup: Steps.
      centre_momentum: Of the centre.
      frozen_steps: Steps at the start in which the head's prototypes stay.
      spread: Where above 0, the teacher's answers are spread over the prototypes in so many iterations, in the place
        of centring; see `losses.dino.spread_evenly`.
      koleo: Weight of `losses.dino.koleo` on the student's embeddings of the first view.
      readout: What photos are known by where they are judged and used: the network's "embedding", or "patches", all
        patch tokens of a vision transformer side by side, which tell what is where in a photo.
    """

    head: ProjectionHead
    updates: int
    momentum: float
    student_temperature: float
    teacher_temperature: float
    first_temperature: float
    temperature_warmup: int
    centre_momentum: float
    frozen_steps: int
    spread: int = 0
    koleo: float = 0.0
    readout: str = "embedding"

    def objective_params(self, key: Key, dimensions: int) -> Params:
        """Makes the head."""
        return self.head.init(key, jnp.zeros((1, dimensions)))["params"]

    def init(self, key: Key, sample: Batch) -> Variables:
        """Makes student, an equal teacher, and a centre of 0.

        Raises:
          ValueError: The network keeps statistics of batches, which student and teacher cannot share, or has no patch
            tokens to read out.
        """
        if self.readout == "patches" and not isinstance(self.network, ViT):
            raise ValueError(
                "config.algorithm.options.readout 'patches' takes a vision transformer without a head, and not frozen: "
                "set --config.model.name=vit, config.model.head.sizes to () and config.model.frozen to False, or "
                "--config.algorithm.options.readout=embedding"
            )
        first = super().init(key, sample)
        kept = [name for name in first.collections if name != MEMORY]
        if kept:
            raise ValueError(
                f"method 'dino' takes a network without statistics of batches; this one keeps {', '.join(kept)}: "
                "set --config.model.name=vit"
            )
        centre = jnp.zeros(self.head.outputs)
        start = Variables(first.params, {CENTRE: centre}, {"updates": jnp.zeros((), jnp.int32)})
        return self.after_loading(start)

    def after_loading(self, variables: Variables) -> Variables:
        """Makes the teacher equal to the student, also where that has just been given published weights."""
        collections = {**variables.collections, TEACHER: jax.tree.map(jnp.copy, variables.params)}
        return variables.replace(collections=collections)  # type: ignore[attr-defined]

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
        """Returns ((loss, aux), gradient); that of the prototypes is 0 in the first steps."""

        def loss(params: Params) -> tuple[Scalar, Aux]:
            return self.loss(still(params, frozen), collections, batch, key, step=step)

        result, gradients = jax.value_and_grad(loss, has_aux=True)(params)
        if self.frozen_steps:
            moves = jnp.asarray(step) >= self.frozen_steps
            head = traverse_util.path_aware_map(
                lambda path, g: jnp.where(moves, g, 0) if path[0] in ("prototypes", "lengths") else g,
                gradients["objective"],
            )
            gradients = {**gradients, "objective": head}
        return result, gradients

    def loss(
        self, params: Params, collections: Collections, batch: Batch, key: Key, *, step: Step = 0
    ) -> tuple[Scalar, Aux]:
        """Compares the views of each photo; the batch is one, however many devices share it.

        Args:
          params: Of the student.
          collections: Teacher and centre.
          batch: Photos [b, 2, h, w, c], with the small views, if any, in the column "local"; see `data.multicrop`.
          key: Of what the student leaves out.
          step: Taken so far.

        Raises:
          ValueError: Photos are to be kept apart, and there is one.
        """
        if len(batch.image) < LEAST_PHOTOS and (self.spread or self.koleo):
            raise ValueError(
                "config.sampler.options.batch is 1; config.algorithm.options.spread and .koleo keep the photos of a "
                f"batch apart, and take at least {LEAST_PHOTOS}"
            )
        student, embedding = self._views(params, batch, key)
        large = dataclasses.replace(batch, columns={})
        teacher, _ = self._views(jax.lax.stop_gradient(collections[TEACHER]), large, None)
        elements, figures = dino.self_distillation(
            student,
            teacher,
            collections[CENTRE],
            student_temperature=self.student_temperature,
            teacher_temperature=self.temperature(step),
            spread=self.spread,
        )
        centre = dino.moved_centre(collections[CENTRE], teacher, momentum=self.centre_momentum)
        after = {**collections, CENTRE: centre}
        loss = reduce.mean(elements)
        if self.koleo:
            apart = reduce.mean(dino.koleo(embedding))
            loss, figures = loss + self.koleo * apart, {**figures, "koleo": Mean.of(apart)}
        return loss, Aux(after, {**figures, **spread_figures(embedding)})

    def _views(
        self, params: Params, batch: Batch, key: Key | None
    ) -> tuple[Float[Array, "b v k"], Float[Array, "b d"]]:
        """Returns the logits of all views, the large ones first, and the embeddings of the first view."""
        groups = [batch.image, *([batch.columns[LOCAL]] if LOCAL in batch.columns else [])]
        embeddings = []
        for i, views in enumerate(groups):
            dropped: Any = {} if key is None else {"rngs": {"dropout": jax.random.fold_in(key, i)}}
            photos = views.reshape(-1, *views.shape[2:])
            embedding, _ = self.network.apply(
                {"params": params["network"]}, photos, statistics="batch", **dropped
            )
            embeddings.append(embedding.reshape(*views.shape[:2], -1))
        joint = jnp.concatenate(embeddings, axis=1)
        logits: Any = self.head.apply({"params": params["objective"]}, joint.reshape(-1, joint.shape[-1]))
        return logits.reshape(*joint.shape[:2], -1), at_least_float32(joint[:, 0])

    def temperature(self, step: Step) -> Float[Array, ""]:
        """Returns the teacher's temperature, which rises evenly for `temperature_warmup` steps."""
        share = jnp.minimum(jnp.asarray(step, jnp.float32) / max(self.temperature_warmup, 1), 1.0)
        first = self.first_temperature if self.temperature_warmup else self.teacher_temperature
        return first + share * (self.teacher_temperature - first)

    def momentum_of(self, update: Step) -> Float[Array, ""]:
        """Returns the teacher's momentum, which goes to 1 by half a cosine."""
        share = jnp.minimum(jnp.asarray(update, jnp.float32) / self.updates, 1.0)
        return 1 - (1 - self.momentum) * (1 + jnp.cos(math.pi * share)) / 2

    def after_update(self, variables: Variables) -> Variables:
        """Moves the teacher towards the student."""
        count = variables.extra["updates"]
        stays = self.momentum_of(count)
        teacher = jax.tree.map(
            lambda old, new: stays.astype(old.dtype) * old + (1 - stays).astype(old.dtype) * new,
            variables.collections[TEACHER],
            variables.params,
        )
        collections = {**variables.collections, TEACHER: teacher}
        return variables.replace(collections=collections, extra={"updates": count + 1})  # type: ignore[attr-defined]

    def embedding_variables(self, variables: Variables) -> Collections:
        """Returns those of the teacher."""
        return {"params": variables.collections[TEACHER]}

    def read_out(self, embedding: Float[Array, "n d"], intermediates: Mapping[str, Array]) -> Array:
        """Returns the embedding, or the patch tokens [n, patches * d]."""
        if self.readout == "embedding":
            return embedding
        tokens = intermediates["tokens"][:, 1 + self.network.registers :]
        return tokens.reshape(tokens.shape[0], -1)

    def warning(self, figures: Mapping[str, float], step: int) -> str | None:
        """Warns of the two ways in which self-distillation collapses, and of embeddings in few dimensions."""
        most = math.log(self.head.outputs)
        advice = "lower --config.optimizer.learning_rate, or"
        if figures.get("teacher_mean_entropy", most) < SAME_FOR_ALL * most:
            return (
                "the teacher says the same of all photos: one prototype has taken over. Centring holds against it: "
                f"{advice} lower --config.algorithm.options.centre_momentum"
            )
        dimensions = figures.get("embedding_dimensions", math.inf)
        if dimensions < FEW_DIMENSIONS and step > max(EARLY_STEPS, EARLY_SHARE * self.updates):
            without = {"spread=3": self.spread, "koleo=1.0": self.koleo}
            held = " ".join(
                f"--config.algorithm.options.{flag}" for flag, value in without.items() if not value
            )
            return (
                f"a batch's embeddings lie in {dimensions:.1f} dimensions, so that neighbours tell little. What holds "
                f"them apart: {held or 'a higher --config.algorithm.options.koleo'}, and photos that differ"
            )
        if figures.get("teacher_entropy", 0.0) > SAYS_NOTHING * most:
            if self.spread:
                return (
                    "the teacher's answers are uniform: it no longer tells photos apart. Lower "
                    "--config.optimizer.learning_rate, or raise --config.algorithm.options.koleo"
                )
            return (
                "the teacher's answers are uniform, so there is nothing to learn from them. Sharpening holds against "
                f"it: {advice} lower --config.algorithm.options.teacher_temperature"
            )
        return None

    def facts(self) -> dict[str, Any]:
        """Says that the teacher is judged."""
        return {**super().facts(), "network": "teacher", "readout": self.readout}


def make(
    body: nn.Module,
    *,
    labels: int,
    updates: int,
    outputs: int,
    hidden: int,
    bottleneck: int,
    learned_lengths: bool,
    momentum: float,
    student_temperature: float,
    teacher_temperature: float,
    first_temperature: float,
    temperature_warmup: int,
    centre_momentum: float,
    frozen_steps: int,
    spread: int = 0,
    koleo: float = 0.0,
    readout: str = "embedding",
    distance: str = "cosine",
    normalised: bool = False,
) -> Dino:
    """Builds DINO on a network; labels are not looked at.

    Args:
      body: Photos of several sizes to (embedding, intermediates), such as `models.vit`.
      labels: Not used.
      updates: Of the whole run.
      outputs: Prototypes of the head; see `models.heads.ProjectionHead`.
      hidden: Width of the head.
      bottleneck: Of the head.
      learned_lengths: Of the head's prototypes.
      momentum: See `Dino`, and so for the following.
      student_temperature: Above 0.
      teacher_temperature: Above 0.
      first_temperature: Above 0.
      temperature_warmup: At least 0.
      centre_momentum: 0 to below 1.
      frozen_steps: At least 0.
      spread: At least 0.
      koleo: At least 0.
      readout: "embedding" or "patches".
      distance: By which photos are compared in test.
      normalised: Whether embeddings are brought to length 1 in test.

    Raises:
      ValueError: A value is out of its range.
    """
    above_zero = {
        "student_temperature": student_temperature,
        "teacher_temperature": teacher_temperature,
        "first_temperature": first_temperature,
        "updates": updates,
        "outputs": outputs,
        "hidden": hidden,
        "bottleneck": bottleneck,
    }
    for name, value in above_zero.items():
        if not value > 0:
            raise ValueError(f"config.algorithm.options.{name} is {value}; expected above 0")
    for name, value in {"momentum": momentum, "centre_momentum": centre_momentum}.items():
        if not 0 <= value < 1:
            raise ValueError(f"config.algorithm.options.{name} is {value}; expected 0 to below 1")
    counts = {"temperature_warmup": temperature_warmup, "frozen_steps": frozen_steps, "spread": spread}
    for name, value in counts.items():
        if value < 0:
            raise ValueError(f"config.algorithm.options.{name} is {value}; expected steps, at least 0")
    if koleo < 0:
        raise ValueError(f"config.algorithm.options.koleo is {koleo}; expected a weight, at least 0")
    if readout not in READOUTS:
        raise ValueError(
            f"config.algorithm.options.readout is {readout!r}; expected one of {', '.join(READOUTS)}"
        )
    return Dino(
        network=body,
        norm=body.norm,
        labels=labels,
        distance=distance,
        normalised=normalised,
        head=ProjectionHead(
            hidden, bottleneck, outputs, learned_lengths, getattr(body, "dtype", jnp.float32)
        ),
        updates=updates,
        momentum=momentum,
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
        first_temperature=first_temperature,
        temperature_warmup=temperature_warmup,
        centre_momentum=centre_momentum,
        frozen_steps=frozen_steps,
        spread=spread,
        koleo=koleo,
        readout=readout,
    )
