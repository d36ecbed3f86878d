"""Where figures go while a run goes on: metrics.jsonl, TensorBoard, and the terminal."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fsl_jax import distributed
from fsl_jax.data.cache import write_whole


def say(message: str) -> None:
    """Tells the user something, on stderr, so that stdout keeps results alone; of several processes the first does."""
    if distributed.is_first():
        print(message, file=sys.stderr, flush=True)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Says that something long starts, and how long it took."""
    say(f"{what} ...")
    start = time.perf_counter()
    yield
    say(f"{what}: {time.perf_counter() - start:.1f} s")


class MetricsLog:
    """Appends figures to metrics.jsonl and TensorBoard events.

    Each line is one JSON object with "step" and flat names such as "train/loss". What an earlier run wrote after the
    step that it continues from is taken out, since it will be written again. Of several processes the first writes.
    """

    def __init__(self, workdir: Path, *, start: int) -> None:
        """Opens the log of a workdir at a step."""
        self._events: Any = None
        if not distributed.is_first():
            return
        from tensorboardX import SummaryWriter

        self.file = workdir / "metrics.jsonl"
        _keep_until(self.file, start)
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1 if start else None)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Writes figures of one step."""
        if self._events is None:
            return
        line = {"step": step, **{name: float(value) for name, value in figures.items()}}
        with self.file.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        for name, value in figures.items():
            self._events.add_scalar(name, float(value), step)
        self._events.flush()

    def close(self) -> None:
        """Closes the event file."""
        if self._events is not None:
            self._events.close()


def read_log(file: Path) -> list[dict[str, Any]]:
    """Reads a metrics.jsonl; a last line that a killed process left unfinished is left out."""
    lines = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def _keep_until(file: Path, step: int) -> None:
    if file.exists():
        kept = [json.dumps(line) + "\n" for line in read_log(file) if line["step"] <= step]
        write_whole(file, lambda stream: stream.write("".join(kept).encode()))


class Averages:
    """Means of per-step figures since the last log line."""

    def __init__(self) -> None:
        """Starts empty."""
        self._parts: dict[str, list[np.ndarray]] = {}
        self._seconds = 0.0

    def add(self, metrics: Mapping[str, np.ndarray], *, seconds: float) -> None:
        """Adds the metrics of a dispatch, one value a step, and how long it took."""
        self._seconds += seconds
        for name, values in metrics.items():
            self._parts.setdefault(name, []).append(np.asarray(values))

    def take(self) -> dict[str, float]:
        """Returns the means and the steps a second, and starts anew."""
        steps = sum(len(part) for part in next(iter(self._parts.values()), []))
        figures = {
            f"train/{name}": float(np.concatenate(parts).mean()) for name, parts in self._parts.items()
        }
        rate = steps / max(self._seconds, 1e-9)
        self._parts, self._seconds = {}, 0.0
        return figures | {"train/steps_per_second": rate}


class Progress:
    """One line that shows how far a run is: a bar on a terminal, plain lines in a file."""

    def __init__(self, *, start: int, steps: int) -> None:
        """Starts at a step."""
        self._bar: Any = None
        self._start, self._steps, self._seconds = start, steps, 0.0
        self._said = time.perf_counter()
        if sys.stderr.isatty() and distributed.is_first():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("training"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=steps, completed=start, figures="")
            self._bar.start()

    def update(self, step: int, loss: float, accuracy: float | None, *, seconds: float) -> None:
        """Shows the last step's figures; `seconds` is what the dispatch took, evaluations aside."""
        self._seconds += seconds
        rate = (step - self._start) / max(self._seconds, 1e-9)
        hits = "" if accuracy is None else f"  accuracy {100 * accuracy:.1f} %"
        figures = f"loss {loss:.3f}{hits}  {rate:.1f} steps/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=figures)
        elif time.perf_counter() - self._said > 10 or step == self._steps:
            left = (self._steps - step) / max(rate, 1e-9)
            say(f"step {step:,} of {self._steps:,}  {figures}  {left:.0f} s left")
            self._said = time.perf_counter()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Takes the bar away while another one is shown."""
        if self._bar is not None:
            self._bar.stop()
        yield
        if self._bar is not None:
            self._bar.start()

    def note(self, message: str) -> None:
        """Prints a line that stays."""
        if self._bar is not None:
            self._bar.console.print(message, highlight=False)
        else:
            say(message)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
