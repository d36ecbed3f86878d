"""Shows how far a long job is, and says nothing about a short one."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from fsl_jax import distributed

Item = TypeVar("Item")

SILENT_SECONDS = 1.0
REDRAW_SECONDS = 0.1
LINE_SECONDS = 10.0


def track(
    items: Iterable[Item], *, description: str, total: int | None = None, unit: str = "photos"
) -> Iterator[Item]:
    """Passes items on, and reports count, rate and time left on stderr.

    A terminal gets a bar once the job has taken a second; anything else, such as a log file, a line every
    ten. Of several processes the first reports.

    Args:
      items: What is worked through.
      description: The job, such as "reading photos".
      total: Number of items; by default their length, where they have one.
      unit: What one item is, in the plural.

    Returns:
      An iterator over the same items.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if not distributed.is_first():
        return iter(items)
    show = _with_bar if sys.stderr.isatty() else _with_lines
    return show(items, description, total, unit)


def _with_bar(items: Iterable[Item], description: str, total: int | None, unit: str) -> Iterator[Item]:
    start = drawn = time.monotonic()
    bar, done = None, 0
    try:
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - start >= SILENT_SECONDS and now - drawn >= REDRAW_SECONDS:
                bar = bar or _Bar(description, total)
                bar.draw(done, f"{_rate(done, now - start)} {unit}/s")
                drawn = now
    finally:
        if bar is not None:
            bar.close(done, f"{_rate(done, time.monotonic() - start)} {unit}/s")


class Counter:
    """Shows how far a long job is that counts for itself.

    A callback `(done, total)`; like `track` it is silent for the first second.
    """

    def __init__(self, description: str, *, unit: str) -> None:
        """Starts the clock.

        Args:
          description: The job, such as "searching".
          unit: What is counted, in the plural.
        """
        self._description, self._unit = description, unit
        self._start = self._shown = time.monotonic()
        self._bar: _Bar | None = None

    def __call__(self, done: int, total: int) -> None:
        """Reports so many done; the last report closes the bar."""
        if not distributed.is_first():
            return
        now = time.monotonic()
        seconds = max(now - self._start, 1e-9)
        if not sys.stderr.isatty():
            if now - self._shown >= LINE_SECONDS:
                line = _line(self._description, done, total, self._unit, seconds)
                print(line, file=sys.stderr, flush=True)
                self._shown = now
        elif seconds >= SILENT_SECONDS:
            self._bar = self._bar or _Bar(self._description, total)
            self._bar.draw(done, f"{_rate(done, seconds)} {self._unit}/s")
        if done >= total and self._bar is not None:
            self._bar.close(done, f"{_rate(done, seconds)} {self._unit}/s")
            self._bar = None


class _Bar:
    """One line of rich's progress display."""

    def __init__(self, description: str, total: int | None) -> None:
        # Imported only once a bar is due: most jobs of the tests and of the command line are over before.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(description, total=total, rate="")
        self._progress.start()

    def draw(self, done: int, rate: str) -> None:
        self._progress.update(self._task, completed=done, rate=rate)

    def close(self, done: int, rate: str) -> None:
        self.draw(done, rate)
        self._progress.stop()


def _with_lines(items: Iterable[Item], description: str, total: int | None, unit: str) -> Iterator[Item]:
    start = printed = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - printed >= LINE_SECONDS:
            print(_line(description, done, total, unit, now - start), file=sys.stderr, flush=True)
            printed = now


def _rate(items: float, seconds: float) -> str:
    """Items a second: whole ones, where there is one in a second."""
    rate = items / seconds
    return f"{rate:,.0f}" if rate >= 1 else f"{rate:.1g}"


def _line(description: str, done: int, total: int | None, unit: str, seconds: float) -> str:
    rate = _rate(done, seconds)
    if total is None:
        return f"{description}: {done:,} {unit}, {rate}/s"
    left = max(total - done, 0) * seconds / max(done, 1)
    return f"{description}: {done:,} of {total:,} {unit}, {rate}/s, {left:,.0f} s left"
