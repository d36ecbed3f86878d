"""The outlines of bags and shoes; a form's numbers set proportions, or choose between details."""

from collections.abc import Callable

import numpy as np

from fsl_jax.data.sources._catalogue.geometry import (
    Form,
    Part,
    Silhouette,
    arc,
    between,
    both,
    box,
    curve,
    polygon,
)


def _handbag(f: Form) -> Silhouette:
    wide, top = between(0.30, 0.42, f[0]), between(0.38, 0.46, f[1])
    low, shoulder = between(0.78, 0.9, f[2]), wide * between(0.68, 1.0, f[3])
    parts = [
        Part(
            arc(0.5, top + 0.02, wide * between(0.4, 0.75, f[4]), between(0.22, 0.34, f[5]), 180, 360),
            "trim",
            0.04,
        ),
        Part(both((0.5 + shoulder, top), (0.5 + wide, low - 0.06), (0.5 + wide - 0.05, low)), "body"),
    ]
    if f[6] < 0.55:
        depth = between(0.12, 0.26, f[7])
        parts += [
            Part(
                both((0.5 + shoulder, top), (0.5 + shoulder, top + depth * 0.6), (0.55, top + depth)), "trim"
            )
        ]
    else:
        parts += [Part(box(0.5 - wide + 0.02, low - 0.12, 0.5 + wide - 0.02, low - 0.02), "trim")]
    parts += [Part(box(0.46, top + 0.1, 0.54, top + 0.16), "metal")]
    return Silhouette(parts, (0.5 + wide * 0.5, low - 0.16, 0.055))


def _tote(f: Form) -> Silhouette:
    wide, top, low = between(0.24, 0.36, f[0]), between(0.34, 0.42, f[1]), between(0.86, 0.95, f[2])
    flare = between(-0.04, 0.05, f[3])
    strap = between(0.10, 0.17, f[4])
    body = both((0.5 + wide + flare, top), (0.5 + wide - flare, low))
    handle = arc(0.5, top + 0.02, strap, between(0.2, 0.32, f[5]), 180, 360)
    parts = [Part(handle, "shade", 0.03), Part(body, "body")]
    if f[6] < 0.5:
        parts += [
            Part(
                both((0.5 + wide - flare * 0.5, low - between(0.1, 0.2, f[7])), (0.5 + wide - flare, low)),
                "trim",
            )
        ]
    parts += [
        Part(polygon((0.5 - strap, low - 0.02), (0.5 - strap, top)), "trim", 0.035),
        Part(polygon((0.5 + strap, low - 0.02), (0.5 + strap, top)), "trim", 0.035),
        Part(handle + np.array([0, 0.02]), "trim", 0.035),
    ]
    return Silhouette(parts, (0.5, top + 0.17, 0.065))


def _backpack(f: Form) -> Silhouette:
    wide, top, low = between(0.24, 0.32, f[0]), between(0.16, 0.22, f[1]), between(0.86, 0.93, f[2])
    pocket = between(0.54, 0.64, f[3])
    parts = [
        Part(arc(0.5, top + 0.03, 0.08, 0.09, 180, 360), "trim", 0.035),
        Part(curve((0.5 - wide, 0.4), (0.5 - wide - 0.09, 0.62), (0.5 - wide, 0.84)), "shade"),
        Part(curve((0.5 + wide, 0.4), (0.5 + wide + 0.09, 0.62), (0.5 + wide, 0.84)), "shade"),
        Part(
            both(
                (0.5, top),
                (0.5 + wide * 0.7, top + 0.04),
                (0.5 + wide, 0.4),
                (0.5 + wide, low - 0.05),
                (0.5 + wide * 0.8, low),
                smooth=True,
            ),
            "body",
        ),
        Part(
            both(
                (0.5 + wide * 0.75, pocket), (0.5 + wide * 0.78, low - 0.07), (0.5 + wide * 0.68, low - 0.04)
            ),
            "trim",
        ),
        Part(polygon((0.5 - wide * 0.62, pocket + 0.05), (0.5 + wide * 0.62, pocket + 0.05)), "metal", 0.02),
    ]
    if f[4] < 0.5:
        parts += [Part(arc(0.5, 0.44, wide * 0.85, 0.2, 195, 345), "metal", 0.02)]
    else:
        parts += [
            Part(box(0.5 + s * wide * 0.5 - 0.025, 0.26, 0.5 + s * wide * 0.5 + 0.025, pocket + 0.06), "dark")
            for s in (-1, 1)
        ]
    return Silhouette(parts, (0.5, between(0.34, 0.44, f[5]), 0.07))


