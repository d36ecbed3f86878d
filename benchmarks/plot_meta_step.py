"""Draws seconds a meta-step against tasks, from the JSON lines of `benchmarks.meta_step`.

python -m benchmarks.plot_meta_step LINES.jsonl --out benchmarks/figures/meta_step.svg
"""

import argparse
import json
from importlib import resources
from pathlib import Path

from fsl_jax.evaluation._report.charts import line_chart
from fsl_jax.evaluation.report import Curve


def curve_of(lines: list[dict]) -> Curve:
    by_device: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        if "who" in line and line["inner_steps"] == 1:
            by_device.setdefault(line["device"], []).append((line["tasks"], line["seconds_a_step"]))
    drawn = {name: tuple(zip(*sorted(points), strict=True)) for name, points in by_device.items()}
    return Curve("Meta-step", drawn, "tasks", "seconds a step", log_x=True, log_y=True)


def as_file(curve: Curve) -> str:
    """Makes the report's chart stand alone: with its style inside, and the names of the lines where they end."""
    page = str(line_chart(curve))
    chart = page[page.rindex("<svg") :].replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    style = resources.files("fsl_jax.evaluation._report").joinpath("style.css").read_text()
    names = "".join(
        f'<text x="60" y="{40 + 16 * i}" class="s{i}" style="fill: currentColor">{name}</text>'
        for i, name in enumerate(curve.lines)
    )
    inside = f"<style>{style} svg {{ font-family: sans-serif; background: var(--card) }}</style>{names}"
    opening = chart.index(">") + 1
    return f"{chart[:opening]}{inside}{chart[opening:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/figures/meta_step.svg"))
    a = parser.parse_args()
    lines = [json.loads(line) for line in a.lines.read_text().splitlines() if line.strip()]
    a.out.parent.mkdir(parents=True, exist_ok=True)
    a.out.write_text(as_file(curve_of(lines)))


if __name__ == "__main__":
    main()
