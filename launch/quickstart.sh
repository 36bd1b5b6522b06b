#!/usr/bin/env bash
# Trains a TokenRec on MovieLens-small and prints what it recommends.
#   bash launch/quickstart.sh [WORKDIR]      (default: runs/quickstart)
# Stop it at any time; the same command goes on. On a finished run it prints the results again.
set -euo pipefail
workdir=$(realpath -m "${1:-runs/quickstart}")
. "$(dirname "$0")/setup.sh" demo
python -m experiments.train --config=experiments/configs/quickstart.py --workdir="$workdir"
for user in 1 15 100; do
  echo
  echo "top 10 for user $user"
  python -m experiments.recommend --workdir="$workdir" --user="$user" --k=10
done
