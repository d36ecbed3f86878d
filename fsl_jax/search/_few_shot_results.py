"""From files to guesses, and how these are shown."""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from rich.markup import escape
from rich.table import Table

from fsl_jax.data.read import UnreadablePhoto, read_photo
from fsl_jax.embedder import Embedder
from fsl_jax.progress import track
from fsl_jax.search.few_shot import AT_ONCE, Classifier, Guess, embed_photos


@dataclasses.dataclass(frozen=True)
class Told:
    """A photo's file, and its guess or why it cannot be read."""

    photo: str
    guess: Guess | None = None
    error: str | None = None

    def as_json(self, *, top: int) -> dict[str, Any]:
        """Returns plain lists, numbers and text; the label of an unknown photo is None.

        Args:
          top: Labels that are ranked, at most.
        """
        if self.guess is None:
            return {"photo": self.photo, "error": self.error}
        guess = self.guess
        ranked = [{"label": label, "probability": share} for label, share in guess.ranked[:top]]
        return {
            "photo": self.photo,
            "label": guess.label,
            "probability": guess.probability,
            "score": guess.score,
            "ranked": ranked,
        }


def classify_photos(
    classifier: Classifier, embedder: Embedder, photos: Sequence[Path], *, unknown_below: float | None
) -> Iterator[Told]:
    """Classifies files, in the order given; one that cannot be read has an error."""
    how = embedder.preprocess

    def read(photo: Path) -> UInt8[np.ndarray, "s s c"] | str:
        try:
            return read_photo(photo, size=how.size, channels=how.channels, fit=how.fit)  # type: ignore[arg-type]
        except UnreadablePhoto as error:
            return error.reason

    starts = range(0, len(photos), AT_ONCE)
    with ThreadPoolExecutor() as threads:
        for start in track(starts, description="classifying", total=len(starts), unit="blocks"):
            some = photos[start : start + AT_ONCE]
            found = list(threads.map(read, some))
            images = [image for image in found if not isinstance(image, str)]
            embeddings = embed_photos(embedder, np.stack(images)) if images else np.zeros((0, 1))
            guesses = iter(classifier(embeddings, unknown_below=unknown_below))
            for photo, image in zip(some, found, strict=True):
                if isinstance(image, str):
                    yield Told(str(photo), error=image)
                else:
                    yield Told(str(photo), next(guesses))


def as_table(told: Sequence[Told]) -> Table:
    """Shows guesses for a terminal, a row a photo."""
    table = Table()
    for heading in ("photo", "label", "probability", "score"):
        table.add_column(heading, overflow="fold")
    for each in told:
        if each.guess is None:
            table.add_row(escape(each.photo), f"[red]{escape(str(each.error))}")
            continue
        nearest = escape(each.guess.ranked[0][0])
        label = f"[yellow]unknown[/yellow] [dim](nearest: {nearest})" if each.guess.label is None else nearest
        table.add_row(escape(each.photo), label, f"{each.guess.probability:.0%}", f"{each.guess.score:.3f}")
    return table
