"""Makes parts of a report from what training and evaluation give."""

import json
import math
import platform
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from fsl_jax.evaluation._report.parts import (
    Bars,
    Curve,
    EpisodePicture,
    Figures,
    Grid,
    Note,
    Photos,
    Picture,
    Strip,
)
from fsl_jax.evaluation._report.scale import figure, is_share, percent

Photo = UInt8[np.ndarray, "h w c"]
DARKEST = 0.15
"""How bright a photo is shown where a network does not look."""


def curves_from_log(metrics_jsonl: Path, *, log_y: Collection[str] = ()) -> list[Curve]:
    """Draws a training log: "train/loss" and "eval/loss" become two lines of the chart "loss".

    A step that was written twice, by a run that was resumed, keeps its last value. A record that the end of a
    killed process cut off is left out. Text and truth values are no figures and are left out too.

    Args:
      metrics_jsonl: One JSON record a line, such as {"step": 100, "train/loss": 0.5}.
      log_y: Charts with a logarithmic y axis.

    Returns:
      One chart a name after the last slash, in the order of the log; none for an empty log.

    Raises:
      ValueError: A line is whole but no record with a number as its step.
    """
    charts: dict[str, dict[str, dict[float, float]]] = {}
    for step, key, value in _points(metrics_jsonl):
        line, _, chart = key.rpartition("/")
        charts.setdefault(chart, {}).setdefault(line or _words(chart), {})[step] = value
    return [
        Curve(_words(chart), {name: _sorted(line) for name, line in lines.items()}, "step", _words(chart),
              log_y=chart in log_y)
        for chart, lines in charts.items()
    ]  # fmt: skip


def _words(name: str) -> str:
    return name.replace("_", " ")


def _sorted(line: Mapping[float, float]) -> tuple[list[float], list[float]]:
    steps = sorted(line)
    return steps, [line[step] for step in steps]


def _points(path: Path) -> Iterator[tuple[float, str, float]]:
    """Reads (step, name, value) from a log; null is NaN."""
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        record = _record(text) if text.strip() else None
        if record is None:
            continue
        if not isinstance(record, dict) or not _is_number(record.get("step")):
            raise ValueError(
                f'{path}:{number} is {text[:60]!r}; expected such as {{"step": 100, "train/loss": 0.5}}'
            )
        for key, value in record.items():
            if key != "step" and (value is None or _is_number(value)):
                yield record["step"], key, math.nan if value is None else float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _record(text: str) -> object:
    """Reads a line; None where it was cut off.

    A resumed run may have gone on writing right behind a record that was cut off: records are flat, so the
    whole one begins at the last brace.
    """
    for start in (0, text.rfind("{")):
        try:
            return json.loads(text[max(start, 0) :])
        except json.JSONDecodeError:
            continue
    return None if text.lstrip().startswith("{") and not text.rstrip().endswith("}") else text


def result_figures(result: Mapping[str, float | str | int], *, title: str = "Result") -> Figures:
    """Formats what an evaluation found.

    Args:
      result: By name. "accuracy_ci95" is shown with "accuracy" as "97.1 % ± 0.3", and "chance", or 1 / "way"
        where it is not given, beside it. "transductive" is said with "norm_mode". Names after a common prefix
        ("test/accuracy") go together.
      title: Heading of the table.

    Returns:
      One row a name, in the order given.
    """
    rows = {}
    for key, value in result.items():
        prefix, _, name = key.rpartition("/")
        mine = {k.removeprefix(f"{prefix}/"): v for k, v in result.items() if k.rpartition("/")[0] == prefix}
        if not _is_told_elsewhere(name, mine):
            rows[_words(key)] = _told(name, value, mine)
    return Figures(title, rows)


def _is_told_elsewhere(name: str, result: Mapping[str, float | str | int]) -> bool:
    return (
        (name.endswith("_ci95") and name.removesuffix("_ci95") in result)
        or (name == "chance" and "accuracy" in result)
        or (name == "transductive" and "norm_mode" in result)
    )


