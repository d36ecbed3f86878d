"""Lines and areas in the unit square, y downwards, from which the outlines of articles are put together."""

import dataclasses

import numpy as np
from jaxtyping import Float

Point = tuple[float, float] | Float[np.ndarray, "2"]
Points = Float[np.ndarray, "n 2"]
Form = Float[np.ndarray, "8"]
"""Proportions and details of an article, each in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A filled area, or a stroke.

    Attributes:
      points: In the unit square.
      paint: "body" (colour and pattern), "trim" (second colour), "shade", "metal", "light" or "dark".
      width: Of a stroke; None for a filled area.
    """

    points: Points
    paint: str
    width: float | None = None


@dataclasses.dataclass(frozen=True)
class Silhouette:
    """The parts of an article, and where its emblem sits.

    Attributes:
      parts: From back to front.
      emblem: Centre and radius of the brand's mark.
    """

    parts: list[Part]
    emblem: tuple[float, float, float]


def between(low: float, high: float, share: float) -> float:
    """Goes from low to high as share goes from 0 to 1."""
    return low + (high - low) * float(share)


def polygon(*points: Point) -> Points:
    """Joins corners."""
    return np.array(points, float)


def curve(*points: Point, samples: int = 6) -> Points:
    """Draws a closed smooth line through the points (Catmull-Rom)."""
    p1 = np.array(points, float)[:, None]
    p0, p2, p3 = (np.roll(p1, shift, axis=0) for shift in (1, -1, -2))
    t = np.linspace(0, 1, samples, endpoint=False)[None, :, None]
    terms = (
        2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    return (terms / 2).reshape(-1, 2)


def mirror(points: Points) -> Points:
    """Swaps left and right."""
    return points * np.array([-1, 1]) + np.array([1, 0])


def both(*half: Point, smooth: bool = False) -> Points:
    """Closes a right half, given from top to bottom, with its mirror image."""
    right = np.array(half, float)
    whole = [*right.tolist(), *mirror(right)[::-1].tolist()]
    return curve(*whole) if smooth else polygon(*whole)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """Draws a rectangle."""
    return polygon((left, top), (right, top), (right, bottom), (left, bottom))


def arc(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> Points:
    """Draws part of an ellipse, from one angle to the other in degrees, clockwise from the right."""
    angle = np.radians(np.linspace(start, end, 28))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)
