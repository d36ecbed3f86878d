"""A trained classifier as a function from photos to names and probabilities."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8
from rich.markup import escape
from rich.table import Table

from fsl_jax.data.augment import Preprocess
from fsl_jax.data.read import UnreadablePhoto, read_photo
from fsl_jax.progress import track
from fsl_jax.taxonomy import Taxonomy

AT_ONCE = 16
"""Photos of one program; a last block is filled up, so that any number of photos compiles once."""


@dataclasses.dataclass(frozen=True)
class Named:
    """A name and how probable it is, 0 to 1."""

    name: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What is said of one photo.

    Attributes:
      photo: Its file.
      levels: The most probable names of each level, best first.
      attributes: Those above the threshold, the most probable first.
      error: Why the photo could not be read; then nothing is said of it.
    """

    photo: str
    levels: dict[str, tuple[Named, ...]] = dataclasses.field(default_factory=dict)
    attributes: tuple[Named, ...] = ()
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns plain lists, numbers and text."""
        if self.error is not None:
            return {"photo": self.photo, "error": self.error}
        return {
            "photo": self.photo,
            "levels": {
                name: [dataclasses.asdict(best) for best in names] for name, names in self.levels.items()
            },
            "attributes": [dataclasses.asdict(named) for named in self.attributes],
        }


def probabilities(outputs: dict[str, Any]) -> dict[str, Any]:
    """Turns a method's logits into probabilities: softmax of each level, sigmoid of each attribute."""
    found: dict[str, Any] = {}
    if "levels" in outputs:
        found["levels"] = tuple(jax.nn.softmax(logits) for logits in outputs["levels"])
    if "attributes" in outputs:
        found["attributes"] = jax.nn.sigmoid(outputs["attributes"])
    return found


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model that names what photos show.

    Attributes:
      classify: Jitted; from uint8 photos to `probabilities`, preprocessing inside.
      preprocess: Size and fit of the photos.
      taxonomy: The names.
    """

    classify: Callable[[UInt8[Array, "b h w c"]], dict[str, Any]]
    preprocess: Preprocess
    taxonomy: Taxonomy

    def __call__(self, photos: Sequence[Path], *, top: int, threshold: float) -> Iterator[Prediction]:
        """Names what each photo shows, in the order given; a photo that cannot be read has an error.

        Args:
          photos: Files.
          top: Names of each level.
          threshold: Probability from which on an attribute is named.

        Raises:
          ValueError: `top` is below 1, or the threshold not 0 to 1.
        """
        if top < 1 or not 0 <= threshold <= 1:
            raise ValueError(
                f"top is {top} and threshold {threshold}; expected at least 1 name, and a probability of 0 to 1"
            )
        starts = range(0, len(photos), AT_ONCE)
        with ThreadPoolExecutor() as threads:
            for start in track(starts, description="classifying", total=len(starts), unit="blocks"):
                some = photos[start : start + AT_ONCE]
                yield from self._block(some, list(threads.map(self._read, some)), top, threshold)

    def _read(self, photo: Path) -> UInt8[np.ndarray, "s s c"] | str:
        how = self.preprocess
        try:
            return read_photo(photo, size=how.size, channels=how.channels, fit=how.fit)  # type: ignore[arg-type]
        except UnreadablePhoto as error:
            return error.reason

    def _block(
        self, photos: Sequence[Path], read: list[np.ndarray | str], top: int, threshold: float
    ) -> Iterator[Prediction]:
        how = self.preprocess
        images = np.zeros((AT_ONCE, how.size, how.size, how.channels), np.uint8)
        for place, image in enumerate(read):
            if not isinstance(image, str):
                images[place] = image
        found = jax.tree.map(np.asarray, self.classify(jnp.asarray(images)))
        for place, (photo, image) in enumerate(zip(photos, read, strict=True)):
            if isinstance(image, str):
                yield Prediction(str(photo), error=image)
            else:
                yield self._named(
                    str(photo), jax.tree.map(lambda values, at=place: values[at], found), top, threshold
                )

    def _named(self, photo: str, found: dict[str, Any], top: int, threshold: float) -> Prediction:
        levels = {
            level.name: _best(level.names, shares, top)
            for level, shares in zip(self.taxonomy.levels, found.get("levels", ()), strict=False)
        }
        attributes = _best(self.taxonomy.attributes, found.get("attributes", np.zeros(0)), None)
        return Prediction(
            photo, levels, tuple(named for named in attributes if named.probability >= threshold)
        )


def _best(names: Sequence[str], shares: np.ndarray, top: int | None) -> tuple[Named, ...]:
    order = np.argsort(-shares, kind="stable")[:top]
    return tuple(Named(names[i], float(shares[i])) for i in order)


def as_table(predictions: Sequence[Prediction]) -> Table:
    """Shows predictions for a terminal, a row a photo."""
    levels = list(dict.fromkeys(name for prediction in predictions for name in prediction.levels))
    has_attributes = any(prediction.attributes for prediction in predictions)
    table = Table()
    for heading in ("photo", *levels, *(["attributes"] if has_attributes else [])):
        table.add_column(heading, overflow="fold")
    for prediction in predictions:
        if prediction.error is not None:
            table.add_row(escape(prediction.photo), f"[red]{escape(prediction.error)}")
            continue
        cells = ["\n".join(map(_told, prediction.levels[name])) for name in levels]
        cells += [", ".join(map(_told, prediction.attributes))] if has_attributes else []
        table.add_row(escape(prediction.photo), *cells)
    return table


def _told(named: Named) -> str:
    return f"{escape(named.name)} [dim]{named.probability:.0%}[/dim]"
