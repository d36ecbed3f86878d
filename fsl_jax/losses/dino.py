"""Self-distillation between views of a photo, with the centring that keeps it from collapse."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fsl_jax.ops.norm import l2_normalise
from fsl_jax.types import Mean, PerItem

KOLEO_EPSILON = 1e-8
"""Keeps the logarithm finite where two embeddings are one."""


def self_distillation(
    student: Float[Array, "b v k"],
    teacher: Float[Array, "b g k"],
    centre: Float[Array, "k"],
    *,
    student_temperature: float,
    teacher_temperature: float | Float[Array, ""],
    spread: int = 0,
) -> tuple[PerItem, dict[str, Mean]]:
    """Compares what the student says of each view with what the teacher says of each other large one.

    Args:
      student: Logits of all views; the first g are the teacher's.
      teacher: Logits of the large views; no gradient goes through them.
      centre: Taken from the teacher's logits.
      student_temperature: Divides the student's logits; above 0, 0.1 as published.
      teacher_temperature: Divides the teacher's; smaller sharpens, 0.04 to 0.07.
      spread: Where above 0, the centre is not looked at, and `spread_evenly` makes the teacher's answers in so many
        iterations.

    Returns:
      Cross entropy of each pair of views, [b, g, v], where a view with itself is masked; and figures that tell a
      collapse: "teacher_entropy" of a view (log k where it says nothing), "teacher_student_kl" (0 where student and
      teacher say one thing of all views), and "teacher_mean_entropy", of the mean over photos (0 where all photos are
      one; under `spread` near log k always, since photos that are one then get uniform answers).

    References:
      Caron et al. 2021, https://arxiv.org/abs/2104.14294, eq. 1 to 4 and section 5.3.
    """
    told = jax.lax.stop_gradient(teacher)
    if spread:
        targets = spread_evenly(told, temperature=teacher_temperature, iterations=spread)
    else:
        targets = jax.nn.softmax((told - centre[None, None, :]) / teacher_temperature)
    log_student = jax.nn.log_softmax(student / student_temperature)
    cross = -jnp.einsum("bgk,bvk->bgv", targets, log_student, precision=jax.lax.Precision.HIGHEST)
    counts = other_views(cross.shape[1], cross.shape[2])[None]
    loss = PerItem(jnp.where(counts, cross, 0.0), jnp.broadcast_to(counts, cross.shape))
    entropy = entropies(targets)
    divergence = jax.lax.stop_gradient(cross) - entropy[:, :, None]
    figures = {
        "teacher_entropy": Mean.of(entropy),
        "teacher_student_kl": Mean(
            jnp.sum(jnp.where(counts, divergence, 0.0)), jnp.sum(loss.mask.astype(jnp.float32))
        ),
        "teacher_mean_entropy": Mean.of(entropies(jnp.mean(targets, axis=(0, 1)))),
    }
    return loss, figures


def other_views(large: int, views: int) -> Bool[Array, "g v"]:
    """Marks the pairs of a large view and another view."""
    return jnp.arange(large)[:, None] != jnp.arange(views)[None, :]


def entropies(probabilities: Float[Array, "*n k"]) -> Float[Array, "*n"]:
    """Returns the entropy of each distribution in nats; 0 log 0 is 0."""
    return jnp.sum(jax.scipy.special.entr(probabilities), axis=-1)


def moved_centre(
    centre: Float[Array, "k"], teacher: Float[Array, "b g k"], *, momentum: float
) -> Float[Array, "k"]:
    """Moves the centre towards the mean of the teacher's logits; the batch is one, however many devices share it."""
    return momentum * centre + (1 - momentum) * jnp.mean(jax.lax.stop_gradient(teacher), axis=(0, 1))


def spread_evenly(
    teacher: Float[Array, "b g k"], *, temperature: float | Float[Array, ""], iterations: int
) -> Float[Array, "b g k"]:
    """Makes probabilities of which all prototypes get an equal part over the batch, by Sinkhorn and Knopp.

    Prototypes and views are normalised in turn, views last, as logarithms; the batch is one, however many devices
    share it.

    Args:
      teacher: Logits.
      temperature: Divides them; above 0.
      iterations: At least 1; 3 as published.

    References:
      Caron et al. 2020, https://arxiv.org/abs/2006.09882, section 3.1; in the place of centring, Oquab et al. 2023,
      https://arxiv.org/abs/2304.07193, section 4.
    """
    logs = teacher / temperature
    for _ in range(iterations):
        logs = logs - jax.nn.logsumexp(logs, axis=(0, 1), keepdims=True)
        logs = jax.nn.log_softmax(logs, axis=-1)
    return jnp.exp(logs)


def koleo(embeddings: Float[Array, "b d"]) -> PerItem:
    """Grows where an embedding has another one close by: it spreads a batch over the sphere.

    Args:
      embeddings: Of different photos, at least 2; they are brought to length 1. A photo that is there twice is its
        own nearest.

    Returns:
      The negative logarithm of each one's distance to the nearest other.

    References:
      The entropy estimator of Kozachenko and Leonenko: Sablayrolles et al. 2019, https://arxiv.org/abs/1806.03198,
      section 3.2; in self-distillation, weight 0.1, Oquab et al. 2023, https://arxiv.org/abs/2304.07193.
    """
    unit = l2_normalise(embeddings)
    similarity = jax.lax.stop_gradient(jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST))
    itself = jnp.eye(unit.shape[0], dtype=bool)
    nearest = jnp.argmax(jnp.where(itself, -jnp.inf, similarity), axis=1)
    distance = jnp.sqrt(jnp.sum(jnp.square(unit - unit[nearest]), axis=1) + KOLEO_EPSILON**2)
    return PerItem(-jnp.log(distance), jnp.ones_like(distance, bool))
