#!/usr/bin/env bash
# Trains on a Kubernetes cluster that has JobSet: fills in jobset.yaml beside it, and applies it.
#
# Usage: launch/kubernetes/run.sh [--dry-run] NAME flags of python -m fsl_jax.main...
#
#   IMAGE            container image (launch/Dockerfile)
#   CLAIM            persistent volume claim, ReadWriteMany; all pods see it as /runs
#   PROCESSES=2      pods, one process each
#   ACCELERATOR=gpu  or tpu, or cpu
#   CHIPS=1          GPUs or TPU chips a pod
#   NODES='{}'       which nodes, such as '{cloud.google.com/gke-tpu-topology: 4x4}'
#   MAX_RESTARTS=20  how often all pods are started anew after one failed
#
# --dry-run prints the manifest. Whatever else a cluster wants is easily put into jobset.yaml.
set -euo pipefail

usage() {
  sed -n 's/^# \(Usage: .*\)/\1/p' "$0" >&2
  exit 2
}

apply=(kubectl apply --filename -)
if [[ ${1:-} == --dry-run ]]; then
  apply=(cat)
  shift
fi
[[ ${1:-} =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || usage
name=$1
shift
(($#)) || usage

case ${ACCELERATOR:-gpu} in
  gpu) limits="{nvidia.com/gpu: ${CHIPS:-1}}" security="{runAsNonRoot: true}" ;;
  tpu) limits="{google.com/tpu: ${CHIPS:-1}}" security="{privileged: true, runAsUser: 0}" ;;
  cpu) limits="{}" security="{runAsNonRoot: true}" ;;
  *) usage ;;
esac

# One line a flag: a quoted scalar of YAML, in which Kubernetes sees no variable.
flags=
for flag in "$@"; do
  flag=${flag//\$/"\$\$"}
  flags+="${flags:+$'\n'                    - }'${flag//"'"/"''"}'"
done

manifest=$(<"$(dirname "$0")/jobset.yaml")
fill() {
  manifest=${manifest//"\${$1}"/"$2"}
}
fill NAME "$name"
fill IMAGE "${IMAGE:?container image, see docs/launch/docker.md}"
fill CLAIM "${CLAIM:?persistent volume claim, ReadWriteMany}"
fill PROCESSES "${PROCESSES:-2}"
fill LIMITS "$limits"
fill SECURITY "$security"
fill NODES "${NODES:-"{}"}"
fill MAX_RESTARTS "${MAX_RESTARTS:-20}"
fill FLAGS "$flags" # last, so that nothing in the flags is filled in
"${apply[@]}" <<<"$manifest"