def _clutch(f: Form) -> Silhouette:
    wide, top, low = between(0.36, 0.45, f[0]), between(0.32, 0.4, f[1]), between(0.66, 0.76, f[2])
    drop = between(0.35, 0.75, f[3]) * (low - top)
    flap = (
        both((0.5 + wide, top), (0.53, top + drop))
        if f[4] < 0.5
        else both((0.5 + wide, top), (0.5 + wide, top + drop * 0.6), (0.5 + wide - 0.06, top + drop * 0.7))
    )
    parts = [
        Part(both((0.5 + wide, top), (0.5 + wide, low - 0.02), (0.5 + wide - 0.02, low)), "body"),
        Part(flap, "trim"),
        Part(arc(0.5, top + drop * 0.85, 0.035, 0.035), "metal"),
    ]
    if f[5] < 0.5:
        parts = [
            Part(arc(0.5 + wide - 0.1, top + 0.02, 0.1, between(0.1, 0.2, f[6]), 180, 360), "metal", 0.022),
            *parts,
        ]
    return Silhouette(parts, (0.5 - wide * 0.62, low - 0.09, 0.045))


def _sneaker_closure(f: Form, high: float) -> list[Part]:
    """Draws three laces, or two broad straps of hook and loop."""
    if f[7] < 0.5:
        starts = [np.array([0.42 + 0.06 * i, high + 0.13 + 0.05 * i]) for i in range(3)]
        return [Part(polygon(start, start + np.array([0.08, -0.06])), "light", 0.02) for start in starts]
    starts = [np.array([0.4 + 0.1 * i, high + 0.2 + 0.05 * i]) for i in range(2)]
    ends = [np.array([0.48 + 0.1 * i, high + 0.07 + 0.07 * i]) for i in range(2)]
    return [Part(polygon(start, end), "light", 0.05) for start, end in zip(starts, ends, strict=True)]


def _sneaker(f: Form) -> Silhouette:
    high, toe, sole = between(0.28, 0.42, f[0]), between(0.84, 0.92, f[1]), between(0.05, 0.1, f[2])
    throat = [(0.1, high), (0.2, high + 0.04), (0.34, high), (0.44, high + 0.1), (0.62, 0.54)]
    parts = [
        Part(curve(*throat, (toe - 0.06, 0.6), (toe, 0.7), (0.6, 0.72), (0.12, 0.72), (0.09, 0.55)), "body")
    ]
    if f[3] < 0.5:
        parts += [Part(curve((toe - 0.2, 0.6), (toe - 0.06, 0.6), (toe, 0.7), (toe - 0.16, 0.72)), "light")]
    for left in 0.3 + 0.08 * np.arange(1 + int(f[4] * 3)):
        parts += [Part(polygon((left, 0.7), (left + 0.09, high + 0.16)), "trim", 0.035)]
    if f[5] < 0.6:
        heel = curve((0.09, high + 0.02), (0.2, high + 0.06), (0.2, 0.55), (0.1, 0.58))
        parts += [Part(heel, "trim")]
    ground = polygon((0.08, 0.7), (toe + 0.01, 0.7), (toe + 0.02, 0.7 + sole), (0.09, 0.7 + sole))
    parts += [*_sneaker_closure(f, high), Part(ground, "light" if f[6] < 0.6 else "dark")]
    return Silhouette(parts, (0.2, 0.6, 0.05))


def _boot_closure(f: Form, high: float, leg: float) -> list[Part]:
    """Draws laces, a strap with a buckle, or a zip."""
    if f[5] < 0.4:
        rows = (0.3, 0.38, 0.46, 0.54)
        return [Part(polygon((0.28 + leg * 0.5, y), (0.25 + leg, y + 0.02)), "light", 0.02) for y in rows]
    if f[5] < 0.75:
        strap = Part(polygon((0.19, 0.6), (0.5, 0.57)), "trim", 0.045)
        return [strap, Part(box(0.36, 0.545, 0.43, 0.615), "metal")]
    return [Part(polygon((0.2 + leg * 0.5, high + 0.1), (0.22 + leg * 0.5, 0.7)), "metal", 0.02)]


