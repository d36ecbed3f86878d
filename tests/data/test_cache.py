"""Files that are written whole or not at all."""

import os
import stat

import pytest

from fsl_jax.data.cache import write_whole


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_may_be_read_by_whom_the_user_lets(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "new" / "file", lambda stream: stream.write(b"all"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "file").stat().st_mode) == mode


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def fail(stream):
        stream.write(b"half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_whole(file, fail)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert file.read_bytes() == b"old"
