"""Line and bar charts as SVG, drawn with the page's own colours so that they follow light and dark."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from fsl_jax.evaluation._report.html import Markup, join, tag
from fsl_jax.evaluation._report.parts import Bars, Curve
from fsl_jax.evaluation._report.scale import Axis, bounds, figure, is_share

WIDTH, HEIGHT = 440.0, 250.0
"""Units of a line chart: small enough that its letters can be read on a phone 360 pixels wide."""
LETTER = 8.9
"""A digit's width in a wide typeface at 14 units, letters on a narrow screen; on a wide one they have 12."""
COLOURS = 6
"""Colours in the style sheet; each has its own dashes too, so that no line is told by its colour alone."""
MARKED = 40
"""A line of at most this many points shows each of them."""
MOST_POINTS = 1000
"""A longer line is thinned to about this many: more than the screen can show."""
BAR_ROW = 34.0
PIECES = 5
"""Most pieces that the ticks cut the vertical axis into."""

Line = tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]


def text_width(text: str) -> float:
    """Estimates the width of a chart's label from above, in its units."""
    return LETTER * len(text)


def line_chart(curve: Curve) -> Markup:
    """Draws a line chart with its legend; a sentence where there is no value to draw."""
    lines = {name: drawable(along, values, curve) for name, (along, values) in curve.lines.items()}
    along = np.concatenate([np.empty(0), *(x[~np.isnan(y)] for x, y in lines.values())])
    values = np.concatenate([np.empty(0), *(y[~np.isnan(y)] for _, y in lines.values())])
    if not len(values):
        return tag("p", "No values to draw.", class_="empty")
    share_x, share_y = is_share(curve.label_x, along), is_share(curve.label_y, values)
    across, up = _axes(curve, along, values, share_x=share_x, share_y=share_y)
    drawn = (_line(i, name, line, across, up) for i, (name, line) in enumerate(lines.items()))
    return join(
        "" if list(lines) == [curve.label_y] else _legend(lines, share_y),
        tag(
            "svg",
            *_frame(curve, across, up),
            *drawn,
            viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
            role="img",
            aria_label=summary(curve, lines, share_x=share_x, share_y=share_y),
            class_="chart",
        ),
    )


def drawable(along: Sequence[float], values: Sequence[float], curve: Curve) -> Line:
    """Returns a line as arrays, with NaN in y where it has a gap."""
    x, y = np.asarray(along, float), np.asarray(values, float)
    seen = np.isfinite(x) & np.isfinite(y) & ~(curve.log_x & (x <= 0)) & ~(curve.log_y & (y <= 0))
    placed = np.isfinite(x)
    return thin(x[placed], np.where(seen, y, np.nan)[placed], most=MOST_POINTS)


