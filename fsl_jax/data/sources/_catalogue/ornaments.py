"""The outlines of hats, watches and jewellery; a form's numbers set proportions, or choose details."""

from collections.abc import Callable

import numpy as np

from fsl_jax.data.sources._catalogue.geometry import (
    Form,
    Part,
    Points,
    Silhouette,
    arc,
    between,
    both,
    box,
    curve,
    polygon,
)


def _cap(f: Form) -> Silhouette:
    high, brim = between(0.2, 0.32, f[0]), between(0.86, 0.96, f[1])
    dome = curve(
        (0.36, high),
        (0.52, high + 0.06),
        (0.62, 0.46),
        (0.64, 0.64),
        (0.4, 0.66),
        (0.12, 0.64),
        (0.12, 0.5),
        (0.2, high + 0.08),
    )
    parts = [Part(dome, "body")]
    if f[2] < 0.5:
        parts += [
            Part(
                curve(
                    (0.4, high), (0.52, high + 0.06), (0.62, 0.46), (0.64, 0.64), (0.44, 0.65), (0.42, 0.4)
                ),
                "trim",
            )
        ]
    parts += [
        Part(
            curve((0.58, 0.6), (0.76, 0.6), (brim, between(0.66, 0.74, f[3])), (0.74, 0.7), (0.4, 0.69)),
            "trim" if f[4] < 0.6 else "shade",
        ),
        Part(arc(0.37, high, 0.03, 0.022), "trim"),
        Part(polygon((0.13, 0.64), (0.58, 0.65)), "dark", 0.02),
    ]
    return Silhouette(parts, (0.5, 0.48, between(0.06, 0.09, f[5])))


def _beanie(f: Form) -> Silhouette:
    high, wide = between(0.2, 0.32, f[0]), between(0.26, 0.34, f[1])
    cuff = between(0.1, 0.2, f[2])
    parts = [
        Part(
            both(
                (0.5, high),
                (0.5 + wide * 0.6, high + 0.06),
                (0.5 + wide, 0.55),
                (0.5 + wide, 0.8),
                smooth=True,
            ),
            "body",
        )
    ]
    if f[3] < 0.55:
        parts = [
            Part(arc(0.5, high - 0.03, between(0.06, 0.11, f[4]), between(0.06, 0.1, f[4])), "trim"),
            *parts,
        ]
    paint = "trim" if f[5] < 0.6 else "shade"
    parts += [Part(box(0.5 - wide - 0.02, 0.84 - cuff, 0.52 + wide, 0.84), paint)]
    if f[6] < 0.5:
        parts += [
            Part(polygon((x, 0.85 - cuff), (x, 0.83)), "dark", 0.008)
            for x in np.linspace(0.5 - wide, 0.5 + wide, 9)
        ]
    return Silhouette(parts, (0.5 + wide * between(-0.5, 0.5, f[7]), 0.84 - cuff / 2, cuff * 0.35))


def _fedora(f: Form) -> Silhouette:
    high, wide = between(0.22, 0.34, f[0]), between(0.2, 0.25, f[1])
    brim, dent = between(0.36, 0.47, f[2]), between(0.0, 0.07, f[3])
    crown = both(
        (0.5, high + dent),
        (0.5 + wide * 0.6, high),
        (0.5 + wide * 0.9, high + 0.1),
        (0.5 + wide, 0.64),
        smooth=True,
    )
    band = between(0.06, 0.14, f[4])
    edge = curve(
        (0.5 - brim, between(0.58, 0.66, f[5])),
        (0.5 - wide, 0.63),
        (0.5, 0.65),
        (0.5 + wide, 0.63),
        (0.5 + brim, 0.62),
        (0.5 + wide, 0.73),
        (0.5, 0.76),
        (0.5 - wide, 0.73),
    )
    parts = [
        Part(crown, "body"),
        Part(both((0.5 + wide * 0.98, 0.64 - band), (0.5 + wide, 0.66)), "trim"),
        Part(edge, "body" if f[6] < 0.6 else "shade"),
    ]
    if f[7] < 0.4:
        parts += [
            Part(curve((0.5 + wide * 0.7, 0.62), (0.5 + wide * 1.1, 0.4), (0.5 + wide * 1.0, high)), "trim")
        ]
    return Silhouette(parts, (0.5 - wide * 0.6, 0.65 - band / 2, 0.04))


def _watch(f: Form, case: Points, dial: Points, radius: float) -> Silhouette:
    strap = between(0.09, 0.15, f[1])
    ends = [(0.5 + strap * 0.75, 0.05), (0.5 + strap, 0.3), (0.5 + strap, 0.7), (0.5 + strap * 0.75, 0.95)]
    angle = np.radians(between(0, 360, f[4]))
    hands = [(0.62, angle), (0.42, angle + 2.2)]
    face = ("light", "dark", "trim")[int(f[3] * 3)]
    parts = [
        Part(both(*ends), "body"),
        Part(box(0.48 + radius, 0.47, 0.55 + radius, 0.53), "metal"),
        Part(case, "metal"),
        Part(dial, face),
    ]
    marks = range(0, 12, 1 if f[5] < 0.5 else 3)
    ring = radius * 0.72 * np.array([[np.sin(np.pi * i / 6), np.cos(np.pi * i / 6)] for i in marks])
    parts += [Part(arc(0.5 + x, 0.5 + y, 0.013, 0.013), "metal") for x, y in ring]
    if f[6] < 0.4:
        parts += [Part(arc(0.5, 0.5 + radius * 0.38, radius * 0.24, radius * 0.24), "shade")]
    parts += [
        Part(
            polygon((0.5, 0.5), (0.5 + radius * long * np.cos(a), 0.5 + radius * long * np.sin(a))),
            "metal",
            0.02,
        )
        for long, a in hands
    ]
    return Silhouette(parts, (0.5, 0.5 - radius * 0.4, 0.03))


