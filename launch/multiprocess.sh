#!/usr/bin/env bash
# Trains in N processes on this machine, each with DEVICES (default 4) forced CPU devices: a TPU pod on a laptop.
#   bash launch/multiprocess.sh N [DEVICES] -- --config=FILE --workdir=DIR [--config.a.b=value ...]
# Each line of output begins with the number of its process. If one process dies the others are ended; the same command
# goes on from the last checkpoint. Needs bash 5.1.
set -euo pipefail
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 501)); then
  echo "error: this is bash $BASH_VERSION; $0 needs 5.1 or newer" >&2
  exit 1
fi
usage="usage: bash launch/multiprocess.sh N [DEVICES] -- TRAINING ARGUMENTS"
count=${1-}
devices=4
shift || true
if [ "${1-}" != -- ]; then devices=${1-} && shift || true; fi
if [[ ! $count =~ ^[1-9][0-9]*$ || ! $devices =~ ^[1-9][0-9]*$ || ${1-} != -- ]]; then
  echo "error: $usage" >&2
  exit 1
fi
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# An environment that has everything is used as it is.
python -c 'from importlib.util import find_spec as find; assert find("jax") and find("grain") and find("tensorboardX")' \
  2>/dev/null || . launch/setup.sh demo
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export JAX_PLATFORMS=cpu PYTHONUNBUFFERED=1
export XLA_FLAGS="${XLA_FLAGS-} --xla_force_host_platform_device_count=$devices"
pids=()
for ((id = 0; id < count; id++)); do
  python -m experiments.train --coordinator="127.0.0.1:$port" --num_processes="$count" --process_id="$id" "$@" \
    > >(sed -u "/^\[Gloo\] Rank/d; s/^/[$id] /") 2>&1 &
  pids+=($!)
done
running=("${pids[@]}")
# A signal goes on to one process: it tells the others, and all stop after the same step.
trap 'kill -TERM "${running[0]}" 2>/dev/null || true' INT TERM
failed=0 reaper=
while ((${#running[@]} > 0)); do
  status=0 ended=
  # Bash's own notice of a killed process is the whole command; ours is below.
  { wait -n -p ended "${running[@]}" || status=$?; } 2>/dev/null
  # Interrupted by a signal of which nobody has died yet.
  if [ -z "${ended-}" ]; then continue; fi
  running=()
  for ((id = 0; id < count; id++)); do
    if [ "${pids[id]}" = "$ended" ]; then
      who=$id pids[id]=
    elif [ -n "${pids[id]}" ]; then
      running+=("${pids[id]}")
    fi
  done
  if ((status != 0 && failed == 0)); then
    failed=1
    how="exit status $status"
    if ((status > 128)); then how="signal $((status - 128))"; fi
    echo "launch: process $who of $count ended with $how; ending the others; the same command goes on" >&2
    # Most notice by themselves and say so; this is for those that wait for something else.
    (sleep 5 && kill -KILL "${running[@]}") >/dev/null 2>&1 &
    reaper=$!
  fi
done
if [ -n "$reaper" ]; then kill "$reaper" 2>/dev/null || true; fi
exit "$failed"
