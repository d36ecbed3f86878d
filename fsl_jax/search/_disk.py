"""Writing so that a kill or a full disk at any moment leaves the old state whole: one writer, one file that decides."""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from absl import logging

LOCK = "lock"
TRUTH = "index.json"
SEGMENTS, REMOVED = "segments", "removed"
UNFINISHED = "."
"""First sign of the names of what is being written."""
WAIT = 30.0
"""Seconds that a writer waits for another one."""
POLL = 0.05


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Keeps other writers out, and says in plain words where something cannot be written.

    The lock goes with the process: nothing has to be cleared away after a kill.

    Raises:
      TimeoutError: Another writer has not finished within `WAIT` seconds.
      OSError: The folder cannot be written, or the disk is full.
    """
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OSError(f"cannot write to the index {folder}: {_reason(error)}") from error
    try:
        _wait_for(handle, folder)
        try:
            yield
        except OSError as error:
            raise OSError(
                f"cannot write to the index {folder}: {_reason(error)}; it is whole, as it was before"
            ) from error
    finally:
        os.close(handle)


def _wait_for(handle: int, folder: Path) -> None:
    end = time.monotonic() + WAIT
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= end:
                raise TimeoutError(
                    f"another process is writing to the index {folder} and has not finished within {WAIT:.0f} s: "
                    "try again later"
                ) from error
            time.sleep(POLL)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def write(file: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Writes a file that nobody reads yet, and waits until the disk has it."""
    with file.open("wb") as stream:
        fill(stream)
        finish(stream)


def finish(stream: BinaryIO) -> None:
    """Waits until the disk has what was written."""
    stream.flush()
    os.fsync(stream.fileno())


def folder_to_disk(folder: Path) -> None:
    """Waits until the disk has the names in a folder, where the file system can be asked for it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Gives a folder to fill, which has its name only once all of it is on the disk."""
    unfinished = folder.with_name(f"{UNFINISHED}{folder.name}")
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        folder_to_disk(unfinished)
        os.rename(unfinished, folder)
        folder_to_disk(folder.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        raise


def commit(folder: Path, truth: bytes) -> None:
    """Replaces the file that decides: before it the old state holds, after it the new one."""
    unfinished = folder / f".{TRUTH}.new"
    write(unfinished, lambda stream: stream.write(truth))
    os.replace(unfinished, folder / TRUTH)
    try:
        folder_to_disk(folder)
    except OSError as error:  # The new state holds already: it is no failure of the change.
        logging.warning("%s: the disk does not confirm the change (%s)", folder, error)


def sweep(folder: Path, *, segments: Collection[str], removed: str | None) -> None:
    """Clears away what no reader can come to any more: leftovers of killed writers, and what was merged."""
    for entry in _entries(folder / SEGMENTS):
        if entry.name not in segments:
            shutil.rmtree(entry, ignore_errors=True)
    unused = [entry for entry in _entries(folder / REMOVED) if entry.name != removed]
    for entry in [*unused, *folder.glob(f".{TRUTH}.*")]:
        entry.unlink(missing_ok=True)


def size_of(folder: Path) -> int:
    """Adds up the bytes of all files; one that is swept away meanwhile does not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
