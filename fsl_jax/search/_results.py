"""What a search found, for a terminal, as JSON, and as a page."""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from rich.markup import escape
from rich.table import Table as Shown

from fsl_jax.data.read import UnreadablePhoto, read_photo
from fsl_jax.evaluation.report import Figures, Note, Part, Picture, Strip
from fsl_jax.search._adding import FEW
from fsl_jax.search._thumbnails import file_thumbnail
from fsl_jax.search.searching import Hit, Searcher

if TYPE_CHECKING:
    from fsl_jax.search.calibration import Calibration
    from fsl_jax.search.index import Index

HEADED = 12
"""So many names at most are listed in one message."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found for one photo.

    Attributes:
      photo: Its file.
      hits: Best first.
      error: Why the photo cannot be read; then nothing was found.
    """

    photo: str
    hits: tuple[Hit, ...] = ()
    error: str | None = None

    def as_json(self, calibration: "Calibration | None") -> dict[str, Any]:
        """Returns plain lists, numbers and text; "same" is None where the index is not calibrated."""
        if self.error is not None:
            return {"photo": self.photo, "error": self.error}
        return {
            "photo": self.photo,
            "threshold": None if calibration is None else float(calibration.threshold),
            "false_accept_rate": None if calibration is None else float(calibration.false_accept_rate),
            "hits": [{**dataclasses.asdict(hit), "same": is_same(hit, calibration)} for hit in self.hits],
        }


def is_same(hit: Hit, calibration: "Calibration | None") -> bool | None:
    """Says whether a hit lies at or above the threshold; None where there is none."""
    return None if calibration is None else bool(hit.score >= calibration.threshold)


def search_photos(searcher: Searcher, photos: Sequence[Path], *, k: int) -> Iterator[Found]:
    """Searches with the photos of files, in their order; a photo that cannot be read has an error."""
    how = searcher.embedder.preprocess

    def read(photo: Path) -> UInt8[np.ndarray, "s s c"] | str:
        try:
            return read_photo(photo, size=how.size, channels=how.channels, fit=how.fit)  # type: ignore[arg-type]
        except UnreadablePhoto as error:
            return error.reason

    with ThreadPoolExecutor() as threads:
        for start in range(0, len(photos), FEW):
            some = photos[start : start + FEW]
            images = list(threads.map(read, some))
            good = [image for image in images if not isinstance(image, str)]
            hits = iter(searcher.search(searcher.embed(np.stack(good)), k=k) if good else [])
            for photo, image in zip(some, images, strict=True):
                if isinstance(image, str):
                    yield Found(str(photo), error=image)
                else:
                    yield Found(str(photo), tuple(next(hits)))


def as_table(found: Sequence[Found], calibration: "Calibration | None") -> Shown:
    """Shows what was found for a terminal, a row a hit."""
    shown = Shown()
    headings = [
        "query",
        "rank",
        "label",
        "score",
        *_calibrated_headings(calibration),
        "photos",
        "nearest photo",
    ]
    for heading in headings:
        shown.add_column(heading, overflow="fold")
    for each in found:
        if not each.hits:
            shown.add_row(escape(Path(each.photo).name), "", f"[red]{escape(each.error or 'nothing found')}")
        for rank, hit in enumerate(each.hits, start=1):
            verdict = () if calibration is None else (percent(hit), _verdict(hit, calibration))
            first = escape(Path(each.photo).name) if rank == 1 else ""
            score = f"{hit.score:.3f}"
            shown.add_row(
                first, str(rank), escape(hit.label), score, *verdict, str(hit.photos), escape(hit.id)
            )
        shown.add_section()
    return shown


def _calibrated_headings(calibration: "Calibration | None") -> list[str]:
    return [] if calibration is None else ["likely", "same"]


def percent(hit: Hit) -> str:
    """Writes a hit's probability."""
    if hit.probability is None:
        return ""
    return "< 1 %" if hit.probability < 0.01 else f"{100 * hit.probability:.0f} %"


def _verdict(hit: Hit, calibration: "Calibration | None") -> str:
    return "yes" if is_same(hit, calibration) else "no"


def told(calibration: "Calibration | None") -> str:
    """Says in a sentence what the threshold means."""
    if calibration is None:
        return "not calibrated: scores are cosine similarities, without a probability"
    return (
        f"same article from a score of {calibration.threshold:.3f} on, at which "
        f"{100 * calibration.false_accept_rate:g} % of the pairs of different articles are taken for the same"
    )


def as_parts(found: Sequence[Found], searcher: Searcher, command: str) -> list[Part]:
    """Makes the parts of a page: a strip of pictures a query, and how they came about."""
    index, calibration = searcher.index, searcher.calibration
    strips = [_strip(each, index, calibration) for each in found if each.error is None]
    broken = {each.photo: each.error for each in found if each.error is not None}
    tail: list[Part] = [Figures("Photos that could not be read", broken)] if broken else []
    note = f"{command}\n{index.folder}: {len(index):,} photos of {len(set(index.labels)):,} labels\n"
    return [*strips, *tail, Note("How this was made", note + told(calibration))]


def _strip(found: Found, index: "Index", calibration: "Calibration | None") -> Strip:
    name = Path(found.photo).name
    query = Picture(_pixels(file_thumbnail(Path(found.photo))), f"query: {name}")
    hits = [Picture(_pixels(index.thumbnail(hit.row)), _caption(hit, calibration)) for hit in found.hits]
    return Strip(name if hits else f"{name}: nothing found", [query, *hits])


def _caption(hit: Hit, calibration: "Calibration | None") -> str:
    said = f"{hit.label}, score {hit.score:.3f}"
    if calibration is None:
        return said
    verdict = "same article" if is_same(hit, calibration) else "below the threshold"
    return f"{said}, {percent(hit)}, {verdict}"


def _pixels(jpeg: bytes) -> UInt8[np.ndarray, "h w 3"]:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB"))


def info_table(index: "Index") -> Shown:
    """Shows what an index holds for a terminal."""
    told_of = index.info()
    shown = Shown(title=escape(told_of["folder"]), show_header=False)
    rows = {
        "photos": f"{told_of['photos']:,}",
        "labels": f"{told_of['labels']:,}",
        "model": ", ".join(f"{name} {value}" for name, value in told_of["model"].items()),
        "digest": told_of["digest"][:12],
        "photos are prepared": " ".join(str(told_of["preprocess"][name]) for name in ("size", "fit")),
        "dimensions": str(told_of["dimensions"]),
        "calibration": told(index.calibration),
        "on disk": f"{told_of['bytes'] / 1e6:,.1f} MB",
        "segments": str(told_of["segments"]),
        "removed, still on disk": str(told_of["removed_photos_on_disk"]),
    }
    for name, value in rows.items():
        shown.add_row(name, escape(value))
    return shown


def listed(reported: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Writes what was left out, a line each; of many the first ones, and how many there are."""
    yield from (f"left out {name}: {reason}" for name, reason in reported[:HEADED])
    if len(reported) > HEADED:
        yield f"left out {len(reported) - HEADED} more"
