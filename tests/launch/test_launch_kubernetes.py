"""launch/kubernetes/run.sh: the manifest that it applies."""

import subprocess

import pytest
import yaml
from launching import LAUNCH, REPOSITORY, stand_ins, started

GIVEN = {"IMAGE": "registry.example/fsl_jax:cuda", "CLAIM": "runs", "KUBECONFIG": "/nowhere"}
FLAGS = ["--config", "maml:smoke", "--workdir=/runs/a & b", "it's", "$(PROCESS_ID) ${CLAIM} \\n: #", "", "2"]


def manifest(*arguments, **variables):
    result = started("kubernetes/run.sh", "--dry-run", *arguments, **{**GIVEN, **variables})
    assert result.returncode == 0, result.stderr
    return yaml.safe_load(result.stdout)


def job_of(jobset):
    [replicated] = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def container_of(jobset):
    [container] = job_of(jobset)["template"]["spec"]["containers"]
    return container


def without_empty(value):
    """Drops what is left out by whoever writes a manifest anew: empty maps."""
    if isinstance(value, dict):
        return {key: without_empty(item) for key, item in value.items() if item != {}}
    return [without_empty(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("accelerator", ["gpu", "tpu", "cpu"])
def test_the_manifest_is_a_jobset_without_unknown_fields(accelerator):
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="the published JobSet API")
    given = manifest("maml", *FLAGS, ACCELERATOR=accelerator)
    assert (given["apiVersion"], given["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    understood = models.JobsetV1alpha2JobSet.from_dict(given).to_dict()
    assert without_empty(understood) == without_empty(given)


def test_every_process_is_a_pod_with_its_number_and_the_first_is_the_coordinator():
    jobset = manifest("maml", *FLAGS, PROCESSES="4")
    [replicated] = jobset["spec"]["replicatedJobs"]
    job = job_of(jobset)
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 4, 4)
    assert (replicated["name"], replicated["replicas"]) == ("train", 1)
    assert jobset["metadata"]["name"] == jobset["spec"]["network"]["subdomain"] == "maml"
    container = container_of(jobset)
    # <jobset>-<replicated job>-<job>-<pod>.<subdomain>
    assert container["args"][:4] == [
        *("--distributed", "--coordinator=maml-train-0-0.maml:8476", "--num_processes=4"),
        "--process_id=$(PROCESS_ID)",
    ]
    [variable] = container["env"]
    assert variable["name"] == "PROCESS_ID"
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert variable["valueFrom"]["fieldRef"]["fieldPath"] == index


def as_kubelet_reads(argument):
    """Replaces $$ by $; a $(NAME) that is left would be replaced by a variable."""
    halves = argument.split("$$")
    assert not any("$(" in half for half in halves)
    return "$".join(halves)


def test_flags_arrive_as_they_were_given():
    assert [
        as_kubelet_reads(argument) for argument in container_of(manifest("maml", *FLAGS))["args"][4:]
    ] == FLAGS


def test_a_mistake_of_the_user_ends_all_and_any_other_failure_starts_all_anew():
    jobset = manifest("maml", *FLAGS, MAX_RESTARTS="3")
    job = job_of(jobset)
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    [rule] = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2])
    assert rule["onExitCodes"]["containerName"] == container_of(jobset)["name"]
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 3
    [rule] = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])


def test_pods_share_the_claim_and_have_time_to_save():
    pod = job_of(manifest("maml", *FLAGS))["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 120
    claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in pod["volumes"]}
    mounted = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert claims[mounted["/runs"]] == {"claimName": "runs"}
    assert set(mounted.values()) == set(claims)


@pytest.mark.parametrize(
    ("variables", "limits", "security"),
    [
        ({}, {"nvidia.com/gpu": 1}, {"runAsNonRoot": True}),
        ({"ACCELERATOR": "tpu", "CHIPS": "4"}, {"google.com/tpu": 4}, {"privileged": True, "runAsUser": 0}),
        ({"ACCELERATOR": "cpu"}, {}, {"runAsNonRoot": True}),
    ],
)
def test_each_accelerator_is_asked_for_by_its_name(variables, limits, security):
    container = container_of(manifest("maml", *FLAGS, **variables))
    assert container["resources"] == {"limits": limits}
    assert container["securityContext"] == security


def test_nodes_can_be_chosen():
    nodes = (
        "{cloud.google.com/gke-tpu-accelerator: tpu-v5-lite-podslice, cloud.google.com/gke-tpu-topology: 4x4}"
    )
    assert job_of(manifest("maml", *FLAGS, NODES=nodes))["template"]["spec"]["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }


def test_the_image_starts_what_it_has():
    [path] = container_of(manifest("maml", *FLAGS))["command"]
    dockerfile = (LAUNCH / "Dockerfile").read_text()
    assert path == "/app/launch/task.sh"
    assert "WORKDIR /app\nCOPY launch/task.sh launch/\n" in dockerfile


def test_without_dry_run_the_manifest_goes_to_kubectl(tmp_path):
    kubectl = '#!/bin/sh\necho "$@" >"$RECORD"\ncat >"$RECORD.yaml"\n'
    environment = stand_ins(tmp_path / "bin", kubectl=kubectl)
    subprocess.run(
        [LAUNCH / "kubernetes" / "run.sh", "maml", *FLAGS],
        env={**environment, **GIVEN},
        cwd=tmp_path,
        check=True,
    )
    assert (tmp_path / "bin" / "record").read_text() == "apply --filename -\n"
    assert yaml.safe_load((tmp_path / "bin" / "record.yaml").read_text()) == manifest("maml", *FLAGS)


@pytest.mark.parametrize(
    "arguments", [(), ("maml",), ("Maml", "--x"), ("a b", "--x"), ("maml\n", "--x"), ("--config", "x")]
)
def test_a_name_that_is_none_is_answered_with_the_usage(arguments):
    result = started("kubernetes/run.sh", *arguments, **GIVEN)
    assert result.returncode == 2
    assert result.stderr.startswith("Usage: launch/kubernetes/run.sh")


@pytest.mark.parametrize(
    ("missing", "said"), [("IMAGE", "container image"), ("CLAIM", "persistent volume claim")]
)
def test_what_is_missing_is_named(missing, said):
    result = started("kubernetes/run.sh", "--dry-run", "maml", "--x", **{**GIVEN, missing: ""})
    assert result.returncode != 0
    assert f"{missing}: {said}" in result.stderr


def test_the_claim_of_the_page_is_one_that_pods_on_several_nodes_can_share():
    page = (REPOSITORY / "docs" / "launch" / "kubernetes.md").read_text()
    claim = yaml.safe_load(page.split("<<'EOF'\n")[1].split("\n    EOF")[0])
    assert (claim["kind"], claim["metadata"]["name"]) == ("PersistentVolumeClaim", "runs")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
