"""The parts that are made from logs, results and ranks say what these say."""

import json
import math

import numpy as np
import pytest

from fsl_jax.evaluation import report


class TestCurvesFromLog:
    def write(self, folder, *lines: str):
        path = folder / "metrics.jsonl"
        path.write_text("\n".join(lines))
        return path

    def test_puts_lines_of_one_name_in_one_chart(self, tmp_path):
        path = self.write(
            tmp_path,
            '{"step": 1, "train/loss": 2.0, "learning_rate": 0.1, "note": "warm", "done": true}',
            '{"step": 2, "train/loss": null, "eval/luma/loss": 3, "eval/accuracy": 0.5}',
            "",
        )
        loss, rate, accuracy = report.curves_from_log(path, log_y=["learning_rate"])
        assert (loss.title, rate.title, accuracy.title) == ("loss", "learning rate", "accuracy")
        assert loss.lines["eval/luma"] == ([2], [3.0])
        assert loss.lines["train"][0] == [1, 2]
        assert loss.lines["train"][1][0] == 2.0
        assert math.isnan(loss.lines["train"][1][1])
        assert list(rate.lines) == ["learning rate"]
        assert (loss.log_y, rate.log_y) == (False, True)

    def test_of_a_resumed_run_keeps_the_last_value_of_a_step(self, tmp_path):
        steps = [(1, 1.0), (2, 2.0), (3, 3.0), (2, 20.0), (3, 30.0), (4, 40.0)]
        path = self.write(
            tmp_path, *(json.dumps({"step": step, "train/loss": value}) for step, value in steps)
        )
        (chart,) = report.curves_from_log(path)
        assert chart.lines["train"] == ([1, 2, 3, 4], [1.0, 20.0, 30.0, 40.0])

    @pytest.mark.parametrize("kept", range(1, 33))
    def test_of_a_killed_run_leaves_out_the_half_record(self, tmp_path, kept):
        half = '{"step": 22, "train/loss": 2.25}'[:kept]
        path = self.write(tmp_path, '{"step": 1, "train/loss": 1.5}', half)
        (chart,) = report.curves_from_log(path)
        whole = kept == 32
        assert chart.lines["train"] == (([1, 22], [1.5, 2.25]) if whole else ([1], [1.5]))

    @pytest.mark.parametrize("break_", ["", "\n"])
    def test_of_a_killed_and_resumed_run_loses_only_the_half_record(self, tmp_path, break_):
        path = self.write(tmp_path, '{"step": 1, "train/lo' + break_ + '{"step": 2, "train/loss": 2.5}')
        (chart,) = report.curves_from_log(path)
        assert chart.lines["train"] == ([2], [2.5])

    @pytest.mark.parametrize(
        "line", ["step,loss", '{"loss": 1.0}', "[1, 2]", '{"step": "one"}', "{'step': 1}"]
    )
    def test_of_something_else_is_refused_with_its_place(self, tmp_path, line):
        path = self.write(tmp_path, '{"step": 1, "train/loss": 1.5}', line)
        with pytest.raises(ValueError, match=r"metrics\.jsonl:2 is .* expected such as"):
            report.curves_from_log(path)

    def test_of_an_empty_log_draws_nothing(self, tmp_path):
        assert report.curves_from_log(self.write(tmp_path)) == []


