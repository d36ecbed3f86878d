"""Numbers for the eye: which ticks an axis gets, and how a figure is written."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

MISSING = "–"

_SHARE = re.compile(
    r"(?<![a-z])(?:(?:accuracy|chance|consistency|precision|recall|cmc|f1|auc|m?ap|(?:top|rank)[-_ ]?\d+)(?![a-z])"
    r"|[rp]@)",
    re.IGNORECASE,
)


def is_share(name: str, values: Sequence[float] | np.ndarray) -> bool:
    """Says whether figures of this name are to be read as percentages.

    Args:
      name: Such as "eval/accuracy", "mAP", "R@5"; only the part after the last slash counts.
      values: The figures; those that are not finite do not count.

    Returns:
      True where the name is that of a share and every value lies in 0 to 1.
    """
    finite = [value for value in values if math.isfinite(value)]
    named = _SHARE.search(name.rsplit("/", 1)[-1]) is not None
    return named and all(0 <= value <= 1 for value in finite)


def figure(value: float, *, share: bool) -> str:
    """Writes one figure: a percentage with one decimal, thousands apart, else four digits; "–" for NaN."""
    if math.isnan(value):
        return MISSING
    if share:
        return percent(value, 1)
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else _exponent(f"{value:.4g}")


def percent(value: float, decimals: int) -> str:
    """Writes a share of 1 as a percentage."""
    return f"{100 * value:.{decimals}f} %"


def nice_step(span: float, count: int) -> float:
    """Returns the smallest of 1, 2, 2.5, 5 times a power of ten that cuts `span` in at most `count` pieces.

    Args:
      span: Above 0.
      count: At least 1.
    """
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    steps = (factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0, 20.0))
    return next(step for step in steps if step >= raw * (1 - 1e-9))


def linear_ticks(low: float, high: float, *, count: int) -> list[float]:
    """Lists round values from `low` to `high`.

    Args:
      low: Below `high`.
      high: Above `low`.
      count: Most pieces that the ticks cut the axis into.

    Returns:
      Multiples of one nice step that lie in [low, high]; at most `count` + 1.
    """
    step = nice_step(high - low, count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def log_ticks(low: float, high: float, *, count: int) -> list[float]:
    """Lists powers of ten from `low` to `high`, with 2 and 5 times them where the axis spans few.

    Args:
      low: Above 0.
      high: At least `low`.
      count: About the most ticks wanted.

    Returns:
      Ascending, in [low, high]; both ends where no round value lies between.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, math.ceil((last - first) / count))
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        found = [float(f"{factor}e{k}") for k in range(first, last + 1, stride) for factor in factors]
        found = [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(found) >= 3:
            return found
    return found if len(found) > 1 else sorted({low, high})


def tick_labels(ticks: Sequence[float], *, share: bool, log: bool) -> list[str]:
    """Writes the ticks of one axis alike: same decimals, same unit.

    Args:
      ticks: Ascending.
      share: As percentages.
      log: Each tick with its own digits.

    Returns:
      One label a tick, all different.
    """
    if share:
        decimals = _decimals([100 * tick for tick in ticks])
        return [percent(tick, decimals) for tick in ticks]
    if log:
        return [_exponent(f"{tick:,.0f}" if 1e3 <= tick < 1e6 else f"{tick:.3g}") for tick in ticks]
    largest = max((abs(tick) for tick in ticks), default=0.0)
    if largest >= 1e9 or 0 < largest < 0.01:
        return [_exponent(f"{tick:.11e}") if tick else "0" for tick in ticks]
    unit, sign = next(((u, s) for u, s in ((1e6, "M"), (1e5, "k")) if largest >= u), (1.0, ""))
    divisor = 1e3 if sign == "k" else unit
    decimals = _decimals([tick / divisor for tick in ticks])
    return [f"{tick / divisor:,.{decimals}f}{sign if tick else ''}" for tick in ticks]


def _decimals(values: Sequence[float]) -> int:
    """Counts the decimals that tell every value exactly, up to twelve."""
    return next(
        (d for d in range(12) if all(math.isclose(round(v, d), v, rel_tol=1e-12) for v in values)), 12
    )


def _exponent(text: str) -> str:
    """Shortens 1.50e-05 to 1.5e-5."""
    mantissa, mark, power = text.partition("e")
    return f"{float(mantissa):.12g}e{int(power)}" if mark else text


@dataclasses.dataclass(frozen=True)
class Axis:
    """A range of values laid on a range of pixels.

    Attributes:
      low: Value at `start`.
      high: Value at `end`.
      start: Pixel of `low`.
      end: Pixel of `high`.
      log: Logarithmic.
      share: Labels are percentages.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool
    share: bool

    def place(self, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Returns the pixel of each value."""
        low, high = self._measure(np.array([self.low, self.high]))
        return self.start + (self._measure(values) - low) / (high - low) * (self.end - self.start)

    def _measure(self, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        return np.log10(values) if self.log else values

    def ticks(self, count: int) -> list[float]:
        """Lists round values along the axis."""
        return (log_ticks if self.log else linear_ticks)(self.low, self.high, count=count)

    def labels(self, ticks: Sequence[float]) -> list[str]:
        """Writes the ticks."""
        return tick_labels(ticks, share=self.share, log=self.log)


def bounds(
    values: Float[np.ndarray, "n"], *, log: bool, share: bool, count: int | None
) -> tuple[float, float]:
    """Returns the ends of an axis that shows all values.

    Args:
      values: Finite, and above 0 where `log`; at least one.
      log: Logarithmic axis.
      share: Widened bounds stay in 0 to 1.
      count: Widens until both ends are among the ticks for this count; None keeps the exact ends.

    Returns:
      (low, high) with low < high, also where all values are equal.
    """
    low, high = float(values.min()), float(values.max())
    if log:
        return (low, high) if high > low * (1 + 1e-9) else (low / 2, high * 2)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = 0.05 if share else abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
        low, high = (max(low, 0.0), min(high, 1.0)) if share else (low, high)
    return (low, high) if count is None else _widened(low, high, count)


def _widened(low: float, high: float, count: int) -> tuple[float, float]:
    """Moves both ends out to ticks; a wider axis may have wider steps, so until these stay the same."""
    step = 0.0
    while step != (step := nice_step(high - low, count)):
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return low, high
