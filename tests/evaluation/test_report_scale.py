"""Ticks are few, round and told apart; figures are written for the eye."""

import math

import numpy as np
import pytest

from fsl_jax.evaluation._report import charts, scale


@pytest.fixture(scope="module")
def ranges() -> np.ndarray:
    rng = np.random.default_rng(0)
    low = rng.normal(size=300) * 10.0 ** rng.integers(-9, 9, 300)
    return np.stack([low, low + np.abs(low) * 10.0 ** rng.uniform(-3, 3, 300)], axis=1)


class TestTicks:
    @pytest.mark.parametrize("count", [2, 4, 6])
    def test_are_few_even_and_inside(self, ranges, count):
        for low, high in ranges:
            ticks = np.array(scale.linear_ticks(low, high, count=count))
            slack = 1e-6 * (high - low)
            assert 1 <= len(ticks) <= count + 1
            assert low - slack <= ticks[0]
            assert ticks[-1] <= high + slack
            np.testing.assert_allclose(
                np.diff(ticks), (ticks[-1] - ticks[0]) / max(len(ticks) - 1, 1), rtol=1e-6
            )

    def test_steps_are_round(self):
        steps = [scale.nice_step(span, 5) for span in (1, 3, 8, 10, 11, 49, 0.0123)]
        np.testing.assert_allclose(steps, [0.2, 1, 2, 2, 2.5, 10, 0.0025])

    def test_labels_differ_and_can_be_read_back(self, ranges):
        for low, high in ranges:
            ticks = scale.linear_ticks(low, high, count=5)
            labels = scale.tick_labels(ticks, share=False, log=False)
            units = {"M": 1e6, "k": 1e3}
            read = [float(t.rstrip("Mk").replace(",", "")) * units.get(t[-1], 1) for t in labels]
            assert len(set(labels)) == len(labels)
            np.testing.assert_allclose(read, ticks, rtol=1e-9, atol=1e-12 * (high - low))

    def test_a_widened_axis_ends_at_ticks(self, ranges):
        for low, high in ranges:
            ends = scale.bounds(np.array([low, high]), log=False, share=False, count=5)
            ticks = scale.linear_ticks(*ends, count=5)
            assert ends[0] <= low < high <= ends[1]
            np.testing.assert_allclose([ticks[0], ticks[-1]], ends, rtol=1e-9, atol=1e-9 * (high - low))

    @pytest.mark.parametrize("ends", [(1e-5, 1.0), (0.03, 2.0), (0.11, 0.19), (1.0, 1e12), (5.0, 7.0)])
    def test_of_a_log_axis_ascend_inside(self, ends):
        ticks = scale.log_ticks(*ends, count=5)
        assert len(ticks) >= 2
        assert sorted(set(ticks)) == ticks
        assert ends[0] * (1 - 1e-6) <= ticks[0] < ticks[-1] <= ends[1] * (1 + 1e-6)
        labels = scale.tick_labels(ticks, share=False, log=True)
        assert len(set(labels)) == len(labels)

    @pytest.mark.parametrize(
        ("ticks", "share", "labels"),
        [
            ([0, 20_000, 40_000], False, ["0", "20,000", "40,000"]),
            ([0, 100_000, 250_000], False, ["0", "100k", "250k"]),
            ([0, 500_000, 1_000_000], False, ["0.0", "0.5M", "1.0M"]),
            ([0, 0.25, 0.5], False, ["0.00", "0.25", "0.50"]),
            ([0, 2.5e-4, 5e-4], False, ["0", "2.5e-4", "5e-4"]),
            ([0, 0.5, 1], True, ["0 %", "50 %", "100 %"]),
            ([0.97, 0.975, 0.98], True, ["97.0 %", "97.5 %", "98.0 %"]),
        ],
    )
    def test_are_written_alike(self, ticks, share, labels):
        assert scale.tick_labels(ticks, share=share, log=False) == labels

    @pytest.mark.parametrize(
        "ends", [(0, 50_000), (100, 1_200_000), (1e-6, 3e-5), (0, 1), (999_990, 1_000_010)]
    )
    @pytest.mark.parametrize("log", [False, True])
    @pytest.mark.parametrize("end", [414.0, 200.0])
    def test_labels_along_x_do_not_touch(self, ends, log, end):
        axis = scale.Axis(max(ends[0], 1e-9), ends[1], 60.0, end, log=log, share=False)
        ticks, labels = charts.fitting_ticks(axis)
        half = np.array([charts.text_width(label) / 2 for label in labels])
        places = axis.place(np.array(ticks))
        assert len(ticks) >= 1
        assert (places[:-1] + half[:-1] < places[1:] - half[1:]).all()


class TestFigure:
    @pytest.mark.parametrize(
        ("name", "share"),
        [("eval/accuracy", True), ("mAP", True), ("mAP@R", True), ("R@5", True), ("R-precision", True),
         ("CMC@10", True), ("recall", True), ("top-5", True), ("P@10", True), ("accuracy per label", True),
         ("loss", False), ("MRR", False), ("map_size", True), ("grap", False), ("learning_rate", False),
         ("accuracy/loss", False)],
    )  # fmt: skip
    def test_is_a_share_by_its_name(self, name, share):
        assert scale.is_share(name, [0.0, 0.5, 1.0, math.nan]) is share

    def test_is_no_share_outside_0_to_1(self):
        assert not scale.is_share("accuracy", [0.5, 97.1])

    @pytest.mark.parametrize(
        ("value", "share", "text"),
        [(0.9712, True, "97.1 %"), (math.nan, True, "–"), (12345, False, "12,345"), (0.0, False, "0"),
         (0.041234, False, "0.04123"), (1.5e-5, False, "1.5e-5"), (123456.7, False, "123,457"),
         (-math.inf, False, "−∞")],
    )  # fmt: skip
    def test_is_written_for_the_eye(self, value, share, text):
        assert scale.figure(value, share=share) == text
