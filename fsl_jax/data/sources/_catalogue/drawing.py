"""Draws an article once, flat and evenly lit: silhouette, pattern, trim, emblem and relief."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFilter

from fsl_jax.data.sources._catalogue.articles import Article
from fsl_jax.data.sources._catalogue.geometry import Part, Points, arc, between, polygon
from fsl_jax.data.sources._catalogue.silhouettes import silhouette
from fsl_jax.data.sources._catalogue.vocabulary import METALS

Plane = Float[np.ndarray, "s s"]
DARK = np.array([52.0, 46.0, 44.0])
LIGHT = np.array([236.0, 232.0, 222.0])
_SHEEN = {"leather": 0.5, "satin": 0.8, "silk": 0.6, "rubber": 0.5, "nylon": 0.4, "steel": 0.6}
_GRAIN = {
    "wool": 0.10,
    "cashmere": 0.06,
    "denim": 0.10,
    "straw": 0.14,
    "canvas": 0.07,
    "suede": 0.06,
    "mesh": 0.10,
}


def cloud(rng: np.random.Generator, side: int, cells: int) -> Plane:
    """Draws smooth noise in [0, 1] with about `cells` bumps along a side."""
    coarse = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255


def _emblem(kind: str) -> list[Points]:
    """Draws a brand's mark around the origin with radius 1."""
    turn = np.radians(np.arange(10) * 36 - 90)
    star = np.stack([np.cos(turn), np.sin(turn)], axis=1) * np.where(np.arange(10) % 2, 0.45, 1.0)[:, None]
    t = np.linspace(0, 2 * np.pi, 24)
    heart = np.stack(
        [16 * np.sin(t) ** 3, -13 * np.cos(t) + 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t)], axis=1
    )
    return {
        "star": [star],
        "diamond": [polygon((0, -1), (0.75, 0), (0, 1), (-0.75, 0))],
        "heart": [heart / 16],
        "anchor": [
            polygon((-0.2, -1), (0.2, -1), (0.2, 0.9), (-0.2, 0.9)),
            polygon((-0.6, -0.6), (0.6, -0.6), (0.6, -0.2), (-0.6, -0.2)),
            polygon((-1, 0.2), (-0.6, 0.2), (0, 0.7), (0.6, 0.2), (1, 0.2), (0.4, 1), (-0.4, 1)),
        ],
        "crescent": [np.concatenate([arc(0, 0, 1, 1, 50, 310), arc(0.45, 0, 0.75, 0.75, 290, 70)])],
        "triangle": [polygon((0, -1), (1, 0.8), (-1, 0.8))],
        "ring": [np.concatenate([arc(0, 0, 1, 1), arc(0, 0, 0.5, 0.5, 360, 0)])],
        "cross": [
            polygon((-0.32, -1), (0.32, -1), (0.32, 1), (-0.32, 1)),
            polygon((-1, -0.32), (1, -0.32), (1, 0.32), (-1, 0.32)),
        ],
        "drop": [np.concatenate([arc(0, 0.3, 0.7, 0.7, -20, 200), polygon((0, -1.1))])],
        "bolt": [polygon((0.3, -1), (-0.7, 0.2), (-0.1, 0.2), (-0.3, 1), (0.7, -0.25), (0.1, -0.25))],
    }[kind]


def _stamp(kind: str, side: int) -> Plane:
    """Draws a mark as a tile of coverage in [0, 1]."""
    tile = Image.new("L", (side * 4, side * 4))
    pen = ImageDraw.Draw(tile)
    for points in _emblem(kind):
        pen.polygon([tuple(point) for point in (points * 0.8 + 1) * side * 2], fill=255)
    return np.asarray(tile.resize((side, side), Image.Resampling.BOX), np.float32) / 255


def _bands(phase: Plane, share: float) -> Plane:
    return (phase % 1.0 < share).astype(np.float32)


def _lattice(u: Plane, v: Plane) -> tuple[Plane, Plane]:
    """Returns the offset of each point from the nearest knot of a lattice of staggered rows."""
    row = np.floor(v)
    return (u + 0.5 * (row % 2)) % 1.0 - 0.5, v - row - 0.5


def _checked(u: Plane, v: Plane, share: float) -> Plane:
    return (_bands(u, share) + _bands(v, share)) / 2


def _dotted(u: Plane, v: Plane, share: float) -> Plane:
    return (np.hypot(*_lattice(u, v)) < 0.2 + 0.25 * share).astype(np.float32)


def _chevron(u: Plane, v: Plane, share: float) -> Plane:
    return _bands(v + np.abs(u / 1.5 % 1.0 - 0.5), share)


def _floral(u: Plane, v: Plane, share: float) -> Plane:
    x, y = _lattice(u / 1.3, v / 1.3)
    radius, petals = np.hypot(x, y), 4 + int(share * 5)
    edge = 0.36 * (0.72 + 0.28 * np.cos(petals * np.arctan2(y, x)))
    return ((radius < edge) & (radius > 0.09)).astype(np.float32)


_WOVEN: dict[str, Callable[[Plane, Plane, float], Plane]] = {
    "striped": lambda u, v, share: _bands(v, share),
    "checked": _checked,
    "dotted": _dotted,
    "chevron": _chevron,
    "floral": _floral,
}


def _texture(article: Article) -> np.random.Generator:
    """Makes the source of chance for an article's grain and camouflage, the same at every size."""
    return np.random.default_rng((article.weave * 2**32).astype(np.int64))


