"""The one form that every data set takes before it is sampled: columns of equal length, checked once."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Num, UInt8

ROLES = ("", "query", "gallery", "support")
SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Coded:
    """A column of names, stored as codes.

    Attributes:
      codes: Position of each row's name in `names`; -1 where the value is unknown.
      names: The distinct names.
    """

    codes: Int[np.ndarray, "n"]
    names: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[str]) -> "Coded":
        """Codes a column of names, sorted by the alphabet; an empty name is unknown.

        Example:
          >>> Coded.of(["b", "a", "", "b"]).codes.tolist()
          [1, 0, -1, 1]
        """
        names, codes = np.unique(np.asarray(values, dtype=str), return_inverse=True)
        unknown = int(len(names) > 0 and names[0] == "")
        return cls((codes - unknown).astype(np.int32), tuple(str(name) for name in names[unknown:]))

    def take(self, rows: Int[np.ndarray, "m"]) -> "Coded":
        """Keeps some rows, and all the names."""
        return dataclasses.replace(self, codes=self.codes[rows])

    def recode(self) -> "Coded":
        """Drops the names that no row has."""
        used, codes = np.unique(self.codes, return_inverse=True)
        unknown = int(len(used) > 0 and used[0] < 0)
        return Coded((codes - unknown).astype(np.int32), tuple(self.names[i] for i in used[unknown:]))

    def counts(self) -> Int[np.ndarray, "names"]:
        """Counts the rows of each name."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))


@dataclasses.dataclass(frozen=True)
class Attributes:
    """A many-to-many column.

    Attributes:
      values: Whether row i has attribute j.
      names: The attributes, in the order of the columns.
      known: Whether the value was stated at all; None where all were.
    """

    values: Bool[np.ndarray, "n a"]
    names: tuple[str, ...]
    known: Bool[np.ndarray, "n a"] | None = None

    @classmethod
    def of(cls, values: Sequence[str], separator: str = "|") -> "Attributes":
        """Reads cells such as "colour=red|material=wool"; an empty cell has no attribute."""
        cells = [[part.strip() for part in cell.split(separator) if part.strip()] for cell in values]
        names = sorted({part for cell in cells for part in cell})
        column = {name: j for j, name in enumerate(names)}
        table = np.zeros((len(cells), len(names)), bool)
        for i, cell in enumerate(cells):
            table[i, [column[part] for part in cell]] = True
        return cls(table, tuple(names))

    @classmethod
    def of_columns(
        cls, columns: Mapping[str, Sequence[str]], *, unknown: Sequence[str] = ("", "NA")
    ) -> "Attributes":
        """Makes the attributes "group=value" of columns with one value a row.

        Args:
          columns: Cells of each group, one a row; blanks around them do not count.
          unknown: Cells that state nothing: such a row is unknown for every value of the group.

        Returns:
          Attributes in the order of the groups, and sorted within a group. A row has at most one of a group.

        Raises:
          ValueError: Columns differ in length.

        Example:
          >>> stated = Attributes.of_columns({"colour": ["red", "NA", "blue"]})
          >>> stated.names
          ('colour=blue', 'colour=red')
          >>> stated.known.tolist()
          [[True, True], [False, False], [True, True]]
        """
        if len({len(cells) for cells in columns.values()}) > 1:
            lengths = ", ".join(f"{group!r} has {len(cells)}" for group, cells in columns.items())
            raise ValueError(f"columns of attributes differ in length: {lengths} rows")
        rows = max((len(cells) for cells in columns.values()), default=0)
        values, known, names = [np.zeros((rows, 0), bool)], [np.zeros((rows, 0), bool)], []
        for group, cells in columns.items():
            stripped = [cell.strip() for cell in cells]
            stated = Coded.of(["" if cell in unknown else cell for cell in stripped])
            values.append(stated.codes[:, None] == np.arange(len(stated.names)))
            known.append(np.repeat(stated.codes[:, None] >= 0, len(stated.names), axis=1))
            names += [f"{group}={name}" for name in stated.names]
        all_known = np.concatenate(known, axis=1)
        return cls(np.concatenate(values, axis=1), tuple(names), None if all_known.all() else all_known)

    def join(self, other: "Attributes") -> "Attributes":
        """Adds the attributes of the same rows that were stated elsewhere.

        Returns:
          These attributes, then the new ones of the other. A row has an attribute that both name where either says
          so, and lacks it for certain only where both are known.
        """
        names = (*self.names, *(name for name in other.names if name not in self.names))
        values = np.zeros((len(self.values), len(names)), bool)
        known = np.ones_like(values)
        for part in (self, other):
            columns = [names.index(name) for name in part.names]
            values[:, columns] |= part.values
            known[:, columns] &= True if part.known is None else part.known
        known |= values
        return Attributes(values, names, None if known.all() else known)

    def take(self, rows: Int[np.ndarray, "m"]) -> "Attributes":
        """Keeps some rows."""
        known = None if self.known is None else self.known[rows]
        return dataclasses.replace(self, values=self.values[rows], known=known)