def _told(name: str, value: float | str | int, result: Mapping[str, float | str | int]) -> str:
    """Formats one figure together with those that qualify it."""
    if name == "norm_mode":
        return f"{value} (transductive)" if result.get("transductive") else str(value)
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    told = _with_interval(name, float(value), result.get(f"{name}_ci95"))
    if name != "accuracy" or not {"chance", "way"} & set(result):
        return told
    chance = float(result["chance"]) if "chance" in result else 1 / float(result["way"])
    return f"{told} (chance {percent(chance, 1)})"


def _with_interval(name: str, value: float, half_width: float | str | int | None) -> str:
    """Formats a figure and half the width of its interval with the same unit and decimals."""
    share = is_share(name, [value])
    if half_width is None or math.isnan(float(half_width)) or math.isnan(value):
        return figure(value, share=share)
    half = float(half_width) * (100 if share else 1)
    decimals = 1 if share else 4
    decimals = min(max(decimals, -math.floor(math.log10(half))), 6) if half > 0 else decimals
    return f"{percent(value, decimals) if share else format(value, f'.{decimals}f')} ± {half:.{decimals}f}"


def strips_of_queries(
    average_precision: Float[np.ndarray, "q"],
    nearest: Int[np.ndarray, "q k"],
    *,
    query_labels: Int[np.ndarray, "q"],
    gallery_labels: Int[np.ndarray, "g"],
    names: Sequence[str],
    query_image: Callable[[int], Photo],
    gallery_image: Callable[[int], Photo],
    worst: int,
    best: int,
) -> list[Strip]:
    """Shows what was found for the queries that were answered worst and best.

    Only the photos shown are read.

    Args:
      average_precision: A query; NaN where it has no match, and is not shown.
      nearest: Gallery rows, nearest first; negative where there are no more.
      query_labels: Positions in `names`.
      gallery_labels: Positions in `names`.
      names: Name of each label.
      query_image: Reads the photo of a query row.
      gallery_image: Reads the photo of a gallery row.
      worst: Queries of lowest average precision to show, lowest first.
      best: Queries of highest average precision to show, highest first, without those shown as worst.

    Returns:
      One strip a query; the earlier row first among equals.

    Raises:
      ValueError: The arrays differ in their number of queries.
    """
    if not len(average_precision) == len(nearest) == len(query_labels):
        raise ValueError(
            f"{len(average_precision)} average precisions, {len(nearest)} rows of nearest photos and "
            f"{len(query_labels)} query labels; give one of each a query"
        )
    judged = np.flatnonzero(~np.isnan(average_precision))
    low = judged[np.argsort(average_precision[judged], kind="stable")][:worst]
    high = judged[np.argsort(-average_precision[judged], kind="stable")]
    high = high[~np.isin(high, low)][:best]

    def strip(kind: str, place: int, query: int) -> Strip:
        label = query_labels[query]
        asked = Picture(query_image(query), names[label])
        found = [
            Picture(gallery_image(row), names[gallery_labels[row]], bool(gallery_labels[row] == label))
            for row in map(int, nearest[query])
            if row >= 0
        ]
        precision = percent(float(average_precision[query]), 1)
        return Strip(f"{kind} query {place}: {names[label]}, average precision {precision}", [asked, *found])

    shown = [("Worst", rank, int(query)) for rank, query in enumerate(low, start=1)]
    shown += [("Best", rank, int(query)) for rank, query in enumerate(high, start=1)]
    return [strip(*which) for which in shown]


def episode_picture(
    title: str,
    support: UInt8[np.ndarray, "way shot h w c"],
    query: UInt8[np.ndarray, "way queries h w c"],
    predicted: Int[np.ndarray, "way queries"],
    *,
    names: Sequence[str] = (),
) -> EpisodePicture:
    """Shows one episode, with what each query photo was taken for where that is wrong.

    Args:
      title: Heading of the episode.
      support: Photos by label.
      query: Photos by label.
      predicted: 0 to way - 1.
      names: Name of each label; "label 0" and so on where empty.

    Returns:
      A part for `render`.
    """
    called = names or [f"label {i}" for i in range(len(support))]
    judged = [
        [Picture(image, "" if guess == label else f"taken for {called[guess]}", bool(guess == label))
         for image, guess in zip(images, guesses, strict=True)]
        for label, (images, guesses) in enumerate(zip(query, predicted, strict=True))
    ]  # fmt: skip
    return EpisodePicture(title, [[Picture(image) for image in images] for images in support], judged, called)


