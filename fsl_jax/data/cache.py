"""Where decoded or checked things are kept between runs, and how files are written whole or not at all."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from absl import logging


def cache_folder() -> Path:
    """Returns the user's cache folder of fsl_jax, which need not exist yet.

    References:
      XDG base directories, https://specifications.freedesktop.org/basedir-spec/latest/. Relative values are
      invalid.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "fsl_jax"


def write_whole(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that it is never seen half-written, even by a process that runs at the same time.

    Args:
      file: Target; its folder is made where it is missing.
      write: Called with the open temporary file.

    Raises:
      OSError: The folder cannot be written, or the disk is full; the message names the file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        # Not a file of `tempfile`, which nobody else may read.
        with unfinished.open("xb") as stream:
            write(stream)
        os.replace(unfinished, file)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        # A failed write knows no name.
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(file)
        raise


def keep(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a cache file; a full or read-only disk costs time on the next run, so it is a warning."""
    try:
        write_whole(file, write)
    except OSError as error:
        logging.warning("cannot keep %s (%s); the next run does the work again", file, error)