def thin(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"], *, most: int) -> Line:
    """Keeps the lowest and the highest value of each stretch of a long line, so that no spike is lost.

    Args:
      x: Along the line.
      y: NaN at gaps.
      most: About the most points kept; shorter lines stay as they are.

    Returns:
      The points kept, in their order; the first and the last are among them.
    """
    if len(x) <= most:
        return x, y
    kept = [np.array([0, len(x) - 1])]
    for rows in np.array_split(np.arange(len(x)), most // 2):
        part = y[rows]
        if np.isnan(part).all():
            kept.append(rows[:1])
        else:
            kept.append(rows[[np.nanargmin(part), np.nanargmax(part)]])
    rows = np.unique(np.concatenate(kept))
    return x[rows], y[rows]


def stretches(line: Line) -> Iterator[Line]:
    """Cuts a line at its gaps."""
    x, y = line
    there = ~np.isnan(y)
    for rows in np.split(np.arange(len(y)), np.flatnonzero(np.diff(there)) + 1):
        if len(rows) and there[rows[0]]:
            yield x[rows], y[rows]


def summary(curve: Curve, lines: dict[str, Line], *, share_x: bool, share_y: bool) -> str:
    """Says in words what a line chart shows, for those who do not see it."""
    told = [f"Line chart of {curve.label_y} by {curve.label_x}."]
    for name, (x, y) in lines.items():
        seen = ~np.isnan(y)
        if not seen.any():
            told.append(f"{name}: no values.")
            continue
        marks = (*y[seen][[0, -1]], y[seen].min(), y[seen].max())
        first, last, low, high = (figure(mark, share=share_y) for mark in marks)
        start, end = (figure(v, share=share_x) for v in x[seen][[0, -1]])
        told.append(f"{name}: {first} at {start}, {last} at {end}, lowest {low}, highest {high}.")
    return " ".join(told)


def _axes(
    curve: Curve,
    along: Float[np.ndarray, "n"],
    values: Float[np.ndarray, "n"],
    *,
    share_x: bool,
    share_y: bool,
) -> tuple[Axis, Axis]:
    """Lays out both axes, with room for the labels."""
    top = 30.0 if _names_y(curve) else 10.0
    low, high = bounds(values, log=curve.log_y, share=share_y, count=PIECES)
    up = Axis(low, high, start=HEIGHT - 40.0, end=top, log=curve.log_y, share=share_y)
    left = 10.0 + max(text_width(label) for label in up.labels(up.ticks(PIECES)))
    low, high = bounds(along, log=curve.log_x, share=share_x, count=None)
    return Axis(low, high, start=left, end=WIDTH - 26.0, log=curve.log_x, share=share_x), up


def _names_y(curve: Curve) -> bool:
    return curve.label_y != curve.title


def fitting_ticks(axis: Axis) -> tuple[list[float], list[str]]:
    """Returns as many ticks of the horizontal axis as have room for their labels, and the labels."""
    for count in (6, 5, 4, 3, 2):
        ticks = axis.ticks(count)
        labels = axis.labels(ticks)
        places = axis.place(np.array(ticks))
        half = np.array([text_width(label) / 2 for label in labels])
        if (np.diff(places) >= half[1:] + half[:-1] + 6).all():
            return ticks, labels
    return ticks[:1], labels[:1]


def _frame(curve: Curve, across: Axis, up: Axis) -> Iterator[Markup]:
    """Draws what lies behind the lines: grid, ticks and the axes' names."""
    rises = up.ticks(PIECES)
    for place, label in zip(up.place(np.array(rises)), up.labels(rises), strict=True):
        yield tag("path", d=f"M{across.start:.1f} {place:.1f}H{across.end:.1f}", class_="rule")
        yield tag("text", label, x=across.start - 6, y=float(place) + 4, text_anchor="end")
    ticks, labels = fitting_ticks(across)
    for place, label in zip(across.place(np.array(ticks)), labels, strict=True):
        yield tag("path", d=f"M{place:.1f} {up.start:.1f}v5", class_="axis")
        yield tag("text", label, x=float(place), y=up.start + 18, text_anchor="middle")
    yield tag("path", d=f"M{across.start:.1f} {up.start:.1f}H{across.end:.1f}", class_="axis")
    middle = (across.start + across.end) / 2
    yield tag("text", curve.label_x, x=middle, y=HEIGHT - 4, text_anchor="middle", class_="name")
    if _names_y(curve):
        yield tag("text", curve.label_y, x=4.0, y=13.0, class_="name")


def _line(i: int, name: str, line: Line, across: Axis, up: Axis) -> Markup:
    """Draws one line: a path, and its points where they are few or stand alone."""
    marked = int((~np.isnan(line[1])).sum()) <= MARKED
    path, points = [], []
    for x, y in stretches(line):
        places = list(zip(across.place(x), up.place(y), strict=True))
        path.append("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places))
        if marked or len(places) == 1:
            points += [_point(name, *point, across, up) for point in zip(x, y, places, strict=True)]
    return tag("g", tag("path", d="".join(path), class_="line"), *points, class_=f"series s{i % COLOURS}")


def _point(name: str, x: float, y: float, place: tuple[float, float], across: Axis, up: Axis) -> Markup:
    told = f"{name}: {figure(y, share=up.share)} at {figure(x, share=across.share)}"
    return tag("circle", tag("title", told), cx=float(place[0]), cy=float(place[1]), r=3)


def _legend(lines: dict[str, Line], share: bool) -> Markup:
    """Names the lines, with the last value of each."""
    entries = (_entry(i, name, line, share) for i, (name, line) in enumerate(lines.items()))
    return tag("ul", *entries, class_="legend")


def _entry(i: int, name: str, line: Line, share: bool) -> Markup:
    seen = line[1][~np.isnan(line[1])]
    stroke = tag("path", d="M1 6H29", class_="line")
    kind = f"swatch series s{i % COLOURS}"
    swatch = tag("svg", stroke, viewBox="0 0 30 12", aria_hidden="true", class_=kind)
    last = tag("b", figure(float(seen[-1]), share=share)) if len(seen) else "no values"
    return tag("li", swatch, f" {name} ", last)


def bar_chart(part: Bars) -> Markup:
    """Draws one bar a category, with name, value and count above it; a sentence where there is none."""
    if not part.bars:
        return tag("p", "No values to draw.", class_="empty")
    values = [float(value) for value, _ in part.bars.values()]
    share = is_share(part.title, values)
    longest = 1.0 if share else max((value for value in values if math.isfinite(value)), default=0.0)
    rows = [
        _bar(i, name, float(value), count, longest, share)
        for i, (name, (value, count)) in enumerate(part.bars.items())
    ]
    told = ", ".join(f"{name} {figure(float(v), share=share)} of {n:,}" for name, (v, n) in part.bars.items())
    return tag(
        "svg",
        *rows,
        viewBox=f"0 0 {WIDTH:g} {BAR_ROW * len(rows):g}",
        role="img",
        aria_label=f"Bar chart of {part.title}: {told}.",
        class_="chart",
    )


def _bar(i: int, name: str, value: float, count: int, longest: float, share: bool) -> Markup:
    top = BAR_ROW * i
    right = f"{figure(value, share=share)}  ({count:,})"
    length = WIDTH * min(max(value, 0.0) / longest, 1.0) if longest > 0 and value > 0 else 0.0
    return tag(
        "g",
        tag("title", name),
        tag("text", shorten(name, WIDTH - text_width(right) - 12), x=0.0, y=top + 14, class_="name"),
        tag("text", right, x=WIDTH, y=top + 14, text_anchor="end"),
        tag("rect", x=0.0, y=top + 19, width=WIDTH, height=8, rx=2, class_="track"),
        tag("rect", x=0.0, y=top + 19, width=length, height=8, rx=2, class_="bar"),
    )


def shorten(text: str, width: float) -> str:
    """Cuts a text, with an ellipsis, so that it surely fits."""
    most = max(int(width / LETTER), 1)
    return text if len(text) <= most else f"{text[: most - 1]}…"
