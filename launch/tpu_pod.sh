#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU pod slice, which must exist: copies the last commit there, installs it and runs.
#   bash launch/tpu_pod.sh [--dry-run] NAME ZONE -- --config=FILE --workdir=DIR [--config.a.b=value ...]
# DIR must be on a file system that all hosts have mounted (NFS), as must $TOKENREC_CACHE if data is to be prepared once.
# --dry-run prints the commands. The same command goes on with a run that was stopped.
set -euo pipefail
WORKER=all TOGETHER=--distributed=auto . "$(dirname "${BASH_SOURCE[0]}")/tpu.sh"
