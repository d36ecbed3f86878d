"""Writes each part of a report as a section of the page."""

import math
from collections.abc import Sequence

import numpy as np

from fsl_jax.evaluation._report.charts import bar_chart, line_chart
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
from fsl_jax.evaluation._report.pictures import data_uri
from fsl_jax.evaluation._report.scale import MISSING, percent

TINY = 64
"""Photos below this size are enlarged with their pixels kept square."""
WIDE_COLUMNS = 6
"""From more columns on a grid does not fit beside another part."""
STRONG = 0.63
"""From this share of the colour on, a cell has letters of the other shade; here both shades have 4.5:1."""


def section(part: Part, *, number: int) -> Markup:
    """Writes one part under its heading, which can be linked to as #part-`number`."""
    heading = f"part-{number}-title"
    return tag(
        "section",
        tag("h2", part.title, id=heading),
        _body(part),
        id=f"part-{number}",
        aria_labelledby=heading,
        class_="wide" if _is_wide(part) else None,
    )


def _is_wide(part: Part) -> bool:
    """Whether a part gets the whole width of the page."""
    many_columns = isinstance(part, Grid) and len(part.columns) > WIDE_COLUMNS
    return many_columns or isinstance(part, Strip | Photos | EpisodePicture | Note)


def _body(part: Part) -> Markup:
    match part:
        case Curve():
            return line_chart(part)
        case Bars():
            return bar_chart(part)
        case Figures():
            return figures_table(part)
        case Grid():
            return heat_map(part)
        case Strip():
            return strip(part)
        case Photos():
            return photos(part)
        case EpisodePicture():
            return episode(part)
        case Note():
            return tag("pre", part.text)


def figures_table(part: Figures) -> Markup:
    """Writes names and values as a table with row heads."""
    if not part.rows:
        return tag("p", "No figures.", class_="empty")
    rows = (tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in part.rows.items())
    return tag("table", _hidden_caption(part.title), tag("tbody", *rows), class_="figures")


def _hidden_caption(text: str) -> Markup:
    """Names a table for screen readers; the heading above it names it for the eye."""
    return tag("caption", text, class_="unseen")


def heat_map(part: Grid) -> Markup:
    """Writes a grid as a table whose cells are coloured from the lowest to the highest value."""
    values = np.asarray(part.values, float)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return tag("p", "No values to draw.", class_="empty")
    low, high = float(finite.min()), float(finite.max())
    heads = (tag("th", name, scope="col") for name in part.columns)
    cells = ([_cell(float(value), low, high, part.format) for value in row] for row in values)
    rows = (tag("tr", tag("th", name, scope="row"), *row) for name, row in zip(part.rows, cells, strict=True))
    table = tag(
        "table",
        _hidden_caption(part.title),
        tag("thead", tag("tr", tag("td"), *heads)),
        tag("tbody", *rows),
        class_="heat",
    )
    ends = f"From {written(low, part.format)} to {written(high, part.format)}: higher is stronger in colour."
    return join(
        tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=part.title),
        tag("p", ends, class_="key"),
    )


def _cell(value: float, low: float, high: float, specification: str) -> Markup:
    if not math.isfinite(value):
        return tag("td", MISSING, class_="missing", aria_label="no value")
    share = (value - low) / (high - low) if high > low else 0.0
    strong = "strong" if share >= STRONG else None
    return tag("td", written(value, specification), class_=strong, style=f"--heat:{100 * share:.0f}%")


def written(value: float, specification: str) -> str:
    """Formats a cell; a percent sign is set off by a space."""
    text = format(value, specification)
    return f"{text[:-1]} %" if text.endswith("%") else text


def strip(part: Strip) -> Markup:
    """Writes a query and its ranked photos in a row that wraps."""
    if not part.pictures:
        return tag("p", "No pictures.", class_="empty")
    photos = (photo(picture, "query" if i == 0 else f"rank {i}") for i, picture in enumerate(part.pictures))
    items = (tag("li", figure, class_="asked" if i == 0 else None) for i, figure in enumerate(photos))
    return tag("ul", *items, class_="photos")


def photos(part: Photos) -> Markup:
    """Writes photos in a row that wraps."""
    if not part.pictures:
        return tag("p", "No pictures.", class_="empty")
    items = (tag("li", photo(picture, f"photo {i}")) for i, picture in enumerate(part.pictures, start=1))
    return tag("ul", *items, class_="photos")


def photo(picture: Picture, place: str) -> Markup:
    """Writes one photo with its caption, and its mark: a symbol and a kind of border besides the colour.

    Args:
      picture: The photo.
      place: What it is in its part, such as "rank 3": the beginning of its text alternative.

    Returns:
      A figure; its text alternative says place, caption and verdict.
    """
    verdict, symbol = (
        ("", "") if picture.right is None else ("right", "✓") if picture.right else ("wrong", "✗")
    )
    mark = tag("span", symbol, class_="mark", aria_hidden="true") if symbol else ""
    height, width, _ = picture.image.shape
    shown = tag(
        "img",
        src=data_uri(picture.image),
        alt=", ".join(text for text in (place, picture.caption, verdict) if text),
        width=str(width),
        height=str(height),
        class_="tiny" if max(height, width) < TINY else None,
    )
    caption = tag("figcaption", picture.caption, aria_hidden="true") if picture.caption else ""
    return tag("figure", tag("div", shown, mark, class_="box"), caption, class_=f"photo {verdict}".strip())


def episode(part: EpisodePicture) -> Markup:
    """Writes an episode as a table: a row a label, its support beside its query photos."""
    if not part.support:
        return tag("p", "No pictures.", class_="empty")
    names = part.names or [f"label {i}" for i in range(len(part.support))]
    rows = (_way(*way) for way in zip(names, part.support, part.query, strict=True))
    heads = (tag("th", head, scope="col", role="columnheader") for head in ("label", "support", "query"))
    told = _right([picture for row in part.query for picture in row])
    return tag(
        "table",
        tag("caption", told) if told else _hidden_caption(part.title),
        tag("thead", tag("tr", *heads, role="row"), role="rowgroup"),
        tag("tbody", *rows, role="rowgroup"),
        class_="episode small",
        role="table",  # the narrow layout shows rows as blocks, and that alone would end their being a table
    )


def _way(name: str, support: Sequence[Picture], query: Sequence[Picture]) -> Markup:
    told = _right(query)
    share = tag("span", told, class_="share") if told else ""
    return tag(
        "tr",
        tag("th", name, share, scope="row", role="rowheader"),
        _photos(support, f"support of {name}", "support"),
        _photos(query, f"query of {name}", "query"),
        role="row",
    )


def _photos(pictures: Sequence[Picture], place: str, head: str) -> Markup:
    items = (tag("li", photo(picture, place)) for picture in pictures)
    return tag("td", tag("ul", *items, class_="photos"), role="cell", data_head=head)


def _right(pictures: Sequence[Picture]) -> str:
    """Counts the right predictions: "4 of 5 right (80.0 %)"; empty where nothing was predicted."""
    verdicts = [picture.right for picture in pictures if picture.right is not None]
    if not verdicts:
        return ""
    return f"{sum(verdicts)} of {len(verdicts)} right ({percent(sum(verdicts) / len(verdicts), 1)})"
