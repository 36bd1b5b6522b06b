#!/usr/bin/env bash
# Trains on a Cloud TPU VM with one host, which must exist: copies the last commit there, installs it and runs.
#   bash launch/tpu_vm.sh [--dry-run] NAME ZONE -- --config=FILE --workdir=DIR [--config.a.b=value ...]
# --dry-run prints the commands. The same command goes on with a run that was stopped.
set -euo pipefail
WORKER=0 TOGETHER='' . "$(dirname "${BASH_SOURCE[0]}")/tpu.sh"
