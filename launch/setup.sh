#!/usr/bin/env bash
# Sourced by the other scripts: goes to the checkout, makes .venv if there is none, installs the package with the
# extras given as the first argument, and activates it. PYTHON chooses the interpreter (3.11 or newer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=$1
python=${PYTHON:-python3}
# The script to activate it is the last file of an environment; one that was stopped before is made again.
if [ ! -f .venv/bin/activate ]; then
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $("$python" --version) is too old; Python 3.11 or newer is needed: set PYTHON" >&2
    exit 1
  }
  "$python" -m venv --clear .venv
fi
# shellcheck disable=SC1091
. .venv/bin/activate
# Installed again only when the metadata changed, so that a second run starts at once and works offline.
stamp=.venv/.installed-$extras
if [ ! -f "$stamp" ] || [ setup.cfg -nt "$stamp" ]; then
  echo "installing tokenrec_jax[$extras] into .venv"
  # Python compiles what it imports; all that is installed would take a minute.
  python -m pip install --quiet --disable-pip-version-check --no-compile --editable ".[$extras]"
  touch "$stamp"
fi
