"""Reproduces published figures, and says plainly what came out.

    python -m benchmarks.reproduce --list                 all rows, and which have been run
    python -m benchmarks.reproduce --run NAME ...         runs rows; a script's name means all of its rows
    python -m benchmarks.reproduce --run NAME --short     two steps of it, without keeping the figures
    python -m benchmarks.reproduce --table                writes the tables and charts of what was run

Data lies in folders that environment variables name, such as OMNIGLOT=FOLDER. Flags behind `--` are passed on to each
run, and kept with its figures. Figures are kept in benchmarks/reproduce/records; a row that was never run has none,
and the table says so.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.reproduce import records, rows, table


def _list() -> None:
    for row in rows.all_rows():
        missing = row.missing()
        state = f"needs {', '.join(missing)}" if missing else "ready"
        if (record := table.read_record(row)) is not None:
            state = f"run on {record['date']}"
        print(f"{row.name:45} {state:24} {row.title}; {row.time}")


def _run(names: list[str], flags: list[str], *, short: bool, seeds: tuple[int, ...], kept_in: Path) -> None:
    for row in rows.find_rows(names):
        if short:
            with tempfile.TemporaryDirectory() as folder:
                whole = [*records.short(row), *flags]
                records.run(row, Path(folder), whole, seeds=row.seeds[:1], environment=records.SHORT)
                records.gather(row, Path(folder), seeds=row.seeds[:1])
            print(f"{row.name}: two steps are well")
            continue
        runs, chosen = Path(os.environ.get("RUNS", "runs/reproduce")), seeds or row.seeds
        records.run(row, runs, flags, seeds=chosen)
        found = {**records.gather(row, runs, seeds=chosen), "flags": flags}
        record = row.record(kept_in)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{row.name}: kept in {record}; --table writes the tables anew")


def main(arguments: list[str]) -> int:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    own, flags = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reproduce",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true")
    what.add_argument("--run", nargs="+", metavar="NAME")
    what.add_argument("--table", action="store_true")
    parser.add_argument("--short", action="store_true", help="two steps, without keeping the figures")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="instead of the row's own")
    parser.add_argument(
        "--records", type=Path, default=rows.RECORDS, help="folder in which --run keeps figures"
    )
    given = parser.parse_args(own)
    try:
        if given.list:
            _list()
        elif given.table:
            table.write(rows.all_rows())
        else:
            _run(given.run, flags, short=given.short, seeds=tuple(given.seeds), kept_in=given.records)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
