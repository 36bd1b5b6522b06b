#!/usr/bin/env bash
# Installs what the tests need and runs linters and the whole suite. Arguments go to pytest.
#   bash launch/test.sh [PYTEST ARGUMENT ...]
set -euo pipefail
. "$(dirname "$0")/setup.sh" demo,dev,gguf,serve,portable,report
# PyTorch is only compared with. The pinned CPU build is not on every index; without it the parity tests skip.
if ! python -c 'import torch' 2>/dev/null; then
  python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[parity]' ||
    echo "no CPU build of PyTorch on the configured indexes: the parity tests will be skipped"
fi
ruff check .
ruff format --check .
basedpyright --level error
# In the order that tests/conftest.py makes: long files first, so that none runs alone at the end.
python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations=40 "$@"