def weave(article: Article, side: int) -> Plane:
    """Draws the pattern of an article.

    Args:
      article: Whose pattern.
      side: Of the plane, in pixels.

    Returns:
      Share of the second colour at each point, in [0, 1].
    """
    period, angle, offset, balance = article.weave
    rng = _texture(article)
    share = between(0.3, 0.62, balance)
    if article.pattern == "plain":
        return np.zeros((side, side), np.float32)
    if article.pattern == "camouflage":
        noise = cloud(rng, side, 6 + int(period * 4)) + 0.4 * cloud(rng, side, 14)
        return (np.digitize(noise, np.quantile(noise, [0.4, 0.75])) / 2).astype(np.float32)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    if article.pattern == "colour-block":
        turn = np.radians(angle * 180)
        return ((x - 0.5) * np.sin(turn) + (y - 0.5) * np.cos(turn) > between(-0.08, 0.1, offset)).astype(
            np.float32
        )
    if article.pattern == "monogram":
        tile = _stamp(article.brand.emblem, max(5, round(side * between(0.11, 0.17, period))))
        repeats = side // len(tile) + 2
        half = np.roll(tile, len(tile) // 2, axis=1)
        return np.tile(np.concatenate([tile, half]), (repeats // 2 + 1, repeats))[:side, :side]
    # Upright, level or slanting: a few plain directions are how cloth is cut.
    turn = np.radians((0, 90, 45, 135)[int(angle * 4)])
    scale = between(0.11, 0.22, period)
    u, v = (x * np.cos(turn) - y * np.sin(turn)) / scale, (x * np.sin(turn) + y * np.cos(turn)) / scale
    return _WOVEN[article.pattern](u + offset, v + offset, share)


def _paints(article: Article, side: int) -> dict[str, Image.Image]:
    """Makes one sheet of each paint, to be cut out by the parts."""
    rng = _texture(article)
    share = weave(article, side)[..., None]
    body = article.main * (1 - share) + article.second * share
    grain = 1 + _GRAIN.get(article.material, 0.02) * (cloud(rng, side, 48)[..., None] - 0.5) * 2
    flat = {
        "trim": article.second,
        "shade": article.main * 0.66,
        "metal": np.array(METALS[article.metal], float),
        "light": LIGHT,
        "dark": DARK,
    }
    sheets = {"body": body * grain} | {
        name: np.broadcast_to(colour, body.shape) for name, colour in flat.items()
    }
    return {name: Image.fromarray(np.clip(sheet, 0, 255).astype(np.uint8)) for name, sheet in sheets.items()}


def _emblem_parts(article: Article, place: tuple[float, float, float]) -> list[Part]:
    x, y, radius = place
    return [Part(points * radius + [x, y], "mark") for points in _emblem(article.brand.emblem)]


def _mark_colour(article: Article) -> Float[np.ndarray, "3"]:
    """The emblem is the trim's colour on plain cloth, and else whichever of light and dark stands out."""
    if article.pattern == "plain":
        return article.second
    return LIGHT if (article.main + article.second).mean() < 270 else DARK


def _relief(alpha: Image.Image, sheen: float) -> Float[np.ndarray, "s s 1"]:
    """Shades a flat shape as if it were rounded and lit from the upper left."""
    side = alpha.width
    soft = np.asarray(alpha.filter(ImageFilter.GaussianBlur(side * 0.045)), np.float32) / 255
    step = max(1, side // 32)
    slope = np.roll(soft, (step, step), (0, 1)) - np.roll(soft, (-step, -step), (0, 1))
    return (0.72 + 0.30 * soft - 0.32 * slope + 0.25 * sheen * np.clip(-slope, 0, 1))[..., None]


def _pixels(points: Points, side: int) -> list[tuple[float, ...]]:
    return [tuple(point) for point in (points * side).tolist()]


def _mask(part: Part, side: int) -> Image.Image:
    """Draws where a part is."""
    mask = Image.new("L", (side, side))
    brush = ImageDraw.Draw(mask)
    if part.width is None:
        brush.polygon(_pixels(part.points, side), fill=255)
    else:
        brush.line(
            _pixels(part.points, side), fill=255, width=max(1, round(part.width * side)), joint="curve"
        )
    return mask


def draw(article: Article, side: int) -> Image.Image:
    """Draws an article.

    Args:
      article: What to draw.
      side: Of the picture, in pixels.

    Returns:
      RGBA picture, transparent where the article is not.
    """
    shape = silhouette(article.subcategory, article.form)
    paints = _paints(article, side)
    paints["mark"] = Image.new("RGB", (side, side), tuple(int(value) for value in _mark_colour(article)))
    canvas, alpha = Image.new("RGB", (side, side)), Image.new("L", (side, side))
    edge = ImageDraw.Draw(canvas)
    line = max(1, round(side * 0.006))
    for part in [*shape.parts, *_emblem_parts(article, shape.emblem)]:
        mask = _mask(part, side)
        canvas.paste(paints[part.paint], mask=mask)
        alpha.paste(255, mask=mask)
        if part.width is None and part.paint != "mark":
            corners = _pixels(part.points, side)
            edge.line(
                [*corners, corners[0]], fill=tuple(int(value * 0.55) for value in article.main), width=line
            )
    shaded = np.asarray(canvas, np.float32) * _relief(alpha, _SHEEN.get(article.material, 0.1))
    picture = Image.fromarray(np.clip(shaded, 0, 255).astype(np.uint8))
    picture.putalpha(alpha)
    return picture
