"""Where compiled programs are kept, and how many devices a CPU makes; each in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

SAY = (
    "import json, jax; from fsl_jax import machine; folder = machine.use_compilation_cache({where!r}); {more} "
    "print(json.dumps([str(folder), jax.config.values['jax_compilation_cache_dir'], jax.device_count()]))"
)


def said(where="", more="", **environment):
    given = {**os.environ, "JAX_PLATFORMS": "cpu", "FSL_JAX_COMPILATION_CACHE": "", **environment}
    done = subprocess.run(
        [sys.executable, "-c", SAY.format(where=where, more=more)],
        env=given,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_programs_are_kept_in_the_users_cache_folder(tmp_path):
    folder, used, _ = said(XDG_CACHE_HOME=str(tmp_path))
    assert folder == used
    assert folder.startswith(str(tmp_path / "fsl_jax" / "compiled"))


@pytest.mark.parametrize("how", [{"where": "off"}, {"FSL_JAX_COMPILATION_CACHE": "off"}])
def test_off_keeps_nothing(tmp_path, how):
    assert said(XDG_CACHE_HOME=str(tmp_path), **how)[:2] == ["None", None]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_can_be_chosen(tmp_path):
    assert said(where=str(tmp_path / "mine"))[1] == str(tmp_path / "mine")


def test_what_was_set_for_jax_stays(tmp_path):
    assert said(JAX_COMPILATION_CACHE_DIR=str(tmp_path))[:2] == ["None", str(tmp_path)]


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert said(where=str(tmp_path / "file" / "below"))[:2] == ["None", None]


def test_a_program_is_found_again_by_the_next_process(tmp_path):
    # No program of a test compiles for half a second.
    work = (
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0); "
        "jax.jit(lambda a: (a @ a).sum())(jax.numpy.ones((8, 8)));"
    )
    said(where=str(tmp_path), more=work)
    kept = {file.name for file in tmp_path.iterdir() if not file.name.endswith("atime")}
    assert kept
    said(where=str(tmp_path), more=work)
    assert {file.name for file in tmp_path.iterdir() if not file.name.endswith("atime")} == kept


@pytest.mark.parametrize(("asked", "there"), [(3, 3), (0, min(len(os.sched_getaffinity(0)), 8))])
def test_a_cpu_makes_the_devices_that_are_asked_for(asked, there):
    assert said(where="off", more=f"machine.use_cpu_devices({asked});")[2] == there


def test_devices_that_were_set_for_jax_stay():
    assert said(where="off", more="machine.use_cpu_devices(3);", JAX_NUM_CPU_DEVICES="2")[2] == 2
