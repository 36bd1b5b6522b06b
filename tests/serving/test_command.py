import os
import subprocess
import sys

from tests.conftest import REPOSITORY


def test_refuses_to_serve_other_machines_without_a_key(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.serve", f"--workdir={tmp_path}", "--host=0.0.0.0"],
        cwd=REPOSITORY,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "TOKENREC_API_KEY": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --host=0.0.0.0: other machines can reach it; set TOKENREC_API_KEY")
