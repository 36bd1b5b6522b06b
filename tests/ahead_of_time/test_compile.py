"""The command compiles for a real TPU topology; what a user gets wrong is one line."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tokenrec_jax import ahead_of_time as aot

CONFIG = "--config=experiments/configs/tiny.py:tiny"

needs_libtpu = pytest.mark.skipif(not aot.has_compiler(), reason="libtpu is not installed: pip install '.[tpu]'")


def run(*arguments):
    """A process of its own: the TPU's compiler stays out of the one that runs the tests."""
    return subprocess.run(
        [sys.executable, "-m", "experiments.compile", CONFIG, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )


@needs_libtpu
def test_compiles_train_and_retrieval_for_four_chips(tmp_path):
    output = tmp_path / "out" / "report.json"
    done = run(
        "--topology=v5e:2x2", "--mesh=2,2,1", "--items=3000", "--users=500", "--batch=16",
        "--steps=train,retrieval", f"--output={output}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert aot.LABEL in done.stdout
    report = json.loads(output.read_text())
    assert report["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1} and report["label"] == aot.LABEL
    for name in ("train_step", "retrieval_step"):
        step = report[name]
        assert 0 < step["hbm_bytes_per_chip"] < step["hbm_limit_bytes"] and step["fits"]
        assert set(step["roofline_seconds"]) == {"compute", "hbm", "interconnect"}
        assert step["bound_by"] == max(step["roofline_seconds"], key=step["roofline_seconds"].get)
        assert 0 < step["allowed_mfu"] < 1
        assert step["loops_of_unknown_length"] == 0
        # The program does what the model needs, and not many times that.
        assert 0.8 < step["program_flops_per_chip"] / step["model_flops_per_chip"] < 2
        assert step["gathers"] == {"item_table": False, "logits": False}
    assert report["train_step"]["collectives"]["all-reduce"]["count"] > 0


@needs_libtpu
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--topology=v5e:3x3",), "--topology=v5e:3x3: "),
        (("--topology=v5e:2x2", "--mesh=3,1,1"), "data=3 fsdp=1 tensor=1 does not cover 4 devices"),
        (("--topology=v5e:2x2", "--batch=6"), "--batch=6: not a multiple of mesh.data x mesh.fsdp = 4"),
    ],
    ids=["topology", "mesh", "batch"],
)
def test_what_cannot_be_compiled_is_one_line(arguments, said):
    done = run(*arguments)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert line.startswith("error: ") and said in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--llm=t6-huge",), "--llm=t6-huge: no such preset; allowed: tiny, compact, compact-wide, compact-wider"),
        (("--steps=sleep",), "--steps=sleep: allowed are train, query, retrieval"),
    ],
    ids=["llm", "steps"],
)
def test_wrong_flags_are_one_line_without_libtpu_too(arguments, said):
    done = run(*arguments)
    assert done.returncode == 1
    assert said in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
