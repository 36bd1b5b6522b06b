"""The launch scripts say the commands that they would run, and refuse what they do not understand."""

import os
import shlex
import shutil
import subprocess

import pytest

from tests.conftest import REPOSITORY

TRAINING = ["--config=experiments/configs/ml1m.py:t5-small", "--workdir=/nfs/my run"]


def launch(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", f"launch/{script}", *arguments],
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def remote(command: list[str], option: str) -> list[str]:
    """Returns the words of the command that stands in an option of another."""
    (value,) = (word.removeprefix(option) for word in command if word.startswith(option))
    return shlex.split(value)


@pytest.mark.parametrize(("script", "worker", "together"), [("tpu_vm.sh", "0", []), ("tpu_pod.sh", "all", ["auto"])])
def test_tpu_scripts_copy_install_and_train(script, worker, together):
    done = launch(script, "--dry-run", "name", "zone", "--", *TRAINING, TMPDIR="/tmp")
    assert done.returncode == 0, done.stderr
    pack, copy, run = (shlex.split(line) for line in done.stdout.splitlines())
    assert pack == ["git", "archive", "--output=/tmp/tokenrec_jax.tar.gz", "HEAD"]
    place = ["--zone=zone", f"--worker={worker}"]
    assert copy == ["gcloud", "compute", "tpus", "tpu-vm", "scp", "/tmp/tokenrec_jax.tar.gz", "name:", *place]
    assert run[:8] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "name", *place]
    words = remote(run, "--command=")
    flags = [f"--distributed={value}" for value in together]
    assert words[words.index("python") :] == ["python", "-m", "experiments.train", *flags, *TRAINING]
    assert words[words.index(".") + 1 :][:2] == ["tokenrec_jax/launch/setup.sh", "demo,tpu"]


def test_what_decides_here_decides_on_a_tpu_too():
    given = {"PYTHON": "python3.12", "TOKENREC_CACHE": "/nfs/a cache"}
    done = launch("tpu_vm.sh", "--dry-run", "name", "zone", "--", *TRAINING, TMPDIR="/tmp", **given)
    words = remote(shlex.split(done.stdout.splitlines()[-1]), "--command=")
    assert words[:3] == ["export", "PYTHON=python3.12", "TOKENREC_CACHE=/nfs/a cache"]
    assert words[words.index("&&") + 1 :][:2] == ["mkdir", "-p"]


@pytest.mark.parametrize(
    ("python", "line"),
    [
        ("python3.99", "error: python3.99: no such Python; set PYTHON to one of 3.11 to 3.14"),
        ("./old", "error: ./old is Python 3.9; 3.11 to 3.14 are needed: set PYTHON"),
    ],
)
def test_no_environment_is_made_of_another_python(tmp_path, python, line):
    (tmp_path / "launch").mkdir()
    shutil.copy(REPOSITORY / "launch" / "setup.sh", tmp_path / "launch")
    (tmp_path / "old").write_text("#!/bin/sh\necho 3.9\n")
    (tmp_path / "old").chmod(0o755)
    # An environment that was moved here: what it activates lies elsewhere.
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "pyvenv.cfg").touch()
    (tmp_path / ".venv" / "bin" / "activate").write_text("PATH=/nowhere:$PATH\n")
    done = subprocess.run(
        ["bash", "launch/setup.sh", "demo"],
        cwd=tmp_path,
        env=os.environ | {"PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, line + "\n")


def test_slurm_gets_a_process_a_gpu():
    done = launch("gpu_slurm.sh", "--dry-run", "2", "8", "--", *TRAINING, SBATCH_ARGUMENTS="--partition=big --time=60")
    assert done.returncode == 0, done.stderr
    setup, submit = (shlex.split(line) for line in done.stdout.splitlines())
    assert setup == [".", "launch/setup.sh", "demo,cuda"]
    assert submit[0] == "sbatch"
    assert {"--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--partition=big", "--time=60"} < set(submit)
    words = remote(submit, "--wrap=")
    assert words[words.index("srun") + 1] == "--kill-on-bad-exit=1" and "--cpus-per-task=8" in {*words} & {*submit}
    assert words[words.index("python") :] == ["python", "-m", "experiments.train", "--distributed=auto", *TRAINING]


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("tpu_vm.sh", ["--dry-run", "name", "--", "--workdir=x"]),
        ("tpu_pod.sh", []),
        ("gpu_slurm.sh", ["2", "--", "--workdir=x"]),
        ("multiprocess.sh", ["--", "--workdir=x"]),
        ("multiprocess.sh", ["2", "0", "--", "--workdir=x"]),
        ("multiprocess.sh", ["2", "--workdir=x"]),
    ],
)
def test_wrong_arguments_are_one_line(script, arguments):
    done = launch(script, *arguments)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("error: ") and "usage: bash launch/" in done.stderr
    assert len(done.stderr.splitlines()) == 1
