"""launch/tpu_pod.sh: the commands for gcloud, and what they run on the hosts."""

import subprocess

import pytest
from launching import RECORDER, dry, recorded, stand_ins, started

SLICE = {"NAME": "fsl-jax", "ZONE": "us-central1-a"}
IMAGE = "us-docker.pkg.dev/project/repository/fsl_jax:tpu"


@pytest.mark.parametrize(("spot", "expected"), [("", []), ("1", ["--spot"])])
def test_create_asks_for_a_slice(spot, expected):
    [command] = dry(
        "tpu_pod.sh", "create", **SLICE, TYPE="v5litepod-16", RUNTIME="v2-alpha-tpuv5-lite", SPOT=spot
    )
    assert command == [
        *("gcloud", "compute", "tpus", "queued-resources", "create", "fsl-jax", "--node-id=fsl-jax"),
        *("--zone=us-central1-a", "--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"),
        *expected,
    ]


def ssh(worker, command):
    return [
        *("gcloud", "compute", "tpus", "tpu-vm", "ssh", "fsl-jax", "--zone=us-central1-a"),
        *(f"--worker={worker}", f"--command={command}"),
    ]


def test_logs_follow_one_host_and_stop_asks_all_to_save():
    assert dry("tpu_pod.sh", "logs", **SLICE) == [ssh("0", "sudo docker logs --follow --tail 100 fsl_jax")]
    assert dry("tpu_pod.sh", "logs", **SLICE, WORKER="3")[0][-2] == "--worker=3"
    assert dry("tpu_pod.sh", "stop", **SLICE) == [ssh("all", "sudo docker stop -t 120 fsl_jax")]


def test_delete_gives_the_slice_back():
    assert dry("tpu_pod.sh", "delete", **SLICE) == [
        [
            *("gcloud", "compute", "tpus", "queued-resources", "delete", "fsl-jax"),
            *("--zone=us-central1-a", "--force"),
        ]
    ]


def on_host(tmp_path, is_mounted):
    """Runs the command that `run` sends, with stand-ins for a host's programs, and returns what they were told."""
    [command] = dry(
        "tpu_pod.sh",
        *("run", "--config", "maml:smoke", "--workdir", "/runs/it's a b"),
        **SLICE,
        IMAGE=IMAGE,
        SHARE="10.0.0.2:/a share",
    )
    assert command[:-1] == ssh("all", "")[:-1]
    mountpoint = f"#!/bin/sh\nexit {0 if is_mounted else 1}\n"
    environment = stand_ins(tmp_path / "host", sudo=RECORDER, mountpoint=mountpoint)
    subprocess.run(["sh", "-c", command[-1].removeprefix("--command=")], env=environment, check=True)
    return recorded(environment)


def test_run_starts_a_container_on_each_host_with_the_flags_as_they_were_given(tmp_path):
    registry, removed, started_container = on_host(tmp_path, is_mounted=True)
    assert registry == ["sudo", "gcloud", "auth", "configure-docker", "--quiet", "us-docker.pkg.dev"]
    assert removed == ["sudo", "docker", "rm", "fsl_jax"]
    assert started_container == [
        *("sudo", "docker", "run", "--detach", "--name", "fsl_jax", "--restart", "on-failure:20"),
        *("--stop-timeout", "120", "--user", "root", "--privileged", "--net", "host", "--shm-size", "8g"),
        *("--volume", "/mnt/runs:/runs", IMAGE, "--distributed"),
        *("--config", "maml:smoke", "--workdir", "/runs/it's a b"),
    ]


def test_run_mounts_the_share_where_it_is_not_yet(tmp_path):
    assert on_host(tmp_path, is_mounted=False)[:4] == [
        ["sudo", "apt-get", "-qq", "update"],
        ["sudo", "apt-get", "-qq", "install", "-y", "nfs-common"],
        ["sudo", "mkdir", "-p", "/mnt/runs"],
        ["sudo", "mount", "-t", "nfs", "10.0.0.2:/a share", "/mnt/runs"],
    ]


@pytest.mark.parametrize(
    ("action", "missing", "said"),
    [
        ("delete", "NAME", "NAME: name of the slice"),
        ("delete", "ZONE", "ZONE: zone of the slice"),
        ("create", "TYPE", "TYPE: type of the slice"),
        ("create", "RUNTIME", "RUNTIME: software of its hosts"),
        ("run", "IMAGE", "IMAGE: container image"),
        ("run", "SHARE", "SHARE: NFS share"),
    ],
)
def test_what_is_missing_is_named(action, missing, said):
    variables = {**SLICE, "TYPE": "v4-8", "RUNTIME": "x", "IMAGE": "x/y", "SHARE": "x:/y", missing: ""}
    result = started("tpu_pod.sh", "--dry-run", action, **variables)
    assert result.returncode != 0
    assert said in result.stderr


@pytest.mark.parametrize("arguments", [(), ("start",), ("stop", "now"), ("create", "--spot")])
def test_an_unknown_action_or_argument_is_answered_with_the_usage(arguments):
    result = started("tpu_pod.sh", *arguments, **SLICE)
    assert result.returncode == 2
    assert result.stderr.startswith("Usage: launch/tpu_pod.sh")
