"""The outlines of tops and bottoms; a form's numbers set proportions, or choose between details."""

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
    mirror,
    polygon,
)


def _torso(f: Form, low: float) -> Points:
    half = between(0.2, 0.26, f[0])
    return both(
        (0.58, 0.13), (0.5 + half, 0.2), (0.5 + half, 0.44), (0.5 + half * between(0.85, 1.15, f[1]), low)
    )


def _sleeves(f: Form, end: tuple[float, float], cuff: float) -> Points:
    half = between(0.2, 0.26, f[0])
    return polygon(
        (0.5 + half * 0.4, 0.14),
        (0.5 + half + 0.02, 0.18),
        (end[0] + cuff, end[1]),
        (end[0] - cuff, end[1] + 0.04),
        (0.5 + half - 0.03, 0.4),
    )


def _t_shirt(f: Form) -> Silhouette:
    low = between(0.74, 0.88, f[2])
    sleeve = _sleeves(f, (between(0.82, 0.88, f[3]), between(0.34, 0.44, f[4])), 0.05)
    paint = "trim" if f[5] < 0.35 else "body"
    neck = (
        arc(0.5, 0.13, 0.085, 0.07, 0, 180)
        if f[6] < 0.6
        else polygon((0.58, 0.13), (0.5, 0.28), (0.42, 0.13))
    )
    parts = [
        Part(sleeve, paint),
        Part(mirror(sleeve), paint),
        Part(_torso(f, low), "body"),
        Part(neck, "trim"),
    ]
    if f[7] < 0.4:
        parts += [Part(box(0.53, 0.32, 0.64, 0.44), "trim")]
    return Silhouette(parts, (0.5 if f[7] > 0.7 else 0.4, 0.38, 0.055 + 0.05 * (f[7] > 0.7)))


def _shirt(f: Form) -> Silhouette:
    low = between(0.78, 0.9, f[2])
    end = (between(0.82, 0.9, f[3]), between(0.64, 0.76, f[4]))
    sleeve = _sleeves(f, end, 0.045)
    cuff = polygon(
        (end[0] - 0.05, end[1] + 0.04),
        (end[0] + 0.05, end[1]),
        (end[0] + 0.05, end[1] + 0.05),
        (end[0] - 0.04, end[1] + 0.09),
    )
    collar = polygon((0.5, 0.2), (0.6, 0.12), (0.61, 0.2), (0.56, 0.25))
    paint = "trim" if f[5] < 0.5 else "light"
    parts = [
        Part(sleeve, "body"),
        Part(mirror(sleeve), "body"),
        Part(cuff, paint),
        Part(mirror(cuff), paint),
        Part(_torso(f, low), "body"),
        Part(box(0.475, 0.18, 0.525, low), "shade"),
        Part(collar, paint),
        Part(mirror(collar), paint),
    ]
    parts += [Part(arc(0.5, y, 0.014, 0.014), "light") for y in np.arange(0.28, low - 0.03, 0.1)]
    if f[6] < 0.5:
        parts += [Part(box(0.56, 0.32, 0.67, 0.44), paint)]
    return Silhouette(parts, (0.39, 0.36, 0.05))


def _sweater(f: Form) -> Silhouette:
    low = between(0.74, 0.84, f[2])
    end = (between(0.8, 0.88, f[3]), between(0.62, 0.74, f[4]))
    sleeve = _sleeves(f, end, 0.065)
    cuff = polygon(
        (end[0] - 0.07, end[1] + 0.03),
        (end[0] + 0.07, end[1] - 0.01),
        (end[0] + 0.06, end[1] + 0.07),
        (end[0] - 0.05, end[1] + 0.1),
    )
    half = between(0.2, 0.26, f[0]) * between(0.85, 1.15, f[1])
    neck = box(0.41, 0.06, 0.59, 0.17) if f[5] < 0.4 else arc(0.5, 0.13, 0.1, 0.06, 0, 180)
    parts = [
        Part(sleeve, "body"),
        Part(mirror(sleeve), "body"),
        Part(cuff, "trim"),
        Part(mirror(cuff), "trim"),
        Part(_torso(f, low), "body"),
        Part(box(0.5 - half, low - 0.07, 0.5 + half, low + 0.02), "trim"),
        Part(neck, "trim"),
    ]
    if f[7] < 0.4:
        parts += [Part(box(0.5 - half, 0.36, 0.5 + half, between(0.44, 0.52, f[7] / 0.4)), "trim")]
    if f[6] < 0.5:
        parts += [Part(polygon((0.5, 0.17), (0.5, 0.36)), "metal", 0.02)]
    return Silhouette(parts, (0.4, 0.3, 0.05))


