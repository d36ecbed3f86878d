"""Prints what `validate` found, as text for a terminal."""

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fsl_jax.data.validate import Report, SplitReport

SHOWN = 5
"""Examples of each finding."""
BAR_WIDTH = 40


def print_report(report: Report, console: Console) -> None:
    """Prints counts, histograms and findings, the gravest last, where the eye rests."""
    console.print(_counts(report))
    for name, split in report.splits.items():
        console.print(f"\n[bold]{name}[/bold]: labels by their number of photos")
        console.print(_bars(split))
    console.print(_findings(report))


def _counts(report: Report) -> Table:
    roles = sorted({role for split in report.splits.values() for role in split.roles})
    table = Table(title=report.source, title_justify="left")
    for heading in ("split", "photos", "labels", "photos a label", *roles):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for name, split in report.splits.items():
        spread = f"{split.fewest:,}" if split.fewest == split.most else f"{split.fewest:,} to {split.most:,}"
        counts = (f"{split.roles.get(role, 0):,}" for role in roles)
        table.add_row(name, f"{split.photos:,}", f"{split.labels:,}", spread, *counts)
    return table


def _bars(split: SplitReport) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right")
    grid.add_column(justify="right")
    longest = max(labels for _, labels in split.histogram)
    for photos, labels in split.histogram:
        bar = "█" * max(int(labels > 0), round(BAR_WIDTH * labels / longest))
        grid.add_row(photos, f"{labels:,}", Text(bar, style="cyan"))
    return grid


def _findings(report: Report) -> RenderableType:
    told = [
        _finding("labels in several splits, wrong for few-shot learning", report.shared),
        _finding("left out by the source", _with_reason(report.skipped)),
        _finding("equal photos of one label", _joined(report.duplicates)),
    ]
    wrong = [
        _finding("unreadable", _with_reason(report.unreadable)),
        _finding("equal photos with different labels", _joined(report.conflicts)),
    ]
    for name, split in report.splits.items():
        wrong.append(_finding(f"{name}: labels with fewer than {report.needed} photos", split.scarce))
        wrong.append(_finding(f"{name}: queries without a gallery photo of their label", split.unmatched))
    verdict = f"[bold red]problems: {report.problems:,}" if report.problems else "[bold green]no problems"
    lines = [*(f"[yellow]note[/yellow]    {line}" for line in told if line)]
    lines += [f"[red]problem[/red] {line}" for line in wrong if line]
    return Group("", *(Text.from_markup(line) for line in [*lines, verdict]))


def _finding(title: str, examples: Sequence[str]) -> str:
    if not examples:
        return ""
    more = f" and {len(examples) - SHOWN:,} more" if len(examples) > SHOWN else ""
    return f"{escape(title)} ({len(examples):,}): {escape(', '.join(examples[:SHOWN]))}{more}"


def _with_reason(found: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{path} ({reason})" for path, reason in found]


def _joined(groups: Sequence[tuple[str, ...]]) -> list[str]:
    return [" = ".join(group) for group in groups]
