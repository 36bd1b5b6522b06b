"""Commands of `experiments` as a user types them, in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from tests.conftest import REPOSITORY

#: Imports once what all commands import, then runs each in a child that is as fresh as one of its own: no main has been
#: imported, no flag defined and no device asked for.
_MANY = """
import json, os, runpy, sys, tempfile, traceback
import tensorboardX
from experiments import cli, training
from tokenrec_jax import recommender
from transformers import AutoTokenizer

def run(module, arguments):
    sys.argv = [f"experiments/{module}.py", *arguments]
    try:
        runpy.run_module(f"experiments.{module}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

done = []
for module, arguments in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as printed:
        child = os.fork()
        if not child:
            os.dup2(printed.fileno(), 1)
            os.dup2(said.fileno(), 2)
            status = run(module, arguments)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for file in (printed, said):
            file.seek(0)
        done.append((status, printed.read().decode(), said.read().decode()))
json.dump(done, sys.stdout)
"""

_ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu"}


def command(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end."""
    return _python("-m", f"experiments.{module}", *arguments)


def commands(given: Sequence[tuple[str, Sequence[str]]]) -> list[subprocess.CompletedProcess[str]]:
    """Runs many short commands, (module, arguments) each; what they import is imported once."""
    # JAX warns of forks, which come here before it has threads.
    all_of_them = _python("-W", "ignore:os.fork() was called:RuntimeWarning", "-c", _MANY, json.dumps(given))
    assert all_of_them.returncode == 0, all_of_them.stderr
    return [
        subprocess.CompletedProcess([module, *arguments], status, printed, said)
        for (module, arguments), (status, printed, said) in zip(given, json.loads(all_of_them.stdout), strict=True)
    ]


def _python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=REPOSITORY, env=_ENVIRONMENT, capture_output=True, text=True, check=False
    )