def _trousers(f: Form) -> Silhouette:
    waist, hip = between(0.15, 0.19, f[0]), between(0.19, 0.25, f[1])
    hem, low = between(0.05, 0.12, f[2]), between(0.84, 0.96, f[3])
    gap = between(0.02, 0.08, f[4])
    foot = 0.5 + gap + hem * 2
    leg = polygon(
        (0.498, 0.1), (0.5 + waist, 0.1), (0.5 + hip, 0.3), (foot, low), (foot - hem * 2, low), (0.498, 0.36)
    )
    parts = [
        Part(leg, "body"),
        Part(mirror(leg), "body"),
        Part(box(0.5 - waist, 0.06, 0.5 + waist, 0.12), "trim"),
    ]
    if f[5] < 0.4:
        cuff = polygon(
            (foot + 0.008, low - 0.06),
            (foot + 0.005, low),
            (foot - hem * 2, low),
            (foot - hem * 2, low - 0.06),
        )
        parts += [Part(cuff, "trim"), Part(mirror(cuff), "trim")]
    elif f[5] < 0.7:
        seam = polygon((0.5 + hip * 0.92, 0.26), (foot - 0.02, low))
        parts += [Part(seam, "trim", 0.03), Part(mirror(seam), "trim", 0.03)]
    if f[6] < 0.5:
        knee = box(0.5 + hip * 0.3, 0.5, 0.5 + hip * 0.75, 0.62)
        parts += [Part(knee, "shade"), Part(mirror(knee), "shade")]
    return Silhouette([*parts, Part(arc(0.5, 0.09, 0.018, 0.018), "metal")], (0.5 + hip * 0.55, 0.24, 0.045))


def _skirt(f: Form) -> Silhouette:
    waist, hem = between(0.14, 0.2, f[0]), between(0.22, 0.42, f[1])
    low, sag = between(0.62, 0.92, f[2]), between(0.0, 0.06, f[3])
    body = both(
        (0.5, 0.16),
        (0.5 + waist, 0.16),
        (0.5 + waist + (hem - waist) * between(0.3, 0.7, f[4]), (0.16 + low) / 2),
        (0.5 + hem, low - sag),
        (0.5, low),
    )
    parts = [Part(body, "body")]
    if f[5] < 0.4:
        parts += [
            Part(
                both(
                    (0.5 + hem * 0.97, low - sag - 0.07),
                    (0.5 + hem, low - sag),
                    (0.5, low),
                    (0.5, low - 0.07),
                ),
                "trim",
            )
        ]
    elif f[5] < 0.7:
        parts += [
            Part(
                polygon((0.5 + s * waist * 0.8, 0.18), (0.5 + s * hem * 0.8, low - sag * 0.5)), "shade", 0.015
            )
            for s in (-0.9, -0.45, 0, 0.45, 0.9)
        ]
    else:
        parts += [Part(arc(0.5, y, 0.018, 0.018), "metal") for y in np.arange(0.24, low - 0.04, 0.1)]
    return Silhouette(
        [*parts, Part(box(0.5 - waist, 0.1, 0.5 + waist, 0.18), "trim")], (0.5 + waist * 0.8, 0.3, 0.045)
    )


def _shorts(f: Form) -> Silhouette:
    waist, hem = between(0.2, 0.27, f[0]), between(0.28, 0.38, f[1])
    low, fork = between(0.58, 0.8, f[2]), between(0.46, 0.54, f[3])
    leg = polygon(
        (0.498, 0.22), (0.5 + waist, 0.22), (0.5 + hem, low), (0.5 + hem * 0.12, low + 0.03), (0.498, fork)
    )
    parts = [
        Part(leg, "body"),
        Part(mirror(leg), "body"),
        Part(box(0.5 - waist, 0.17, 0.5 + waist, 0.25), "trim"),
    ]
    if f[4] < 0.45:
        cuff = polygon(
            (0.5 + hem - 0.02, low - 0.07),
            (0.5 + hem, low),
            (0.5 + hem * 0.12, low + 0.03),
            (0.5 + hem * 0.12, low - 0.04),
        )
        parts += [Part(cuff, "trim"), Part(mirror(cuff), "trim")]
    elif f[4] < 0.75:
        side = polygon((0.5 + waist, 0.26), (0.5 + hem - 0.02, low))
        parts += [Part(side, "trim", 0.045), Part(mirror(side), "trim", 0.045)]
    if f[5] < 0.5:
        parts += [
            Part(polygon((0.5 + s * 0.02, 0.23), (0.5 + s * 0.04, 0.36)), "light", 0.018) for s in (-1, 1)
        ]
    return Silhouette(parts, (0.5 - hem * 0.6, low - 0.13, 0.05))


SILHOUETTES: dict[str, Callable[[Form], Silhouette]] = {
    "t-shirt": _t_shirt,
    "shirt": _shirt,
    "sweater": _sweater,
    "trousers": _trousers,
    "skirt": _skirt,
    "shorts": _shorts,
}
