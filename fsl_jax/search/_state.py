"""What index.json holds: the one file that says which others count."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from fsl_jax.data.augment import Preprocess
from fsl_jax.search import _disk
from fsl_jax.search._segments import Damaged, Written

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class State:
    """One state of an index.

    Attributes:
      identity: Drawn when the index is created, so that another one in the same place is told apart.
      model: See `models.spec_of`.
      digest: Of the model.
      preprocess: How its photos are prepared.
      dimensions: Length of an embedding.
      segments: What there is to say of each, in order.
      removed: Name of the file with the rows that were removed; None where none was.
      next: Number of the next file or folder; none is used twice, so that a reader never opens another one than it
        looked for.
      calibration: See `search.calibration`; None where the index has none.
    """

    identity: str
    model: dict[str, str]
    digest: str
    preprocess: Preprocess
    dimensions: int
    segments: tuple[Written, ...] = ()
    removed: str | None = None
    next: int = 1
    calibration: dict[str, Any] | None = None

    @property
    def rows(self) -> int:
        """Rows of all segments, removed ones too."""
        return sum(each.rows for each in self.segments)

    def as_json(self) -> bytes:
        """Writes the state."""
        plain = {"format": FORMAT, **dataclasses.asdict(self)}
        return (json.dumps(plain, indent=2, ensure_ascii=False) + "\n").encode()


def read_state(folder: Path) -> tuple[bytes, State]:
    """Reads index.json; returns its bytes too.

    Raises:
      ValueError: There is no index, or one of another format.
      Damaged: index.json is not as it was written.
    """
    file = folder / _disk.TRUTH
    try:
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"no index in {folder} ({_disk.TRUTH} is missing): make one with fsl-jax index build --out {folder}"
        ) from error
    try:
        plain = json.loads(content)
        written = plain.pop("format")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Damaged(f"{file} is damaged or cut short") from error
    if written != FORMAT:
        raise ValueError(f"{file} has format {written!r}; this version of fsl_jax reads format {FORMAT}")
    try:
        plain["segments"] = tuple(Written(**each) for each in plain["segments"])
        how = plain["preprocess"]
        plain["preprocess"] = Preprocess(**{**how, "mean": tuple(how["mean"]), "std": tuple(how["std"])})
        return content, State(**plain)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{file} is damaged: {error}") from error
