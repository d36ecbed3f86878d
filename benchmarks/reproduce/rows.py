"""What there is to reproduce: the scripts beside this file, each with one or several rows.

A script begins with TOML in comments: `title`, `protocol`, `source`, `needs` (environment variables that name folders
of data), `time`, and for each row its figures. A figure's key is that of a result.json below the folder of a seed,
with the file before a colon where it is not `result.json` itself: "20way/result.json:accuracy". The rest is what a
person would type; it takes the row's name, then flags that are passed on.
"""

import dataclasses
import os
import re
import tomllib
from pathlib import Path

from fsl_jax.lookup import closest

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "records"
SEEDS = re.compile(r"\$\{SEEDS:-([0-9 ]+)\}")


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a row.

    Attributes:
      key: Where it lies, see above.
      name: What it is of, such as "5-way 1-shot".
      published: As its source states it, in per cent where `percent`; "" where there is none.
      peer: The same of another program.
      expected: Range in which ours should lie, as `published` is written; empty where none is known.
      percent: Whether shares are told in per cent.
    """

    key: str
    name: str
    published: str = ""
    peer: str = ""
    expected: tuple[float, ...] = ()
    percent: bool = True

    @property
    def place(self) -> tuple[str, str]:
        """Its file below the folder of a seed, and its name there."""
        file, colon, name = self.key.rpartition(":")
        return (file, name) if colon else ("result.json", name)


@dataclasses.dataclass(frozen=True)
class Row:
    """What one command reproduces.

    Attributes:
      script: File.
      variant: The row's name in it.
      title: Method and network.
      protocol: Data, and how it is judged.
      source: Publication.
      needs: Environment variables with the folders of data.
      time: How long it takes, on what.
      seeds: Of the runs.
      figures: What is measured.
    """

    script: Path
    variant: str
    title: str
    protocol: str
    source: str
    needs: tuple[str, ...]
    time: str
    seeds: tuple[int, ...]
    figures: tuple[Figure, ...]

    @property
    def name(self) -> str:
        """Such as "maml_omniglot/5way_1shot"."""
        return f"{self.script.stem}/{self.variant}"

    @property
    def command(self) -> str:
        """What makes its figures."""
        return f"python -m benchmarks.reproduce --run {self.name}"

    def record(self, folder: Path = RECORDS) -> Path:
        """Returns the file where its figures are kept."""
        return folder / f"{self.script.stem}.{self.variant}.json"

    def missing(self) -> list[str]:
        """Returns the variables that name no folder."""
        return [name for name in self.needs if not Path(os.environ.get(name, "") or "/nowhere").exists()]

    def folder(self, runs: Path, seed: int) -> Path:
        """Returns where a seed's run lies."""
        return runs / self.script.stem / self.variant / f"seed{seed}"


def read_script(script: Path) -> list[Row]:
    """Reads the rows of a script.

    Raises:
      ValueError: Its head is wrong; the message says where.
    """
    text = script.read_text(encoding="utf-8")
    lines = text.splitlines()[1:]
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    try:
        head = tomllib.loads("\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:end]))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"the head of {script} is no TOML: {error}") from error
    seeds = SEEDS.search(text)
    if seeds is None:
        raise ValueError(f"{script} has no ${{SEEDS:-0 1 2}}")
    shared = {name: head[name] for name in ("title", "protocol", "source", "time")}
    return [
        Row(
            script=script,
            variant=variant,
            **{**shared, **{name: value for name, value in given.items() if name in shared}},
            needs=tuple(given.get("needs", head["needs"])),
            seeds=tuple(int(seed) for seed in seeds[1].split()),
            figures=tuple(_figure(key, each) for key, each in given["figures"].items()),
        )
        for variant, given in head["rows"].items()
    ]


def _figure(key: str, given: dict) -> Figure:
    return Figure(key, **{**given, "expected": tuple(given.get("expected", ()))})


def all_rows() -> list[Row]:
    """Reads all scripts."""
    return [row for script in sorted(HERE.glob("*.sh")) for row in read_script(script)]


def find_rows(names: list[str]) -> list[Row]:
    """Finds rows by name; the name of a script means all of its rows.

    Raises:
      ValueError: There is no such row.
    """
    rows, found = all_rows(), []
    for name in names:
        fitting = [row for row in rows if name in (row.name, row.script.stem)]
        if not fitting:
            known = [row.name for row in rows] + sorted({row.script.stem for row in rows})
            raise ValueError(f"no row {name!r}; {closest(name, known)}")
        found += fitting
    return found
