#!/usr/bin/env bash
# Trains on a Cloud TPU slice, one process a host, from a container image (launch/Dockerfile).
#
# Usage: launch/tpu_pod.sh [--dry-run] create
#        launch/tpu_pod.sh [--dry-run] run [flags of python -m fsl_jax.main...]
#        launch/tpu_pod.sh [--dry-run] logs | stop | delete
#
#   NAME, ZONE            of the slice, such as fsl-jax and us-central1-a
#   TYPE, RUNTIME         for create: such as v5litepod-16 and v2-alpha-tpuv5-lite
#   SPOT=1                for create: cheaper, and may be taken away at any time
#   IMAGE                 for run: such as us-docker.pkg.dev/PROJECT/REPOSITORY/fsl_jax:tpu
#   SHARE                 for run: NFS share, such as 10.0.0.2:/share; all hosts see it as /runs
#   WORKER=0              for logs: which host's
#
# The project is gcloud's own: gcloud config set project PROJECT.
set -euo pipefail

usage() {
  sed -n '/^# Usage:/,/^#$/s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

dry_run=
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi
(($#)) || usage
action=$1
shift
[[ $action == run ]] || (($# == 0)) || usage

: "${NAME:?name of the slice}" "${ZONE:?zone of the slice, such as us-central1-a}"

run() {
  if [[ -n $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

quoted() {
  printf '%q ' "$@"
}

on_hosts() {
  run gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker="$1" --command="$2"
}

case $action in
  create)
    run gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" \
      --accelerator-type="${TYPE:?type of the slice, such as v5litepod-16}" \
      --runtime-version="${RUNTIME:?software of its hosts, such as v2-alpha-tpuv5-lite}" ${SPOT:+--spot}
    ;;
  run)
    : "${IMAGE:?container image, see docs/launch/docker.md}" "${SHARE:?NFS share, such as 10.0.0.2:/share}"
    mount="mountpoint -q /mnt/runs || { sudo apt-get -qq update && sudo apt-get -qq install -y nfs-common \
&& sudo mkdir -p /mnt/runs && sudo mount -t nfs $(quoted "$SHARE") /mnt/runs; }"
    # TPU devices and the share belong to the hosts' root. A process that was lost, or lost another, starts anew.
    train="sudo docker run --detach --name fsl_jax --restart on-failure:20 --stop-timeout 120 --user root \
--privileged --net host --shm-size 8g --volume /mnt/runs:/runs $(quoted "$IMAGE" --distributed "$@")"
    on_hosts all "set -e; $mount; sudo gcloud auth configure-docker --quiet $(quoted "${IMAGE%%/*}"); \
sudo docker rm fsl_jax >/dev/null 2>&1 || true; $train"
    ;;
  logs) on_hosts "${WORKER:-0}" "sudo docker logs --follow --tail 100 fsl_jax" ;;
  stop) on_hosts all "sudo docker stop -t 120 fsl_jax" ;;
  delete) run gcloud compute tpus queued-resources delete "$NAME" --zone="$ZONE" --force ;;
  *) usage ;;
esac
