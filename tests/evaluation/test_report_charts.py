"""Charts show each value where the axes say, and are told in words."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from fsl_jax.evaluation import report
from fsl_jax.evaluation._report import charts


class Drawing:
    """A chart, which is also well-formed XML."""

    def __init__(self, part: report.Curve | report.Bars):
        draw = charts.line_chart if isinstance(part, report.Curve) else charts.bar_chart
        self.markup = str(draw(part))
        self.root = ElementTree.fromstring(f"<div>{self.markup}</div>")

    def all(self, element: str) -> list[dict[str, str]]:
        return [found.attrib for found in self.root.iter(element)]

    def texts(self) -> str:
        return " ".join(" ".join(self.root.itertext()).split())


class TestCurve:
    def chart(self, *args, **options) -> Drawing:
        return Drawing(report.Curve("chart", *args, **options))

    def paths(self, drawn: Drawing) -> list[str]:
        return [path["d"] for path in drawn.all("path") if path.get("class") == "line"]

    def test_is_an_image_that_is_told_in_words(self):
        drawn = self.chart({"train": ([100, 200, 3000], [0.25, 0.125, 0.5])}, "step", "accuracy")
        image = next(svg for svg in drawn.all("svg") if svg.get("role") == "img")
        assert image["aria-label"] == (
            "Line chart of accuracy by step. "
            "train: 25.0 % at 100, 50.0 % at 3,000, lowest 12.5 %, highest 50.0 %."
        )

    def test_places_values_where_the_axes_say(self):
        drawn = self.chart({"train": ([0, 10], [0.0, 1.0])}, "step", "accuracy")
        (x0, y0), (x1, y1) = re.findall(r"(-?[\d.]+) (-?[\d.]+)", self.paths(drawn)[-1])
        rows = {text.text: float(text.attrib["y"]) - 4 for text in drawn.root.iter("text")}
        assert float(y0) == pytest.approx(rows["0 %"], abs=0.1)
        assert float(y1) == pytest.approx(rows["100 %"], abs=0.1)
        assert float(x0) < float(x1) <= charts.WIDTH

    def test_breaks_at_nan_and_keeps_lone_points(self):
        values = [1.0, 2.0, math.nan, 3.0, math.inf, 4.0, 5.0]
        line = (np.arange(7.0), np.where(np.isfinite(values), values, np.nan))
        assert [part[1].tolist() for part in charts.stretches(line)] == [[1, 2], [3], [4, 5]]
        drawn = self.chart({"a": (range(7), values)}, "step", "loss")
        assert self.paths(drawn)[-1].count("M") == 3
        assert "nan" not in drawn.markup
        assert "inf" not in drawn.markup

    def test_of_many_points_marks_only_those_that_stand_alone(self):
        values = np.ones(100)
        values[[50, 52]] = np.nan
        drawn = self.chart({"a": (range(100), values)}, "step", "loss")
        assert [point.text for point in drawn.root.iter("title")] == ["a: 1 at 51"]

    @pytest.mark.parametrize("value", [0.0, 0.5, 1.0, -3.0, 1e-8, 7e7])
    @pytest.mark.parametrize("label", ["accuracy", "loss"])
    def test_of_one_point_shows_it_inside_the_axes(self, value, label):
        drawn = self.chart({"a": ([5], [value])}, "step", label)
        (circle,) = drawn.all("circle")
        assert 0 < float(circle["cx"]) < charts.WIDTH
        assert 0 < float(circle["cy"]) < charts.HEIGHT

    def test_on_a_log_axis_leaves_out_what_is_not_above_0(self):
        drawn = self.chart({"a": ([1, 2, 3, 4], [1.0, 0.0, -1.0, 100.0])}, "step", "loss", log_y=True)
        assert self.paths(drawn)[-1].count("M") == 2
        assert len(drawn.all("circle")) == 2

    def test_on_a_log_axis_spaces_decades_evenly(self):
        drawn = self.chart({"a": ([1, 10, 100], [1.0, 10.0, 100.0])}, "step", "loss", log_x=True, log_y=True)
        points = np.array([[float(c["cx"]), float(c["cy"])] for c in drawn.all("circle")])
        np.testing.assert_allclose(points[1] * 2, points[0] + points[2], atol=0.02)

    def test_with_lines_names_each_with_its_last_value(self):
        drawn = self.chart({"train": ([1, 2], [0.5, 0.75]), "eval": ([1], [math.nan])}, "step", "accuracy")
        assert drawn.texts().startswith("train 75.0 % eval no values")

    def test_of_a_long_log_keeps_its_spike_and_its_ends(self):
        values = np.zeros(100_000)
        values[[77_777, 50_000]] = 9.0, np.nan
        x, y = charts.thin(np.arange(100_000.0), values, most=1000)
        assert len(x) <= 1002
        assert (x[0], x[-1], x[np.nanargmax(y)]) == (0, 99_999, 77_777)
        assert (np.diff(x) > 0).all()

    def test_of_unequal_lengths_is_refused(self):
        with pytest.raises(ValueError, match="line 'train' of 'c' has 2 x and 1 y"):
            report.Curve("c", {"train": ([1, 2], [1.0])}, "step", "loss")


class TestBars:
    def test_are_ordered_and_as_long_as_their_share(self):
        part = report.bars_by_category(
            "mAP by category", {"a": (0.25, 4), "n": (math.nan, 0), "b": (0.75, 1200)}
        )
        assert list(part.bars) == ["b", "a", "n"]
        drawn = Drawing(part)
        lengths = [float(bar["width"]) for bar in drawn.all("rect") if bar["class"] == "bar"]
        assert lengths == [0.75 * charts.WIDTH, 0.25 * charts.WIDTH, 0]
        assert drawn.all("svg")[0]["aria-label"] == (
            "Bar chart of mAP by category: b 75.0 % of 1,200, a 25.0 % of 4, n – of 0."
        )

    def test_of_other_figures_fill_the_width_with_the_largest(self):
        drawn = Drawing(report.Bars("photos", {"a": (5.0, 1), "b": (10.0, 1), "c": (-1.0, 1)}))
        lengths = [float(bar["width"]) for bar in drawn.all("rect") if bar["class"] == "bar"]
        assert lengths == [0.5 * charts.WIDTH, charts.WIDTH, 0]

    def test_a_long_name_is_cut_before_the_figure(self):
        assert charts.shorten("abcdef", charts.LETTER * 4) == "abc…"
        assert charts.shorten("abcd", charts.LETTER * 4) == "abcd"
