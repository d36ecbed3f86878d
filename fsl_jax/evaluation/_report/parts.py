"""The parts of a report: plain data, checked when it is made, with no word about how it looks."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8


@dataclasses.dataclass(frozen=True)
class Picture:
    """One photo, and whether what was predicted for it is right.

    Attributes:
      image: Grey (1 channel) or colour (3 channels); a mask (4 channels) is not shown.
      caption: Shown below the photo.
      right: True draws a tick, False a cross, None neither.

    Raises:
      ValueError: The array is not uint8, or not of one of these shapes.
    """

    image: UInt8[np.ndarray, "h w c"]
    caption: str = ""
    right: bool | None = None

    def __post_init__(self) -> None:
        shape = self.image.shape
        if self.image.dtype != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3, 4) or 0 in shape:
            raise ValueError(
                f"picture {self.caption!r} is {self.image.dtype} {list(shape)}; expected uint8 "
                "[h, w, 1, 3 or 4], one photo as it was read"
            )


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line chart.

    Values that are not finite are gaps; on a log axis so are those not above 0.

    Attributes:
      title: Heading of the chart.
      lines: By name, the values along x and along y. Shown as percentages where the axis' label names a
        share, such as "accuracy", and all values are 0 to 1.
      label_x: What runs along x, with its unit.
      label_y: What runs along y, with its unit.
      log_x: Logarithmic x axis.
      log_y: Logarithmic y axis.

    Raises:
      ValueError: A line has unequal numbers of x and y.
    """

    title: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    label_x: str
    label_y: str
    log_x: bool = False
    log_y: bool = False

    def __post_init__(self) -> None:
        for name, (along, values) in self.lines.items():
            if len(along) != len(values):
                raise ValueError(
                    f"line {name!r} of {self.title!r} has {len(along)} x and {len(values)} y; give one y an x"
                )


@dataclasses.dataclass(frozen=True)
class Figures:
    """A table of names and formatted values.

    Attributes:
      title: Heading of the table.
      rows: Formatted value by name, in the order shown.
    """

    title: str
    rows: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Grid:
    """A heat map with its numbers, such as accuracy over ways and shots.

    Attributes:
      title: Heading of the table.
      columns: Column heads.
      rows: Row heads.
      values: NaN where there is no value.
      format: Python format specification of a cell, such as ".1%".

    Raises:
      ValueError: `values` is not [rows, columns], or the format is none for a float.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: Float[np.ndarray, "r c"]
    format: str

    def __post_init__(self) -> None:
        expected = (len(self.rows), len(self.columns))
        if np.shape(self.values) != expected:
            raise ValueError(
                f"values of {self.title!r} are {list(np.shape(self.values))}; expected {list(expected)}, "
                "one a row head and column head"
            )
        try:
            format(0.5, self.format)
        except ValueError as error:
            raise ValueError(
                f"format of {self.title!r} is {self.format!r}; expected a format specification such as '.1%'"
            ) from error


@dataclasses.dataclass(frozen=True)
class Strip:
    """One query and what was found for it.

    Attributes:
      title: Heading of the strip.
      pictures: The query first, then the ranked photos, nearest first.
    """

    title: str
    pictures: Sequence[Picture]


@dataclasses.dataclass(frozen=True)
class Photos:
    """Photos side by side, each with its caption.

    Attributes:
      title: Heading.
      pictures: In the order shown.
    """

    title: str
    pictures: Sequence[Picture]


@dataclasses.dataclass(frozen=True)
class EpisodePicture:
    """One few-shot episode: a row a label, with its support and its query photos.

    Attributes:
      title: Heading of the episode.
      support: [way][shot].
      query: [way][queries]; `right` says whether the prediction is.
      names: Name of each label; "label 0" and so on where empty.

    Raises:
      ValueError: The number of labels differs.
    """

    title: str
    support: Sequence[Sequence[Picture]]
    query: Sequence[Sequence[Picture]]
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        way = len(self.support)
        if len(self.query) != way or len(self.names) not in (0, way):
            raise ValueError(
                f"episode {self.title!r} has support of {way} labels, query of {len(self.query)} and "
                f"{len(self.names)} names; give one row of each a label"
            )


@dataclasses.dataclass(frozen=True)
class Bars:
    """A bar chart of one figure a category.

    Attributes:
      title: Heading of the chart; values are percentages where it names a share, such as "mAP by category".
      bars: (value, count) by name, in the order shown; a negative value or NaN has no bar.
    """

    title: str
    bars: Mapping[str, tuple[float, int]]


@dataclasses.dataclass(frozen=True)
class Note:
    """Text in a fixed-width font, such as the command that made the report.

    Attributes:
      title: Heading of the note.
      text: Shown as it is, line by line.
    """

    title: str
    text: str


Part = Curve | Figures | Grid | Strip | Photos | EpisodePicture | Bars | Note
