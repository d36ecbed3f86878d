"""Photos out of zip archives: unpacked once, into the user's cache folder and nowhere else."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

from fsl_jax.data.cache import cache_folder
from fsl_jax.progress import track

MEMBER_BYTES = 100_000_000
"""A photo that claims to be larger is refused."""
BLOCK_BYTES = 4096
"""What the last, half-filled block of a file takes on most disks."""
LEFTOVER_SECONDS = 24 * 3600.0
"""Age at which the folder of a process that was killed is removed; one that still unpacks adds files all the time."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Python unpacks the others without a bound on what comes out."""
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)
"""What zipfile raises on broken or encrypted bytes."""


def members(archive: Path) -> list[str]:
    """Lists the files of a zip archive, in its order.

    Raises:
      ValueError: It is no whole zip file.
    """
    with _opened(archive) as opened:
        return [member.filename for member in opened.infolist() if not member.is_dir()]


def unpacked(archive: Path, wanted: Mapping[str, str], *, instead: str) -> Path:
    """Unpacks some files of a zip archive into the user's cache folder, where that has not been done yet.

    The folder appears when it is whole: a process that is stopped leaves no half of it, and processes that unpack at
    the same time end with the same folder. It may be removed at any time; an archive or a choice of files that has
    changed gets another.

    Args:
      archive: The zip file.
      wanted: File name to give to each member, by the member's name; the members' own names are never used as paths.
      instead: What makes unpacking needless, for messages, such as "unpack it to images/ by hand".

    Returns:
      The folder with the files, one beside the other.

    Raises:
      ValueError: The archive is damaged, a member is missing, a link, or larger than 100 MB, or a file name is not
        plain or not the only one.
      OSError: The cache folder cannot be written; the message says which it is, and what to do.
    """
    _check_names(wanted)
    folder = cache_folder() / "unpacked" / _digest(archive, wanted)
    if _has(folder, wanted.values()):
        return folder
    with _opened(archive) as opened:
        chosen = {name: _member(archive, opened, member) for member, name in wanted.items()}
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder.parent)
            _check_room(folder.parent, chosen.values())
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
                whole = Path(temporary) / folder.name
                whole.mkdir()
                for name, member in track(
                    chosen.items(), description=f"unpacking {archive.name}", total=len(chosen), unit="files"
                ):
                    (whole / name).write_bytes(_content(archive, opened, member))
                _put(whole, folder, wanted.values())
        except OSError as error:
            raise OSError(
                f"cannot unpack {archive} into {folder.parent} ({error.strerror or error}); make room there, give "
                f"another cache folder in the environment variable XDG_CACHE_HOME, or {instead}"
            ) from error
    return folder


def _opened(archive: Path) -> zipfile.ZipFile:
    with archive.open("rb"):  # a file that is missing or not ours to read is told as such, not as damaged
        pass
    try:
        return zipfile.ZipFile(archive)
    except DAMAGED as error:
        raise ValueError(f"{archive} is no whole zip file ({error}); get it anew") from error


def _check_names(wanted: Mapping[str, str]) -> None:
    for name in wanted.values():
        if not re.fullmatch(r"[^./\\:\x00-\x1f][^/\\:\x00-\x1f]*", name):
            raise ValueError(f"file name {name!r} is not plain; expected one such as '15970.jpg'")
    if len(set(wanted.values())) < len(wanted):
        twice = next(name for name in wanted.values() if list(wanted.values()).count(name) > 1)
        raise ValueError(f"file name {twice!r} is given to several members; expected one each")


def _digest(archive: Path, wanted: Mapping[str, str]) -> str:
    status = archive.stat()
    identity = [str(archive.absolute()), status.st_size, status.st_mtime_ns, sorted(wanted.items())]
    return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()


def _has(folder: Path, names: Collection[str]) -> bool:
    """Says whether all files are there: programs that tidy caches remove single ones."""
    try:
        return set(names) <= set(os.listdir(folder))
    except OSError:
        return False


def _member(archive: Path, opened: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Looks up a member, and refuses what is no photo before anything is written."""
    try:
        member = opened.getinfo(name)
    except KeyError as error:
        raise ValueError(f"{archive} has no member {name!r}") from error
    if member.file_size > MEMBER_BYTES:
        raise ValueError(
            f"{archive}: {name!r} claims {member.file_size:,} bytes; expected a photo of at most {MEMBER_BYTES:,}"
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError(f"{archive}: {name!r} is a link; expected photos")
    if member.compress_type not in METHODS:
        raise ValueError(
            f"{archive}: {name!r} is compressed by method {member.compress_type}; expected a plain zip (stored or "
            "deflated): pack it anew"
        )
    return member


def _check_room(folder: Path, chosen: Collection[zipfile.ZipInfo]) -> None:
    needed = sum(member.file_size + BLOCK_BYTES for member in chosen)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free")


def _content(archive: Path, opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with opened.open(member) as stream:
            content = stream.read(member.file_size)  # the checksum is compared once these are read
        if len(content) != member.file_size:
            raise EOFError(f"{len(content):,} of {member.file_size:,} bytes")
        return content
    except DAMAGED as error:
        raise ValueError(
            f"{archive} is damaged: {member.filename!r} cannot be read ({error}); get it anew"
        ) from error


def _put(whole: Path, folder: Path, names: Collection[str]) -> None:
    try:
        whole.rename(folder)
    except OSError:
        if _has(folder, names):
            return  # another process was faster
        folder.rename(whole.with_name("incomplete"))  # removed along with the temporary folder
        whole.rename(folder)


def _remove_leftovers(parent: Path) -> None:
    for temporary in parent.glob(".*"):
        try:
            latest = max(place.stat().st_mtime for place in (temporary, *temporary.iterdir()))
        except OSError:  # another process has just finished it
            continue
        if time.time() - latest > LEFTOVER_SECONDS:
            shutil.rmtree(temporary, ignore_errors=True)
