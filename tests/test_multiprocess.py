"""Two processes of two devices train as one process of four, stop together, and go on after one was killed."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import distributed
from tests.conftest import FAST_COMPILATION, REPOSITORY
from tokenrec_jax.types import ConfigError

#: Float32 sums between processes come in another order than those between threads of one; over the few steps here
#: losses differ by less than this share, and so do the metrics unless two items of a user change places.
TOLERANCE = 1e-3


def environment(devices: int) -> dict[str, str]:
    forced = f"--xla_force_host_platform_device_count={devices} {FAST_COMPILATION}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": forced}


HELPERS = """
import os, signal, sys, time
import jax, numpy as np
port, rank, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
from tokenrec_jax.config import MeshConfig
from tokenrec_jax.processes import is_main, main_first
from tokenrec_jax.sharding import DATA, FSDP, fetch, make_mesh, put, put_batch, replicated
from tokenrec_jax.training.stopping import StopSignals
from tokenrec_jax.types import RowBatch

mesh = make_mesh(MeshConfig(fsdp=2))
assert mesh.size == 4 and is_main() == (rank == 0)
rng = np.random.default_rng(0)
batch = RowBatch(user=rng.integers(9, size=8), item=rng.integers(9, size=(8, 3)))
with jax.transfer_guard("disallow"):
    placed, everywhere = put_batch(batch, mesh), put({"a": np.float32(3), "b": np.arange(5)}, replicated(mesh))
own = {slice_of.index[0].start for slice_of in placed.user.addressable_shards}
assert own == ({0, 2} if rank == 0 else {4, 6}), own
found = fetch((placed, everywhere))
assert np.array_equal(found[0].user, batch.user) and np.array_equal(found[0].item, batch.item)
assert found[1]["a"] == 3 and np.array_equal(found[1]["b"], np.arange(5))
with main_first("file"):
    if rank == 0:
        time.sleep(0.3)
        open(folder + "/file", "w").close()
    assert os.path.exists(folder + "/file")
with StopSignals(mesh) as stop:
    for step in range(1, 40):
        if rank == 1 and step == 11:
            os.kill(os.getpid(), signal.SIGTERM)
        if stop.due(step, last=False):
            break
print("stopped after", step)
with StopSignals(mesh) as stop:
    if rank == 0:
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.due(3, last=True)
"""


def test_helpers_in_two_processes(tmp_path):
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HELPERS, str(port), str(rank), str(tmp_path)],
            cwd=REPOSITORY,
            env=environment(2),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-3000:]
        # The signal came before step 11, the next vote is that of step 16, and its outcome is read at step 17.
        assert out.splitlines()[-1] == "stopped after 17" or "stopped after 17" in out


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


TOGETHER = """
import jax
from experiments import cli
from tokenrec_jax.config import MeshConfig
from tokenrec_jax.sharding import any_process, make_mesh

def main():
    mesh = make_mesh(MeshConfig())
    while True:
        jax.device_get(any_process(False, mesh))
        print("together", flush=True)