class TestResultFigures:
    def test_says_interval_chance_and_norm_with_their_figure(self):
        rows = report.result_figures(
            {"accuracy": 0.9712, "accuracy_ci95": 0.0031, "mAP": 0.5, "way": 5, "inner_steps": 5,
             "episodes": 10_000, "norm_mode": "batch", "transductive": True, "loss": 0.041234}
        ).rows  # fmt: skip
        assert rows == {
            "accuracy": "97.1 % ± 0.3 (chance 20.0 %)",
            "mAP": "50.0 %",
            "way": "5",
            "inner steps": "5",
            "episodes": "10,000",
            "norm mode": "batch (transductive)",
            "loss": "0.04123",
        }

    def test_takes_the_chance_that_is_given(self):
        assert report.result_figures({"chance": 0.5, "accuracy": 0.75, "way": 5}).rows == {
            "accuracy": "75.0 % (chance 50.0 %)",
            "way": "5",
        }

    def test_keeps_prefixes_apart(self):
        rows = report.result_figures(
            {"val/accuracy": 0.5, "test/accuracy": 0.25, "test/accuracy_ci95": 0.01}
        ).rows
        assert rows == {"val/accuracy": "50.0 %", "test/accuracy": "25.0 % ± 1.0"}

    @pytest.mark.parametrize(
        ("half", "text"),
        [(0.0002, "97.12 % ± 0.02"), (0.02, "97.1 % ± 2.0"), (0.0, "97.1 % ± 0.0"), (math.nan, "97.1 %")],
    )
    def test_shows_a_narrow_interval_with_more_digits(self, half, text):
        assert report.result_figures({"mAP": 0.9712, "mAP_ci95": half}).rows == {"mAP": text}

    def test_says_truth_values_and_gaps(self):
        rows = report.result_figures(
            {"transductive": False, "accuracy": math.nan, "chance": 0.2, "R@1": 1.0}
        ).rows
        assert rows == {"transductive": "no", "accuracy": "– (chance 20.0 %)", "R@1": "100.0 %"}


def image(row: int) -> np.ndarray:
    return np.full((4, 4, 1), row, np.uint8)


class TestStripsOfQueries:
    def strips(self, worst: int, best: int, read: list[int] | None = None) -> list[report.Strip]:
        def look(row: int) -> np.ndarray:
            if read is not None:
                read.append(row)
            return image(row)

        return report.strips_of_queries(
            np.array([0.5, np.nan, 0.1, 0.9]),
            np.array([[0, 1], [1, 0], [2, -1], [1, 2]]),
            query_labels=np.array([0, 2, 1, 1]),
            gallery_labels=np.array([0, 1, 0]),
            names=["coat", "hat", "shoe"],
            query_image=lambda row: look(10 + row),
            gallery_image=look,
            worst=worst,
            best=best,
        )

    def test_shows_the_worst_and_the_best_with_their_verdicts(self):
        low, high = self.strips(1, 1)
        assert low.title == "Worst query 1: hat, average precision 10.0 %"
        assert [(p.image[0, 0, 0], p.caption, p.right) for p in low.pictures] == [
            (12, "hat", None),
            (2, "coat", False),
        ]
        assert high.title == "Best query 1: hat, average precision 90.0 %"
        assert [p.right for p in high.pictures] == [None, True, False]

    def test_shows_no_query_twice_and_none_without_a_match(self):
        titles = [strip.title.partition(":")[0] for strip in self.strips(2, 5)]
        assert titles == ["Worst query 1", "Worst query 2", "Best query 1"]

    def test_reads_only_what_it_shows(self):
        read: list[int] = []
        self.strips(1, 0, read)
        assert sorted(read) == [2, 12]

    def test_of_unequal_lengths_is_refused(self):
        with pytest.raises(ValueError, match="2 average precisions, 1 rows"):
            report.strips_of_queries(
                np.zeros(2), np.zeros((1, 1), int),
                query_labels=np.zeros(2, int), gallery_labels=np.zeros(1, int),
                names=["a"], query_image=image, gallery_image=image, worst=1, best=1,
            )  # fmt: skip


class TestPrecisionRecall:
    def test_is_drawn_as_percentages_over_recall(self):
        part = report.precision_recall_curve(np.array([1.0] * 6 + [0.5] * 5))
        ((recall, precision),) = part.lines.values()
        np.testing.assert_allclose(recall, np.linspace(0, 1, 11))
        assert precision == [1.0] * 6 + [0.5] * 5
        assert ">100 %</text>" in report.render("Demo", [part])

    def test_without_any_positive_draws_nothing(self):
        part = report.precision_recall_curve(np.full(11, np.nan))
        assert "No values to draw." in report.render("Demo", [part])