def _boot(f: Form) -> Silhouette:
    high, leg = between(0.08, 0.3, f[0]), between(0.2, 0.27, f[1])
    heel, toe = between(0.03, 0.1, f[2]), between(0.8, 0.9, f[3])
    shaft = [(0.2, high), (0.2 + leg, high), (0.24 + leg, 0.5), (0.5 + leg * 0.3, 0.6)]
    foot = [(toe - 0.05, 0.66), (toe, 0.78), (0.6, 0.8), (0.19, 0.8), (0.2, 0.5)]
    ground = [(0.17, 0.79), (toe + 0.01, 0.79), (toe, 0.84), (0.45, 0.84)]
    parts = [
        Part(curve(*shaft, *foot), "body"),
        Part(polygon(*ground, (0.4, 0.84 + heel), (0.18, 0.84 + heel)), "dark"),
        Part(box(0.18, high - 0.01, 0.23 + leg, high + between(0.04, 0.12, f[4])), "trim"),
        *_boot_closure(f, high, leg),
    ]
    if f[6] < 0.5:
        cap = curve((toe - 0.16, 0.68), (toe - 0.05, 0.67), (toe, 0.78), (toe - 0.14, 0.79))
        parts += [Part(cap, "trim")]
    return Silhouette(parts, (0.3, between(0.36, 0.44, f[7]), 0.05))


def _pump(f: Form) -> Silhouette:
    rise, toe = between(0.28, 0.46, f[0]), between(0.86, 0.93, f[1])
    thick = between(0.02, 0.1, f[2])
    parts = [
        Part(
            polygon((0.12, rise + 0.1), (0.22 + thick, rise + 0.18), (0.15 + thick, 0.8), (0.13, 0.8)), "trim"
        ),
        Part(
            curve(
                (0.11, rise),
                (0.24, rise + 0.1),
                (0.44, 0.6),
                (0.62, between(0.58, 0.66, f[3])),
                (toe - 0.06, 0.7),
                (toe, 0.79),
                (0.64, 0.8),
                (0.46, 0.74),
                (0.28, rise + 0.26),
                (0.12, rise + 0.18),
            ),
            "body",
        ),
        Part(polygon((0.3, rise + 0.29), (0.46, 0.76), (0.64, 0.81), (toe, 0.8)), "dark", 0.025),
    ]
    if f[4] < 0.4:
        parts += [Part(arc(0.22, rise - 0.02, 0.13, 0.06), "trim", 0.03)]
    elif f[4] < 0.75:
        parts += [Part(arc(0.66, 0.67, 0.06, 0.045), "metal" if f[5] < 0.5 else "trim")]
    else:
        parts += [Part(curve((toe - 0.2, 0.68), (toe - 0.06, 0.7), (toe, 0.79), (toe - 0.18, 0.8)), "trim")]
    return Silhouette(parts, (0.2, rise + 0.16, 0.04))


def _loafer(f: Form) -> Silhouette:
    high, toe = between(0.42, 0.52, f[0]), between(0.86, 0.94, f[1])
    parts = [
        Part(
            curve(
                (0.1, high),
                (0.24, high + 0.06),
                (0.4, high + 0.03),
                (0.56, high - 0.02),
                (0.76, 0.6),
                (toe, 0.68),
                (toe, 0.76),
                (0.5, 0.77),
                (0.1, 0.77),
                (0.08, 0.6),
            ),
            "body",
        ),
        Part(
            polygon((0.08, 0.75), (toe + 0.01, 0.75), (toe, 0.8), (0.34, 0.8), (0.33, 0.84), (0.09, 0.84)),
            "dark",
        ),
        Part(polygon((0.52, high - 0.03), (0.5, 0.75)), "trim", between(0.06, 0.13, f[2])),
    ]
    if f[3] < 0.4:
        parts += [Part(box(0.46, high + 0.08, 0.56, high + 0.15), "metal")]
    elif f[3] < 0.7:
        parts += [Part(polygon((0.56, high), (0.62, high + 0.13)), "trim", 0.05)]
    if f[4] < 0.5:
        parts += [Part(curve((0.1, high), (0.2, high + 0.05), (0.22, 0.75), (0.09, 0.75)), "trim")]
    if f[5] < 0.4:
        parts += [Part(curve((toe - 0.14, 0.63), (toe, 0.68), (toe, 0.75), (toe - 0.12, 0.75)), "trim")]
    return Silhouette(parts, (0.34, 0.65, 0.05))


SILHOUETTES: dict[str, Callable[[Form], Silhouette]] = {
    "handbag": _handbag,
    "tote": _tote,
    "backpack": _backpack,
    "clutch": _clutch,
    "sneaker": _sneaker,
    "boot": _boot,
    "pump": _pump,
    "loafer": _loafer,
}
