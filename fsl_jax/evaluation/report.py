"""One HTML file that shows a run: curves, figures, pictures of what was found, and how to make it again.

The page is self-contained: its style, charts and photos are inside, it runs no script and loads nothing, it
follows the reader's light or dark setting and can be read on a phone. A report is a list of parts:

  report.write(path, "MAML on Omniglot, 5-way 1-shot", [
      report.result_figures(result),
      *report.curves_from_log(workdir / "metrics.jsonl"),
      report.environment_note(sys.argv, date="2026-11-22"),
  ])
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from fsl_jax.data.cache import write_whole
from fsl_jax.evaluation._report.builders import (
    attention_strip,
    bars_by_category,
    confusion_grid,
    curves_from_log,
    environment_note,
    episode_picture,
    precision_recall_curve,
    result_figures,
    strips_of_queries,
)
from fsl_jax.evaluation._report.html import Markup, join, tag
from fsl_jax.evaluation._report.parts import (
    Bars,
    Curve,
    EpisodePicture,
    Figures,
    Grid,
    Note,
    Part,
    Photos,
    Picture,
    Strip,
)
from fsl_jax.evaluation._report.sections import section

__all__ = [
    "Bars",
    "Curve",
    "EpisodePicture",
    "Figures",
    "Grid",
    "Note",
    "Part",
    "Photos",
    "Picture",
    "Strip",
    "attention_strip",
    "bars_by_category",
    "confusion_grid",
    "curves_from_log",
    "environment_note",
    "episode_picture",
    "precision_recall_curve",
    "render",
    "result_figures",
    "strips_of_queries",
    "write",
]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Forbids scripts and every outside address, should a label ever get past the escaping."""


def render(title: str, parts: Sequence[Part]) -> str:
    """Writes a report as one HTML page.

    Args:
      title: Of the page; as every text of the parts, it may hold any characters.
      parts: In the order shown. Charts and tables stand side by side where there is room.

    Returns:
      The page; one that says so where there are no parts.
    """
    sections = [section(part, number=i) for i, part in enumerate(parts, start=1)]
    shown = sections or [tag("p", "Nothing to report.", class_="empty")]
    body = tag("body", tag("header", tag("h1", title), _contents(parts)), tag("main", *shown))
    return join(Markup("<!doctype html>\n"), tag("html", _head(title), body, lang="en"), "\n")


def write(path: Path, title: str, parts: Sequence[Part]) -> None:
    """Writes a report to a file, which holds the old page or the new one, never half of it.

    Args:
      path: The file; its folder is made where it is missing.
      title: Of the page.
      parts: In the order shown.
    """
    # A file name that is not UTF-8 comes as lone surrogates, which no page can hold.
    page = render(title, parts).encode("utf-8", errors="replace")
    write_whole(path, lambda stream: stream.write(page))


def _head(title: str) -> Markup:
    style = resources.files("fsl_jax.evaluation._report").joinpath("style.css").read_text(encoding="utf-8")
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(style)),
    )


def _contents(parts: Sequence[Part]) -> Markup:
    """Links to the parts, where there are enough of them to get lost in."""
    if len(parts) < 4:
        return join()
    links = (tag("li", tag("a", part.title, href=f"#part-{i}")) for i, part in enumerate(parts, start=1))
    return tag("nav", tag("ul", *links), aria_label="Parts of this report")