class TestEnvironment:
    def test_names_command_date_devices_and_versions(self):
        text = report.environment_note(
            ["python", "-m", "fsl_jax.main", "--workdir", "my run"], date="2026-11-22"
        ).text
        assert text.startswith("$ python -m fsl_jax.main --workdir 'my run'\n")
        told = dict(line.split(maxsplit=1) for line in text.splitlines()[2:])
        assert set(told) >= {"date", "devices", "python", "jax", "flax", "optax", "numpy", "fsl_jax"}
        assert told["date"] == "2026-11-22"
        assert told["devices"] == "8 x cpu"
        assert told["numpy"] == np.__version__


class TestConfusions:
    CONFUSION = np.array([[6, 2, 0, 0], [0, 0, 0, 0], [1, 0, 1, 2], [0, 0, 0, 5]])
    NAMES = ("boots", "coats", "tees", "totes")

    def test_are_shares_of_each_names_photos_those_with_the_most_first(self):
        part = report.confusion_grid("Confusions", self.CONFUSION, self.NAMES, most=4)
        assert part.columns == ["boots", "totes", "tees", "coats"]
        assert part.rows == ["boots (8)", "totes (5)", "tees (4)", "coats (0)"]
        nothing = np.nan
        expected = [
            [0.75, nothing, nothing, 0.25],
            [nothing, 1.0, nothing, nothing],
            [0.25, 0.5, 0.25, nothing],
            [nothing] * 4,
        ]
        np.testing.assert_array_equal(part.values, expected)
        assert "75 %" in report.render("Demo", [part])

    def test_of_many_names_keep_the_most_frequent_and_add_up_the_others(self):
        part = report.confusion_grid("Confusions", self.CONFUSION, self.NAMES, most=2)
        assert part.columns == ["boots", "totes", "2 others"]
        assert part.rows == ["boots (8)", "totes (5)", "2 others (4)"]
        # "tees" for boots once and for totes twice, and once for itself, which is one of the others.
        expected = [[0.75, np.nan, 0.25], [np.nan, 1.0, np.nan], [0.25, 0.5, 0.25]]
        np.testing.assert_array_equal(part.values, expected)

    def test_count_every_photo_whatever_is_shown(self):
        confusion = np.random.default_rng(0).integers(0, 9, (7, 7))
        names = [f"n{i}" for i in range(7)]
        for most in (1, 3, 6, 7, 20):
            part = report.confusion_grid("Confusions", confusion, names, most=most)
            assert len(part.rows) == len(part.columns) == (most + 1 if most < 7 else 7)
            assert sum(int(row.rpartition("(")[2][:-1]) for row in part.rows) == confusion.sum()
            np.testing.assert_allclose(np.nansum(part.values, axis=1), 1)

    def test_of_equal_counts_keep_the_order_of_the_names(self):
        part = report.confusion_grid("Confusions", np.ones((3, 3), int), ("c", "b", "a"), most=2)
        assert part.columns == ["c", "b", "1 others"]


class TestAttentionStrip:
    def test_lights_the_photo_where_the_network_looks(self):
        photo = np.full((8, 8, 3), 200, np.uint8)
        heads = np.zeros((2, 2, 2))
        heads[0, 0, 0] = 0.5  # the first head looks at the top left
        heads[1, 1, 1] = 0.5
        part = report.attention_strip("Looks", photo, heads)
        whole, together, first, second = (picture.image for picture in part.pictures)
        np.testing.assert_array_equal(whole, photo)
        assert first[0, 0, 0] == 200  # fully lit
        assert first[7, 7, 0] == 30  # 15 % of it
        assert second[7, 7, 0] == 200
        assert together[0, 0, 0] == together[7, 7, 0] == 200
        assert together[0, 7, 0] == 30
        assert [picture.caption for picture in part.pictures] == ["", "all heads", "head 1", "head 2"]

    def test_shows_at_most_six_heads(self):
        part = report.attention_strip("Looks", np.zeros((8, 8, 1), np.uint8), np.ones((12, 2, 2)))
        assert len(part.pictures) == 8
        assert part.pictures[1].image.shape == (8, 8, 1)
