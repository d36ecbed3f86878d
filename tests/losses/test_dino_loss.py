"""Self-distillation against loops over photos and views, written from the paper's algorithm 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsl_jax.losses import dino, reduce

RANDOM = np.random.default_rng(0)


def softmax(values):
    raised = np.exp(values - values.max())
    return raised / raised.sum()


def loop(student, teacher, centre, student_temperature, teacher_temperature):
    losses, entropies, divergences = [], [], []
    for photo in range(len(student)):
        for g in range(teacher.shape[1]):
            target = softmax((teacher[photo, g] - centre) / teacher_temperature)
            entropies.append(-sum(p * np.log(p) for p in target if p > 0))
            for v in range(student.shape[1]):
                if v != g:
                    said = softmax(student[photo, v] / student_temperature)
                    losses.append(-np.sum(target * np.log(said)))
                    divergences.append(np.sum(target * (np.log(target) - np.log(said))))
    return np.mean(losses), np.mean(entropies), np.mean(divergences)


def case(photos, views, outputs):
    student = RANDOM.standard_normal((photos, views, outputs))
    teacher = RANDOM.standard_normal((photos, 2, outputs)) * 0.3
    return student, teacher, RANDOM.standard_normal(outputs) * 0.2


@pytest.mark.parametrize(("photos", "views", "outputs"), [(1, 2, 3), (4, 2, 7), (5, 6, 11), (3, 12, 64)])
def test_loss_and_figures_equal_the_loops(photos, views, outputs):
    student, teacher, centre = case(photos, views, outputs)
    items, figures = dino.self_distillation(
        *map(jnp.asarray, (student, teacher, centre)), student_temperature=0.1, teacher_temperature=0.07
    )
    loss, entropy, divergence = loop(student, teacher, centre, 0.1, 0.07)
    np.testing.assert_allclose(reduce.mean(items), loss, rtol=1e-5)
    np.testing.assert_allclose(figures["teacher_entropy"].value(), entropy, rtol=1e-4)
    np.testing.assert_allclose(figures["teacher_student_kl"].value(), divergence, rtol=1e-4)
    assert items.mask.sum() == photos * (2 * views - 2)


def test_the_gradient_is_the_students_alone_and_equals_differences():
    student, teacher, centre = case(2, 4, 5)

    def loss(student, teacher, centre):
        items, _ = dino.self_distillation(
            student, teacher, centre, student_temperature=0.5, teacher_temperature=0.4
        )
        return reduce.mean(items)

    given = tuple(map(jnp.asarray, (student, teacher, centre)))
    of_student, of_teacher = jax.grad(loss, argnums=(0, 1))(*given)
    assert not np.any(of_teacher)
    # Of a cross entropy: (said - target) / temperature, over the pairs of a view.
    expected = np.zeros_like(student)
    for photo in range(2):
        for g in range(2):
            target = softmax((teacher[photo, g] - centre) / 0.4)
            for v in range(4):
                if v != g:
                    expected[photo, v] += (softmax(student[photo, v] / 0.5) - target) / 0.5 / 12
    np.testing.assert_allclose(of_student, expected, atol=1e-6)


def test_the_entropy_of_the_mean_tells_whether_photos_are_told_apart():
    apart = jnp.asarray(np.repeat(np.eye(8)[:, None], 2, axis=1) * 100.0)
    alike = jnp.asarray(np.tile(np.eye(8)[0], (8, 2, 1)) * 100.0)
    flat = jnp.zeros((8, 2, 8))

    def figures(teacher):
        _, found = dino.self_distillation(
            teacher, teacher, jnp.zeros(8), student_temperature=1.0, teacher_temperature=1.0
        )
        return tuple(
            float(found[name].value())
            for name in ("teacher_entropy", "teacher_student_kl", "teacher_mean_entropy")
        )

    np.testing.assert_allclose(figures(apart), [0, 0, np.log(8)], atol=1e-5)
    np.testing.assert_allclose(figures(alike), [0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(figures(flat), [np.log(8), 0, np.log(8)], atol=1e-5)


def test_the_centre_moves_to_the_mean_of_all_views():
    _, teacher, centre = case(6, 2, 9)
    got = dino.moved_centre(jnp.asarray(centre), jnp.asarray(teacher), momentum=0.9)
    expected = 0.9 * centre + 0.1 * teacher.reshape(-1, 9).mean(axis=0)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def sinkhorn(logits, temperature, iterations):
    """The pseudo code of Caron et al. 2020, appendix: prototypes and photos in turn, as plain sums."""
    shares = np.exp(logits / temperature).T
    shares /= shares.sum()
    for _ in range(iterations):
        for k in range(len(shares)):
            shares[k] /= shares[k].sum() * len(shares)
        for n in range(shares.shape[1]):
            shares[:, n] /= shares[:, n].sum() * shares.shape[1]
    return (shares * shares.shape[1]).T


@pytest.mark.parametrize(("photos", "outputs", "iterations"), [(4, 7, 1), (5, 11, 3), (16, 3, 3)])
def test_answers_are_spread_as_in_the_published_pseudo_code(photos, outputs, iterations):
    _, teacher, _ = case(photos, 4, outputs)
    got = dino.spread_evenly(jnp.asarray(teacher), temperature=0.1, iterations=iterations)
    expected = sinkhorn(teacher.reshape(-1, outputs), 0.1, iterations)
    np.testing.assert_allclose(np.asarray(got).reshape(-1, outputs), expected, rtol=1e-4, atol=1e-7)


def test_spread_answers_use_all_prototypes_where_centred_ones_would_not():
    one_for_all = np.random.default_rng(1).standard_normal((32, 2, 8)) * 0.1
    one_for_all[..., 0] += 5
    got = np.asarray(dino.spread_evenly(jnp.asarray(one_for_all), temperature=0.05, iterations=50))
    np.testing.assert_allclose(got.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(got.mean(axis=(0, 1)), 1 / 8, rtol=1e-2)


def test_without_centring_the_targets_are_the_spread_ones_and_the_centre_is_not_looked_at():
    student, teacher, centre = case(5, 4, 9)
    items, figures = dino.self_distillation(
        *map(jnp.asarray, (student, teacher, centre)),
        student_temperature=0.1,
        teacher_temperature=0.07,
        spread=3,
    )
    targets = sinkhorn(teacher.reshape(-1, 9), 0.07, 3).reshape(teacher.shape)
    losses = [
        -np.sum(targets[photo, g] * np.log(softmax(student[photo, v] / 0.1)))
        for photo in range(5)
        for g in range(2)
        for v in range(4)
        if v != g
    ]
    np.testing.assert_allclose(reduce.mean(items), np.mean(losses), rtol=1e-4)
    entropy = -np.mean(np.sum(targets * np.log(targets), axis=-1))
    np.testing.assert_allclose(figures["teacher_entropy"].value(), entropy, rtol=1e-4)


def test_koleo_is_the_logarithm_of_the_distance_to_the_nearest_other():
    embeddings = RANDOM.standard_normal((9, 5))
    unit = [row / np.sqrt(np.sum(row**2)) for row in embeddings]
    expected = [
        -np.log(min(np.sqrt(np.sum((one - other) ** 2)) for j, other in enumerate(unit) if j != i))
        for i, one in enumerate(unit)
    ]
    items = dino.koleo(jnp.asarray(embeddings, jnp.float32))
    np.testing.assert_allclose(items.value, expected, rtol=1e-5)
    assert items.mask.all()


def test_koleo_pushes_the_nearest_apart_and_is_finite_where_two_are_one():
    embeddings = jnp.asarray([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.0]])
    slope = jax.grad(lambda x: reduce.mean(dino.koleo(x)))(embeddings)
    assert slope[0, 1] < 0 < slope[1, 1]
    twins = jnp.asarray([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    value, slope = jax.value_and_grad(lambda x: reduce.mean(dino.koleo(x)))(twins)
    assert jnp.isfinite(value)
    assert jnp.isfinite(slope).all()