@dataclasses.dataclass(frozen=True)
class Table:
    """Photos and what is known of them.

    A row's photo is either a file (`path`, relative to `root`) or a row of `images`.

    Attributes:
      source: Name of the source, for messages.
      label: Identity of each photo; never unknown.
      split: "train", "val" or "test" a row.
      path: File of each photo, relative to `root`, with forward slashes; None where `images` is given.
      root: Folder of the files.
      images: The photos themselves, one size, 1, 3 or 4 channels (the fourth is a mask); or features of frozen
        photos, float32 of 1 x 1 with a channel a feature. None where `path` is given.
      mask: File that says where each photo shows the article, relative to `root`, with forward slashes; "" where
        there is none; see `data.read.read_photo`. None also where `images` is given.
      role: "query", "gallery", "support" or "" a row.
      domain: Camera or kind of photographer.
      levels: Category levels from coarse to fine, by name.
      attributes: Stated properties.
      text: Description a row; "" where there is none.
      numbers: Further columns of numbers or vectors a row, by name, that a training step is given, such as "text" for
        description vectors.

    Raises:
      ValueError: Columns differ in length, or a value is not allowed.
    """

    source: str
    label: Coded
    split: np.ndarray
    path: np.ndarray | None = None
    root: Path | None = None
    images: UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n 1 1 d"] | None = None
    mask: np.ndarray | None = None
    role: np.ndarray | None = None
    domain: Coded | None = None
    levels: Mapping[str, Coded] = dataclasses.field(default_factory=dict)
    attributes: Attributes | None = None
    text: np.ndarray | None = None
    numbers: Mapping[str, Num[np.ndarray, "n *t"]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.path is None) == (self.images is None):
            raise ValueError(f"{self.source}: a table has either files (path) or arrays (images)")
        if self.mask is not None and self.path is None:
            raise ValueError(
                f"{self.source}: mask files go with photo files (path); of arrays a mask is the fourth channel"
            )
        for name, length in self._lengths().items():
            if length != len(self):
                raise ValueError(f"{self.source}: column {name!r} has {length} rows, label has {len(self)}")
        if (self.label.codes < 0).any():
            row = int(np.argmin(self.label.codes))
            raise ValueError(f"{self.source}: row {row} ({self.name(row)}) has no label")
        self._check_values("split", self.split, SPLITS)
        if self.role is not None:
            self._check_values("role", self.role, ROLES)

    def _lengths(self) -> dict[str, int]:
        columns = {
            "split": self.split,
            "path": self.path,
            "images": self.images,
            "mask": self.mask,
            "role": self.role,
            "text": self.text,
        }
        coded = {"domain": self.domain, **{f"levels[{name}]": level for name, level in self.levels.items()}}
        lengths = {name: len(column) for name, column in columns.items() if column is not None}
        lengths |= {name: len(column.codes) for name, column in coded.items() if column is not None}
        lengths |= {f"numbers[{name}]": len(column) for name, column in self.numbers.items()}
        return lengths | ({"attributes": len(self.attributes.values)} if self.attributes is not None else {})

    def _check_values(self, name: str, column: np.ndarray, allowed: Sequence[str]) -> None:
        wrong = np.flatnonzero(~np.isin(column, allowed))
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"{self.source}: {name} of row {row} ({self.name(row)}) is {str(column[row])!r}; "
                f"expected one of {', '.join(repr(value) for value in allowed)}"
            )

    def __len__(self) -> int:
        return len(self.label.codes)

    @property
    def has_features(self) -> bool:
        """Whether `images` holds features in place of photos."""
        return self.images is not None and self.images.dtype != np.uint8

    def name(self, row: int) -> str:
        """Names a row's photo for messages."""
        return f"image {row}" if self.path is None else str(self.path[row])

    def file(self, row: int) -> Path:
        """Returns the file of a row."""
        if self.path is None:
            raise ValueError(f"{self.source}: its photos are arrays, not files")
        return (self.root or Path()) / str(self.path[row])

    def mask_file(self, row: int) -> Path | None:
        """Returns the mask file of a row; None where it has none."""
        if self.mask is None or not self.mask[row]:
            return None
        return (self.root or Path()) / str(self.mask[row])

    def take(self, rows: Int[np.ndarray, "m"] | Bool[np.ndarray, "n"]) -> "Table":
        """Keeps some rows, in the order given; names of labels that are left without a row stay."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows

        def some(column):
            return None if column is None else column[rows]

        return dataclasses.replace(
            self,
            label=self.label.take(rows),
            split=self.split[rows],
            path=some(self.path),
            images=some(self.images),
            mask=some(self.mask),
            role=some(self.role),
            domain=None if self.domain is None else self.domain.take(rows),
            levels={name: level.take(rows) for name, level in self.levels.items()},
            attributes=None if self.attributes is None else self.attributes.take(rows),
            text=some(self.text),
            numbers={name: column[rows] for name, column in self.numbers.items()},
        )

    def select(self, split: str) -> "Table":
        """Keeps one split, sorted by label and otherwise in order, with labels coded anew from 0.

        Args:
          split: "train", "val", "test", or several joined by "+", such as "train+val".

        Raises:
          ValueError: An unknown split, or one without photos; the message says which splits there are.
        """
        wanted = split.split("+")
        have = {name: int((self.split == name).sum()) for name in SPLITS}
        if not set(wanted) <= set(SPLITS) or not any(have[name] for name in wanted):
            there = ", ".join(f"{name} ({count} photos)" for name, count in have.items() if count)
            raise ValueError(f"{self.source}: no photo in split {split!r}; there are {there or 'no photos'}")
        kept = self.take(np.isin(self.split, wanted))
        kept = kept.take(np.argsort(kept.label.codes, kind="stable"))
        return dataclasses.replace(kept, label=kept.label.recode())


def split_labels(names: Sequence[str], *, fractions: Sequence[float], seed: int) -> dict[str, str]:
    """Deals labels to train, val and test, so that no label is in two splits.

    Args:
      names: Distinct labels.
      fractions: Shares of train, val and test; they sum to 1.
      seed: Of the shuffle; the same seed and names give the same splits on every machine.

    Returns:
      Split by label. Every split with a positive share gets a label; where there are too few, train comes first.

    Raises:
      ValueError: Shares are negative or do not sum to 1.
    """
    shares = checked_fractions(fractions)
    shuffled = np.random.default_rng(seed).permutation(np.array(sorted(names), dtype=object))
    ends = np.round(np.cumsum(shares) * len(shuffled)).astype(int)
    for i in range(2):  # a small folder still gets one label in each split that was asked for
        later = int((shares[i + 1 :] > 0).sum())
        least = (ends[i - 1] if i else 0) + int(shares[i] > 0)
        ends[i] = min(max(ends[i], least), max(len(shuffled) - later, min(i + 1, len(shuffled))))
    starts = (0, *ends[:2])
    return {
        str(name): split
        for split, start, end in zip(SPLITS, starts, ends, strict=True)
        for name in shuffled[start:end]
    }


def checked_fractions(fractions: Sequence[float]) -> Float[np.ndarray, "3"]:
    """Returns the shares of train, val and test as an array.

    Raises:
      ValueError: Shares are negative or do not sum to 1.
    """
    shares = np.asarray(fractions, float)
    if shares.shape != (3,) or not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise ValueError(
            f"fractions are {tuple(np.atleast_1d(fractions))}; expected three shares (train, val, test) that sum to 1"
        )
    return shares
