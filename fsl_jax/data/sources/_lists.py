"""What the sources of published sets share: their lists of photos, their counts, how labels go to validation."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fsl_jax.data.table import split_labels

Lines = Sequence[tuple[int, list[str]]]
"""Number and cells of each line."""


@dataclasses.dataclass(frozen=True)
class Listing:
    """The rows of a list, which know their lines.

    Attributes:
      file: Where they were read.
      lines: Line of each row, from 1.
      columns: Cells of each column, by its name.
    """

    file: Path
    lines: Sequence[int]
    columns: Mapping[str, list[str]]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, column: str) -> list[str]:
        return self.columns[column]

    def wrong(self, row: int, expected: str) -> ValueError:
        """Makes the error that a row is not as expected."""
        cells = " ".join(column[row] for column in self.columns.values())
        return ValueError(f"{self.file}: line {self.lines[row]} is {cells!r}; expected {expected}")

    def parsed(self, column: str, pattern: str, expected: str) -> list[re.Match[str]]:
        """Matches whole cells of a column.

        Raises:
          ValueError: A cell does not match; the message has its line and `expected`.
        """
        compiled = re.compile(pattern)
        matches = []
        for row, cell in enumerate(self.columns[column]):
            match = compiled.fullmatch(cell)
            if match is None:
                raise self.wrong(row, f"{column} such as {expected}")
            matches.append(match)
        return matches

    def position(self, column: str) -> dict[str, int]:
        """Gives the row of each cell of a column.

        Raises:
          ValueError: A cell is there twice.
        """
        rows: dict[str, int] = {}
        for row, cell in enumerate(self.columns[column]):
            if cell in rows:
                raise self.wrong(
                    row, f"another {column} than in line {self.lines[rows[cell]]}: remove one of them"
                )
            rows[cell] = row
        return rows


def find(root: str | Path | None, places: Sequence[str], *, source: str, obtain: str) -> Path:
    """Finds the first file that is there, of several relative to `root`.

    Raises:
      ValueError: None is there; the message says what to get.
    """
    if root is None:
        raise ValueError(f"{source} needs a root folder; {obtain}")
    for place in places:
        if (Path(root) / place).is_file():
            return Path(root) / place
    raise ValueError(f"{source}: no {' or '.join(places)} in {root}; {obtain}")


def photo_folder(
    root: str | Path | None, paths: Sequence[str], *, source: str, obtain: str, places: Sequence[str] = ("",)
) -> Path:
    """Finds the folder that listed paths start from: the one which has the first folder of each.

    Whether every photo is there is left to those who read them: a look at each of 100,000 files takes minutes on
    a network's disk.

    Raises:
      ValueError: A folder is missing.
    """
    first = sorted({path.split("/", 1)[0] for path in paths})
    folders = [Path(root or "") / place for place in places]
    for folder in folders:
        missing = [name for name in first if not (folder / name).is_dir()]
        if not missing:
            return folder
    looked = " or ".join(map(str, folders))
    raise ValueError(f"{source}: no folder {missing[0]} with photos in {looked}; {obtain}")


def read_list(file: Path, columns: Sequence[str], *, titled: bool = False, counted: bool = False) -> Listing:
    """Reads a list whose cells are parted by blanks; empty lines are passed over.

    Args:
      file: The list.
      columns: Names of its columns.
      titled: Whether a line with these names stands before the rows.
      counted: Whether a line with a number stands before everything.

    Raises:
      ValueError: A line does not have one cell a column, or there is no row.
    """
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if counted:
        _check_title(file, lines, lambda cells: len(cells) == 1 and cells[0].isdigit(), "the number of rows")
        lines = lines[1:]
    if titled:
        _check_title(file, lines, lambda cells: cells == list(columns), f"the title {' '.join(columns)!r}")
        lines = lines[1:]
    for number, cells in lines:
        if len(cells) != len(columns):
            raise ValueError(
                f"{file}: line {number} is {' '.join(cells)!r}; expected {len(columns)} cells: {' '.join(columns)}"
            )
    if not lines:
        raise ValueError(f"{file} has no rows; expected lines of {' '.join(columns)}")
    cells_by_column = zip(*(cells for _, cells in lines), strict=True)
    return Listing(
        file, [number for number, _ in lines], dict(zip(columns, map(list, cells_by_column), strict=True))
    )


def _check_title(file: Path, lines: Lines, fits: Callable[[list[str]], bool], expected: str) -> None:
    number, cells = lines[0] if lines else (1, [])
    if not fits(cells):
        raise ValueError(f"{file}: line {number} is {' '.join(cells)!r}; expected {expected}")


def check_published(source: str, found: Mapping[str, int], expected: Mapping[str, int]) -> None:
    """Compares counts with those that were published.

    Args:
      source: Name of the source, for messages.
      found: Counts by what is counted, such as "train photos".
      expected: Published counts; other counts are not looked at.

    Raises:
      ValueError: One differs.
    """
    for what, count in expected.items():
        if found[what] != count:
            raise ValueError(
                f"{source}: found {found[what]:,} {what}, expected {count:,} as published: complete the set, "
                "or read a part of it with check_counts=False"
            )


def hold_out(labels: Sequence[str], split: np.ndarray, *, val_fraction: float, seed: int) -> np.ndarray:
    """Moves a part of the training labels, with all their photos, to validation.

    Args:
      labels: Label a row.
      split: Split a row.
      val_fraction: Share of the labels in "train" that become "val"; 0 for none.
      seed: Of the shuffle.

    Returns:
      Split a row.

    Raises:
      ValueError: The share is not at least 0 and below 1.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(
            f"val_fraction is {val_fraction}; expected 0 (none) or more, and below 1, so that some labels are left "
            "for training"
        )
    train = np.asarray(split) == "train"
    names = sorted({label for label, is_train in zip(labels, train, strict=True) if is_train})
    dealt = split_labels(names, fractions=(1 - val_fraction, val_fraction, 0.0), seed=seed)
    return np.array(
        [
            dealt[label] if is_train else str(name)
            for label, is_train, name in zip(labels, train, split, strict=True)
        ]
    )


def halved(numbers: Sequence[int], *, last: int, val_labels: int) -> np.ndarray:
    """Gives the split of each row by its label's number: up to `last` for training, the others for test.

    Args:
      numbers: Number of each row's label, from 1.
      last: Last label of training and validation.
      val_labels: How many of these, the last ones, are for validation.

    Raises:
      ValueError: No label is left for training, or `val_labels` is negative.
    """
    if not 0 <= val_labels < last:
        raise ValueError(
            f"val_labels is {val_labels}; expected 0 to {last - 1}, so that some are left for training"
        )
    number = np.asarray(numbers)
    return np.where(number > last, "test", np.where(number > last - val_labels, "val", "train"))
