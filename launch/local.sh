#!/usr/bin/env bash
# Trains in N processes on this machine.
#
# Usage: launch/local.sh [--dry-run] N [flags of python -m fsl_jax.main...]
#
#   DEVICES=1  CPU devices a process
#   GPUS=1     process i computes on GPU i instead (of those in CUDA_VISIBLE_DEVICES, where that is set)
#   GRACE=90   seconds that the others have to end once one has failed; then they are killed
#
# Each line of output starts with the number of its process. Ctrl-C and SIGTERM are passed on to all.
# The exit status is that of the first process that failed, or 0.
set -euo pipefail

usage() {
  sed -n 's/^# \(Usage: .*\)/\1/p' "$0" >&2
  exit 2
}

dry_run=
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi
[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || usage
count=$1
shift

IFS=, read -ra visible <<<"${CUDA_VISIBLE_DEVICES:-}"
if [[ -n ${GPUS:-} ]] && ((${#visible[@]} > 0 && ${#visible[@]} < count)); then
  echo "error: $count processes need $count GPUs; CUDA_VISIBLE_DEVICES is '$CUDA_VISIBLE_DEVICES'" >&2
  exit 2
fi

port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

# Sets `command` to the command line of process $1; the remaining arguments are the user's flags.
# A named platform that is not there is an error: JAX would go on with another.
command_of() {
  local i=$1
  shift
  command=(env)
  if [[ -n ${GPUS:-} ]]; then
    command+=("JAX_PLATFORMS=cuda,cpu" "CUDA_VISIBLE_DEVICES=${visible[i]:-$i}" python -m fsl_jax.main)
  else
    command+=(JAX_PLATFORMS=cpu python -m fsl_jax.main --cpu_devices "${DEVICES:-1}")
  fi
  command+=(--distributed --coordinator "127.0.0.1:$port" --num_processes "$count" --process_id "$i" "$@")
}

if [[ -n $dry_run ]]; then
  for ((i = 0; i < count; i++)); do
    command_of "$i" "$@"
    printf '%q ' "${command[@]}"
    echo
  done
  exit
fi

processes=()
readers=()

# shellcheck disable=SC2317,SC2329 # the traps call it
pass_on() {
  local process
  for process in "${processes[@]}"; do
    kill -s "$1" "$process" 2>/dev/null || true
  done
}
trap 'pass_on INT' INT
trap 'pass_on TERM' TERM

# Each process leads a group of its own. So Ctrl-C reaches it once, through this script: a second one would end
# it before it has saved.
set -m
for ((i = 0; i < count; i++)); do
  command_of "$i" "$@"
  exec {output}> >(trap '' INT TERM && exec sed -u "s/^/[$i] /")
  readers+=($!)
  "${command[@]}" </dev/null >&"$output" 2>&1 &
  processes+=($!)
  exec {output}>&-
done
set +m

grace=${GRACE:-90}
status=0
running=("${!processes[@]}")
while ((${#running[@]})); do
  sleep 0.2 || true # which Ctrl-C ends
  still=()
  for i in "${running[@]}"; do
    if kill -0 "${processes[i]}" 2>/dev/null; then
      still+=("$i")
      continue
    fi
    ended=0
    wait "${processes[i]}" || ended=$?
    kill -s KILL -- "-${processes[i]}" 2>/dev/null || true # what it left behind
    if ((ended && !status)); then
      status=$ended
      deadline=$((SECONDS + grace))
      echo "$0: process $i ended with status $status" >&2
    fi
  done
  if ((status && SECONDS >= deadline)); then
    for i in "${still[@]}"; do
      kill -s KILL -- "-${processes[i]}" 2>/dev/null || true
    done
  fi
  running=("${still[@]}")
done
wait "${readers[@]}" || true
exit "$status"
