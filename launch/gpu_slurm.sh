#!/usr/bin/env bash
# Submits a training over NODES x GPUS to Slurm, one process a GPU; run it in a checkout that all nodes see.
#   bash launch/gpu_slurm.sh [--dry-run] NODES GPUS -- --config=FILE --workdir=DIR [--config.a.b=value ...]
# SBATCH_ARGUMENTS adds options of sbatch, such as "--partition=big --time=8:00:00"; CPUS_PER_TASK is how many cores each
# process has, 8 by default. --dry-run prints the commands.
# Two minutes before the time limit the run saves its state and ends; the same command goes on.
set -euo pipefail
dry=
if [ "${1-}" = --dry-run ]; then dry=1 && shift; fi
if [[ ! ${1-} =~ ^[1-9][0-9]*$ || ! ${2-} =~ ^[1-9][0-9]*$ || ${3-} != -- ]]; then
  echo "error: usage: bash launch/gpu_slurm.sh [--dry-run] NODES GPUS -- TRAINING ARGUMENTS" >&2
  exit 1
fi
nodes=$1 gpus=$2
shift 3
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/show.sh
# Compilation, data and baselines run on the host. srun does not take it from sbatch by itself.
cpus=${CPUS_PER_TASK:-8}
train=$(show srun --kill-on-bad-exit=1 --label --cpus-per-task="$cpus" python -m experiments.train --distributed=auto "$@")
# shellcheck disable=SC2086  # several options in one variable
submit=(sbatch --job-name=tokenrec --nodes="$nodes" --ntasks-per-node="$gpus" --gpus-per-node="$gpus" --cpus-per-task="$cpus"
  --signal=TERM@120 --open-mode=append ${SBATCH_ARGUMENTS-} --wrap=". .venv/bin/activate && $train")
if [ -n "$dry" ]; then
  show . launch/setup.sh demo,cuda
  show "${submit[@]}"
  exit
fi
# Once, on this machine: the nodes use the same .venv.
. launch/setup.sh demo,cuda
"${submit[@]}"