def attention_strip(
    title: str, image: UInt8[np.ndarray, "h w c"], attention: Float[np.ndarray, "heads rows columns"]
) -> Photos:
    """Shows where a network looks on a photo: the photo, lit by the mean over heads, and by each head.

    Args:
      title: Heading.
      image: The photo.
      attention: How much is taken from each place; at most six heads are shown.

    Returns:
      A part for `render`.
    """

    def lit(weight: Float[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "h w c"]:
        share = np.asarray(weight, np.float32) / max(float(np.max(weight)), 1e-12)
        height, width = image.shape[:2]
        fine = np.asarray(Image.fromarray(share).resize((width, height), Image.Resampling.BILINEAR))
        return np.round(image[..., :3] * (DARKEST + (1 - DARKEST) * fine[..., None])).astype(np.uint8)

    heads = [Picture(lit(head), f"head {i}") for i, head in enumerate(attention[:6], start=1)]
    return Photos(title, [Picture(image), Picture(lit(attention.mean(axis=0)), "all heads"), *heads])


def precision_recall_curve(
    precision: Float[np.ndarray, "levels"], *, title: str = "Precision and recall"
) -> Curve:
    """Draws the mean interpolated precision at evenly spaced recall levels from 0 to 1; NaN draws nothing."""
    recall = np.linspace(0, 1, len(precision))
    name = "mean interpolated precision"
    return Curve(title, {name: (recall.tolist(), np.asarray(precision).tolist())}, "recall", name)


def bars_by_category(title: str, figures: Mapping[str, tuple[float, int]]) -> Bars:
    """Draws one bar a category, the highest first, NaN last.

    Args:
      title: Such as "mAP by category".
      figures: (value, count) by category.
    """
    ordered = sorted(figures.items(), key=lambda item: (math.isnan(item[1][0]), -item[1][0]))
    return Bars(title, dict(ordered))


def confusion_grid(title: str, confusion: Int[np.ndarray, "c c"], names: Sequence[str], *, most: int) -> Grid:
    """Draws what photos of each name were taken for, as shares of its photos.

    Args:
      title: Heading.
      confusion: Photos by true (rows) and predicted name (columns).
      names: Of both.
      most: So many names are shown, those with the most photos; all others are one row and one column.

    Returns:
      A heat map; a share of 0, and a row without photos, is empty.
    """
    counts = np.asarray(confusion)
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    shown, others = (order, order[:0]) if len(order) <= most else (order[:most], order[most:])
    heads = [names[i] for i in shown]
    table = counts[np.ix_(shown, shown)]
    if len(others):
        right, below = counts[np.ix_(shown, others)].sum(axis=1), counts[np.ix_(others, shown)].sum(axis=0)
        corner = counts[np.ix_(others, others)].sum()
        table = np.block([[table, right[:, None]], [below[None, :], np.array([[corner]])]])
        heads.append(f"{len(others)} others")
    photos = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, photos, out=np.full(table.shape, np.nan), where=(photos > 0) & (table > 0))
    return Grid(title, heads, [f"{head} ({int(n):,})" for head, n in zip(heads, photos[:, 0], strict=True)],
                shares, ".0%")  # fmt: skip


def environment_note(command: str | Sequence[str], *, date: str, title: str = "How this was made") -> Note:
    """Says how to make the report again: command, date, devices, versions.

    Args:
      command: As typed, or its words, which are quoted as a shell needs it.
      date: Of the run; given, so that the same run gives the same report.
      title: Heading of the note.
    """
    import jax

    import fsl_jax

    typed = command if isinstance(command, str) else shlex.join(command)
    versions = {name: metadata.version(name) for name in ("jax", "flax", "optax", "numpy")}
    versions = {"fsl_jax": fsl_jax.__version__, "python": platform.python_version(), **versions}
    lines = {
        "date": date,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processes": str(jax.process_count()),
        "system": f"{platform.system()} {platform.machine()}",
        **versions,
    }
    width = max(map(len, lines))
    told = [f"{name:<{width}}  {value}" for name, value in lines.items()]
    return Note(title, "\n".join([f"$ {typed}", "", *told]))