def _dress_watch(f: Form) -> Silhouette:
    radius = between(0.2, 0.28, f[0])
    bezel = between(0.78, 0.9, f[2])
    return _watch(f, arc(0.5, 0.5, radius, radius), arc(0.5, 0.5, radius * bezel, radius * bezel), radius)


def _square_watch(f: Form) -> Silhouette:
    wide, high = between(0.17, 0.25, f[0]), between(0.2, 0.27, f[7])
    bezel = between(0.72, 0.86, f[2])
    inner = box(0.5 - wide * bezel, 0.5 - high * bezel, 0.5 + wide * bezel, 0.5 + high * bezel)
    return _watch(f, box(0.5 - wide, 0.5 - high, 0.5 + wide, 0.5 + high), inner, wide)


def _stone(f: Form, x: float, y: float, radius: float) -> list[Part]:
    """Draws a set stone: round, brilliant, square or drop."""
    cut = int(f[3] * 4)
    outline = (
        arc(x, y, radius, radius),
        polygon(
            (x - radius, y - radius * 0.3),
            (x - radius * 0.5, y - radius),
            (x + radius * 0.5, y - radius),
            (x + radius, y - radius * 0.3),
            (x, y + radius),
        ),
        box(x - radius * 0.85, y - radius * 0.85, x + radius * 0.85, y + radius * 0.85),
        curve(
            (x, y - radius * 1.3),
            (x + radius * 0.8, y + radius * 0.3),
            (x, y + radius),
            (x - radius * 0.8, y + radius * 0.3),
        ),
    )[cut]
    rim = (outline - [x, y]) * 1.2 + [x, y]
    return [
        Part(rim, "metal"),
        Part(outline, "body"),
        Part(arc(x - radius * 0.3, y - radius * 0.35, radius * 0.2, radius * 0.2), "light"),
    ]


def _ring(f: Form) -> Silhouette:
    radius, band = between(0.24, 0.31, f[0]), between(0.05, 0.11, f[1])
    stone = between(0.09, 0.17, f[2])
    parts = [Part(arc(0.5, 0.6, radius, radius), "metal", band)]
    if f[4] < 0.5:
        parts += [Part(arc(0.5, 0.6, radius, radius), "trim", band * 0.4)]
    if f[5] < 0.5:
        parts += [
            part for s in (-1, 1) for part in _stone(f, 0.5 + s * stone * 1.5, 0.64 - radius, stone * 0.5)
        ]
    return Silhouette([*parts, *_stone(f, 0.5, 0.58 - radius, stone)], (0.5, 0.6 + radius, band * 0.35))


def _necklace(f: Form) -> Silhouette:
    rx, ry = between(0.26, 0.36, f[0]), between(0.34, 0.5, f[1])
    bead = between(0.018, 0.04, f[2])
    chain = arc(0.5, 0.16, rx, ry, -20, 200)
    parts = [Part(chain, "metal", 0.02)]
    beads = chain[:: 2 if f[4] < 0.5 else 4]
    parts += (
        [Part(arc(x, y, bead, bead), "body" if i % 2 else "trim") for i, (x, y) in enumerate(beads)]
        if f[5] < 0.6
        else []
    )
    pendant = between(0.08, 0.14, f[6])
    return Silhouette([*parts, *_stone(f, 0.5, 0.16 + ry + pendant, pendant)], (0.5, 0.16 + ry - 0.01, 0.035))


def _earrings(f: Form) -> Silhouette:
    drop, stone = between(0.16, 0.4, f[0]), between(0.08, 0.14, f[1])
    parts: list[Part] = []
    for x in (0.28, 0.72):
        parts += [
            Part(arc(x, 0.22, 0.05, 0.07, 150, 400), "metal", 0.02),
            Part(polygon((x, 0.28), (x, 0.3 + drop)), "metal", 0.02),
        ]
        if f[4] < 0.4:
            parts += [Part(arc(x, 0.3 + drop + stone, stone * 1.5, stone * 1.5), "trim", 0.03)]
        elif f[4] < 0.7:
            parts += [Part(arc(x, 0.3 + drop * 0.4, stone * 0.5, stone * 0.5), "trim")]
        parts += _stone(f, x, 0.3 + drop + stone, stone)
    return Silhouette(parts, (0.28, 0.3, 0.03))


SILHOUETTES: dict[str, Callable[[Form], Silhouette]] = {
    "cap": _cap,
    "beanie": _beanie,
    "fedora": _fedora,
    "dress watch": _dress_watch,
    "square watch": _square_watch,
    "ring": _ring,
    "necklace": _necklace,
    "earrings": _earrings,
}