cli.run(main)
"""


@pytest.mark.slow
def test_a_process_says_that_it_lost_another(tmp_path):
    program, port = tmp_path / "together.py", free_port()
    program.write_text(TOGETHER)
    survivor, victim = (
        subprocess.Popen(
            [sys.executable, program, f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={rank}"],
            cwd=REPOSITORY,
            env=environment(2) | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    )
    with victim, survivor:
        assert survivor.stdout
        while survivor.stdout.readline() not in ("together\n", ""):
            pass
        victim.kill()
        _, errors = survivor.communicate(timeout=60)
    # Whoever notices first says it: the collective, which ends in our line, or the heartbeats, in JAX's own words.
    assert survivor.returncode != 0
    assert "error: process 0 of 2 lost another process" in errors or "another task died" in errors


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "host:1"}, "go together"),
        ({"coordinator": "host:1", "num_processes": 2, "process_id": 0, "distributed": "auto"}, "without"),
        ({"coordinator": "host", "num_processes": 2, "process_id": 0}, "allowed is HOST:PORT"),
        ({"coordinator": "host:1", "num_processes": 2, "process_id": 2}, "allowed is 0 to --num_processes - 1 = 1"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(given, message):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    with flagsaver.flagsaver(**given), pytest.raises(ConfigError, match=message) as caught:
        distributed.join()
    assert "\n" not in str(caught.value)


def training(folder: pathlib.Path, name: str) -> list[str]:
    return [
        "--config=experiments/configs/tiny.py", f"--workdir={folder}/{name}", f"--config.data.cache_dir={folder}/cache",
        "--config.stages=collaborative,joint", "--config.train.steps=8", "--config.train.batch_size=32",
        "--config.train.log_every=2", "--config.train.checkpoint_every=4", "--config.data.history_buckets=(12,)",
        "--config.data.synthetic_items=200", "--config.evaluation.baselines=false",
    ]  # fmt: skip


@pytest.mark.slow
def test_two_processes_killed_and_resumed_equal_one(tmp_path):
    command = ["bash", "launch/multiprocess.sh", "2", "2", "--", *training(tmp_path, "two")]
    output = tmp_path / "killed.log"
    with output.open("w") as file:
        launcher = subprocess.Popen(command, cwd=REPOSITORY, env=environment(2), stdout=file, stderr=file)
        states = tmp_path / "two" / "checkpoints" / "state"
        while launcher.poll() is None and not (states / "4").exists():
            time.sleep(0.05)
        (victim,) = children(launcher.pid, "--process_id=1")
        os.kill(victim, signal.SIGKILL)
        assert launcher.wait(timeout=60) == 1
    lines = output.read_text().splitlines()
    assert "launch: process 1 of 2 ended with signal 9; ending the others; the same command goes on" in lines
    assert children(launcher.pid, "--process_id=0") == [] and not (tmp_path / "two" / "result.json").exists()

    resumed = subprocess.run(
        command, cwd=REPOSITORY, env=environment(2), capture_output=True, text=True, timeout=300, check=False
    )
    assert resumed.returncode == 0, resumed.stdout[-3000:]
    assert "[0] [" in resumed.stdout and "resuming at stage collaborative, step 4" in resumed.stdout
    assert resumed.stdout.count("test split, full ranking") == 1

    alone = subprocess.run(
        [sys.executable, "-m", "experiments.train", *training(tmp_path, "one")],
        cwd=REPOSITORY,
        env=environment(4),
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.returncode == 0, alone.stderr[-3000:]
    one, two = (events(tmp_path / name) for name in ("one", "two"))
    assert [event[:3] for event in one] == [event[:3] for event in two]
    for (step, stage, kind, expected), (_, _, _, found) in zip(one, two, strict=True):
        assert expected.keys() == found.keys()
        # 200 users and 200 items: one of them that changes places is a difference of 0.005.
        absolute = 0.006 if kind == "valid" else 1e-4
        for name, value in expected.items():
            np.testing.assert_allclose(
                found[name], value, rtol=TOLERANCE, atol=absolute, err_msg=f"{step} {stage} {name}"
            )


def events(workdir: pathlib.Path) -> list[tuple[int, str, str, dict[str, float]]]:
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    lines.append((workdir / "result.json").read_text(encoding="utf-8"))
    found = []
    for line in lines[:-1]:
        event = json.loads(line)
        found.append((event.pop("step"), event.pop("stage"), event.pop("kind"), event))
    result = json.loads(lines[-1])
    return [*found, *((0, "result", "valid", result[split]) for split in ("valid", "test"))]


def children(parent: int, flag: str) -> list[int]:
    """Returns the children of a process whose command line holds a flag."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().split("\0")
            status = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(status[1]) == parent and flag in words:
            found.append(int(folder.name))
    return found
