"""A chart of means with their intervals, one line a method."""

from collections.abc import Mapping
from html import escape

import numpy as np

from fsl_jax.sweep_table import Interval

WIDTH, LEFT, RIGHT, TOP, LINE = 720, 230, 90, 46, 24
STYLE = (
    "svg { font: 13px sans-serif; background: #fff; color: #222 } text { fill: currentColor } "
    "line { stroke: #bbb } .mean { fill: #2563a8 } .interval { stroke: #2563a8; stroke-width: 2 } "
    "@media (prefers-color-scheme: dark) { svg { background: #16181d; color: #ddd } line { stroke: #444 } "
    ".mean { fill: #7db4f0 } .interval { stroke: #7db4f0 } }"
)


def intervals_chart(values: Mapping[str, Interval], title: str, *, percent: bool) -> str:
    """Draws means as dots and their 95 % intervals as lines, highest first.

    Args:
      values: By name; a mean without an interval (NaN) is a dot alone.
      title: What is compared.
      percent: Whether values are shares, told in per cent.

    Returns:
      An SVG file.
    """
    scale, digits = (100, 1) if percent else (1, 3)
    ordered = sorted(values.items(), key=lambda item: -item[1].mean)
    halves = np.nan_to_num([each.ci95 for _, each in ordered])
    means = np.array([each.mean for _, each in ordered])
    low, high = float((means - halves).min()), float((means + halves).max())
    margin = 0.05 * (high - low) or 0.01
    low, high = low - margin, high + margin

    def across(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    height = TOP + LINE * len(ordered) + 12
    told = f"{title}, {'with 95 % intervals' if halves.any() else 'one run each'}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(told)}"><style>{STYLE}</style><text x="12" y="24">{escape(told)}</text>'
    ]
    for i, (name, each) in enumerate(ordered):
        y, half = TOP + LINE * i, halves[i]
        text = f"{scale * each.mean:.{digits}f}" + (f" ± {scale * half:.{digits}f}" if half else "")
        parts.append(
            f'<text x="12" y="{y + 4}">{escape(name)}</text>'
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
            f'<line class="interval" x1="{across(each.mean - half):.1f}" x2="{across(each.mean + half):.1f}" '
            f'y1="{y}" y2="{y}"/><circle class="mean" cx="{across(each.mean):.1f}" cy="{y}" r="5"/>'
            f'<text x="{WIDTH - RIGHT + 8}" y="{y + 4}">{text}</text>'
        )
    return "".join([*parts, "</svg>\n"])
