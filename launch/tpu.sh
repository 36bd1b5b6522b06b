#!/usr/bin/env bash
# Sourced by tpu_vm.sh and tpu_pod.sh, which set WORKER (of `gcloud compute tpus tpu-vm`) and TOGETHER (a flag or none).
set -euo pipefail
act=
if [ "${1-}" = --dry-run ]; then act=show && shift; fi
if (($# < 4)) || [ "$3" != -- ]; then
  echo "error: usage: bash $0 [--dry-run] NAME ZONE -- TRAINING ARGUMENTS" >&2
  exit 1
fi
name=$1 place=(--zone="$2" --worker="$WORKER")
shift 3
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/show.sh
archive=${TMPDIR:-/tmp}/tokenrec_jax.tar.gz
install="mkdir -p tokenrec_jax && tar -xzf tokenrec_jax.tar.gz -C tokenrec_jax && . tokenrec_jax/launch/setup.sh demo,tpu"
# What decides there what it decides here.
given=()
for variable in PYTHON TOKENREC_CACHE TOKENREC_DATA HF_HOME JAX_COMPILATION_CACHE_DIR; do
  if [ -n "${!variable-}" ]; then given+=("$variable=${!variable}"); fi
done
if ((${#given[@]} > 0)); then install="$(show export "${given[@]}") && $install"; fi
train=$(show python -m experiments.train ${TOGETHER:+"$TOGETHER"} "$@")
$act git archive --output="$archive" HEAD
$act gcloud compute tpus tpu-vm scp "$archive" "$name:" "${place[@]}"
$act gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --command="$install && $train"
