"""One device and a mesh of 4 x 2 forced host devices give the same losses; run in processes of their own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import FAST_COMPILATION, REPOSITORY

PROGRAM = """
import json, sys
from tests.training.conftest import make_setup
from tests.training.test_step import run
from experiments.configs import tiny
from tokenrec_jax.config import MeshConfig
from tokenrec_jax.types import Stage
import jax
data, fsdp, tensor = map(int, sys.argv[1:4])
config = tiny.get_config()
config.mesh = MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
setup = make_setup(config, devices=jax.devices())
found = {}
for stage in Stage:
    _, state, metrics, _, _ = run(setup, stage, 3)
    found[stage] = [float(m["loss"]) for m in metrics]
leaf = state.params["code_tokens"]
found["shards"] = len({str(s.index) for s in leaf.addressable_shards})
print(json.dumps(found))
"""


def losses(data: int, fsdp: int, tensor: int) -> dict:
    devices = data * fsdp * tensor
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {FAST_COMPILATION}",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(data), str(fsdp), str(tensor)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_losses_do_not_depend_on_the_mesh():
    one, many = losses(1, 1, 1), losses(4, 2, 1)
    assert one.pop("shards") == 1
    assert many.pop("shards") == 2
    for stage, expected in one.items():
        # Float32 sums in another order; after three steps of Adam the difference has grown to this at most.
        np.testing.assert_allclose(many[stage], expected, rtol=2e-4, err_msg=stage)
