#!/usr/bin/env bash
# One process of a training, as slurm.sbatch and kubernetes/run.sh start it on a cluster.
#
# Usage: launch/task.sh [flags of python -m fsl_jax.main...]
#
# After SIGTERM a training saves and exits with 0, which a scheduler takes for the end of the work. This exits
# with 75 then, as after the loss of another process: not done, and the same command continues.
set -euo pipefail

stopped=
# shellcheck disable=SC2317,SC2329 # the trap calls it
stop() {
  stopped=1
  # A container's SIGTERM reaches this shell alone; SLURM's reaches every process, and a second one would end
  # the training before it has saved.
  if (($$ == 1)); then
    kill -s TERM "$process"
  fi
}

python -m fsl_jax.main "$@" &
process=$!
trap stop TERM

# A signal ends `wait` too, before the process has ended.
status=0
wait "$process" || status=$?
while kill -0 "$process" 2>/dev/null; do
  status=0
  wait "$process" || status=$?
done
# 143: it was stopped before it listened, or after the training, while it judged.
if [[ -n $stopped ]] && ((status == 0 || status == 143)); then
  status=75
fi
exit "$status"
