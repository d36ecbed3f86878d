"""launch/Dockerfile, and its list of what the build may see."""

import fnmatch
import importlib.metadata
import re
import shlex
import subprocess
import tomllib

import pytest
from launching import LAUNCH, RECORDER, REPOSITORY, recorded, stand_ins

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def instructions():
    """Returns the instructions of each stage, as (name, text)."""
    lines = [line for line in (LAUNCH / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    stages = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        name, text = line.split(maxsplit=1)
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, text))
    return stages


def copied(stage):
    """Returns what a stage copies from the repository."""
    texts = [shlex.split(text) for name, text in stage if name == "COPY"]
    return [path for text in texts if not text[0].startswith("--from") for path in text[:-1]]


def test_both_stages_start_from_one_pinned_slim_python_that_the_project_supports():
    bases = [stage[0][1].split()[0] for stage in instructions()]
    assert len(set(bases)) == 1
    version = re.fullmatch(r"python:(\d+\.\d+)-slim-[a-z]+", bases[0])[1]
    least = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert tuple(map(int, version.split("."))) >= tuple(map(int, least.split(".")))


def test_what_is_copied_exists_and_is_not_hidden_from_the_build():
    shown = [
        line[1:] for line in (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    paths = [path for stage in instructions() for path in copied(stage)]
    for path in paths:
        assert (REPOSITORY / path).exists(), path
        assert any(fnmatch.fnmatch(path, pattern) for pattern in shown), path
    assert set(shown) == set(paths)


def test_the_first_stage_has_all_that_the_package_is_built_from():
    given = set(copied(instructions()[0]))
    build = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {"pyproject.toml", PROJECT["project"]["readme"], "LICENSE"} <= given
    assert {*build["packages"], *build["force-include"]} <= given


def test_the_extra_that_is_installed_exists():
    [text] = [text for name, text in instructions()[1] if name == "RUN" and "/wheels/" in text]
    [extra] = re.findall(r"\.whl\)\[(\w+)\]", text)
    assert extra in PROJECT["project"]["optional-dependencies"]


def installed(tmp_path, accelerator):
    """Runs the shell command that installs JAX, with a stand-in for pip."""
    [text] = [text for name, text in instructions()[1] if name == "RUN" and "ACCELERATOR" in text]
    environment = {**stand_ins(tmp_path / "bin", pip=RECORDER), "ACCELERATOR": accelerator}
    result = subprocess.run(["sh", "-c", text], env=environment, capture_output=True, text=True)
    return result, recorded(environment)


@pytest.mark.parametrize(("accelerator", "extra"), [("cpu", ""), ("cuda", "cuda12"), ("tpu", "tpu")])
def test_each_accelerator_has_its_jax(tmp_path, accelerator, extra):
    [jax] = [name for name in PROJECT["project"]["dependencies"] if name.startswith("jax>=")]
    result, commands = installed(tmp_path, accelerator)
    assert result.returncode == 0
    wanted = jax.replace("jax", f"jax[{extra}]", 1) if extra else jax
    assert commands == [["pip", "install", "--no-cache-dir", wanted]]
    assert not extra or extra in importlib.metadata.metadata("jax").get_all("Provides-Extra")


def test_an_unknown_accelerator_fails_the_build_and_is_named(tmp_path):
    result, commands = installed(tmp_path, "gpu")
    assert result.returncode == 1
    assert result.stderr == "ACCELERATOR is cpu, cuda or tpu, not 'gpu'\n"
    assert commands == []


def test_the_container_trains_as_a_user_who_is_not_root():
    stage = instructions()[1]
    assert [text for name, text in stage if name == "USER"] == ["1000"]  # a number: Kubernetes asks for one
    assert [text for name, text in stage if name == "ENTRYPOINT"] == ['["python", "-m", "fsl_jax.main"]']
    assert [name for name, _ in stage][-2:] == ["USER", "ENTRYPOINT"]
