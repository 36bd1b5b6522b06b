#!/usr/bin/env bash
# Sourced by the other scripts: goes to the checkout, makes .venv if there is none, installs the package with the
# extras given as the first argument, and activates it. PYTHON chooses the interpreter (3.11 to 3.14).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=$1
python=${PYTHON:-python3}
# Whether .venv is an environment that was made here, to its end, and whose Python is still there.
usable() {
  [ -f .venv/bin/activate ] && [ -f .venv/pyvenv.cfg ] &&
    (. .venv/bin/activate && [ "$(python -c 'import sys; print(sys.prefix)' 2>/dev/null)" -ef .venv ]) 2>/dev/null
}
if ! usable; then
  if ! found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
    echo "error: $python: no such Python; set PYTHON to one of 3.11 to 3.14" >&2
    exit 1
  fi
  case $found in
    3.11 | 3.12 | 3.13 | 3.14) ;;
    *) echo "error: $python is Python $found; 3.11 to 3.14 are needed: set PYTHON" >&2; exit 1 ;;
  esac
  "$python" -m venv --clear .venv
fi
# shellcheck disable=SC1091
. .venv/bin/activate
# Some tools make environments without pip.
python -m pip --version >/dev/null 2>&1 || python -m ensurepip --upgrade >/dev/null
# Installed again only when the metadata changed, so that a second run starts at once and works offline.
stamp=.venv/.installed-$extras
if [ ! -f "$stamp" ] || [ setup.cfg -nt "$stamp" ]; then
  echo "installing tokenrec_jax[$extras] into .venv"
  # Python compiles what it imports; all that is installed would take a minute.
  python -m pip install --quiet --disable-pip-version-check --no-compile --editable ".[$extras]"
  touch "$stamp"
fi
