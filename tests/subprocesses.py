"""Programs that need a number of devices of their own run in a process of their own."""

import os
import subprocess
import sys

from tests.conftest import REPOSITORY


def run_python(program: str, *arguments: str, devices: int = 8) -> str:
    """Returns what a program prints that has so many forced CPU devices; it must not fail."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
