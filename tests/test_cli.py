"""What all commands do when they are stopped or when the system refuses them: one line and a status that says which."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
from typing import IO

import pytest

from experiments import cli
from tests.commands import commands
from tests.conftest import REPOSITORY
from tokenrec_jax.types import ConfigError, StoppedError, StorageError


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("--k=0: allowed is 1"), 1, "--k=0: allowed is 1"),
        (StorageError("/run: full"), 74, "/run: full"),
        (OSError(errno.ENOSPC, "No space left on device"), 74, "No space left on device; run the same command again"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 74, "/x: Permission denied; run the same"),
        (StoppedError("saved", signal.SIGINT), 130, "saved"),
        (StoppedError("saved"), 143, "saved"),
        (KeyboardInterrupt(), 130, "stopped; run the same command again"),
        (KeyboardInterrupt(signal.SIGTERM), 143, "stopped; run the same command again"),
    ],
)
def test_a_failure_is_one_line_with_its_status(capsys, error, status, line):
    assert cli.guarded(raising(error)) == status
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {line}") and printed.count("\n") == 1


@pytest.mark.parametrize("error", [ZeroDivisionError(), FileNotFoundError(errno.ENOENT, "No such file", "ours")])
def test_our_own_mistakes_keep_their_traceback(error):
    with pytest.raises(type(error)):
        cli.guarded(raising(error))


STARTED = """
import time
from experiments import cli

def main():
    try:
        print("begun", flush=True)
        {body}
    finally:
        print("tidied", flush=True)

cli.run(main)
"""


def with_ctrl_c() -> None:
    """What is started in the background of a script ignores Ctrl-C, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(body: str, *arguments: str, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", STARTED.format(body=body), *arguments],
        cwd=REPOSITORY,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=with_ctrl_c,
    )


def test_sigterm_ends_a_command_in_order():
    process = started("time.sleep(600)")
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    rest, said = process.communicate()
    assert rest == "tidied\n"
    assert said == "error: stopped; run the same command again\n"
    assert process.returncode == 128 + signal.SIGTERM


def test_ctrl_c_ends_the_loop_of_a_shell_too():
    process = started("time.sleep(600)")
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("tidied\n", "error: stopped; run the same command again\n")
    assert process.returncode == -signal.SIGINT


def test_ctrl_c_among_the_imports_says_nothing(tmp_path):
    (tmp_path / "jax.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(600)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.train"],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=with_ctrl_c,
    )
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "") and process.returncode == -signal.SIGINT


def test_a_reader_that_has_seen_enough_is_no_error():
    process = started("print('\\n' * 1_000_000)")
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.stdout.close()
    assert process.stderr is not None and process.stderr.read() == ""
    assert process.wait() == 1


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="a device of Linux")
def test_an_output_that_is_full_is_one_line():
    with pathlib.Path("/dev/full").open("w") as full:
        process = started("print('lost')", stdout=full)
        _, said = process.communicate()
    assert said == "error: No space left on device; run the same command again when that is mended\n"
    assert process.returncode == 74


@pytest.mark.parametrize("word", ["False", "config.seed=1", "-"])
def test_words_that_are_no_flags_are_refused(word):
    process = started("pass", word)
    _, said = process.communicate()
    assert said == (
        f"error: command line: {word!r} is no flag; flags are given as --name=value, switches as --name or --noname\n"
    )
    assert process.returncode == 1


def test_lists_are_split_for_every_config_and_refused_before_anything_is_written(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,brand\nu,a,x\n")
    table = ["--config.data.source=interactions", f"--config.data.path={tmp_path}/log.csv"]
    sasrec, tiger = (
        [f"--baseline={name}", f"--config=experiments/configs/baselines_{name}.py:"] for name in ("sasrec", "tiger")
    )
    given = [
        ("baseline", [*sasrec, *table, "--config.data.feature_columns=brand, colour,"], "no column 'colour'"),
        ("baseline", [*tiger, "--config.evaluation.cutoffs=(10,20.0)"], "cutoffs is (10, 20.0); allowed are"),
        ("train", ["--config=experiments/configs/tiny.py", "--config.stages=1"], "stages is '1'; allowed: "),
    ]
    folders = [f"--workdir={tmp_path}/run", f"--config.data.cache_dir={tmp_path}/cache"]
    done = commands([(module, [*words, *folders]) for module, words, _ in given])
    for one, (_, _, line) in zip(done, given, strict=True):
        assert one.returncode == 1 and line in one.stderr.splitlines()[-1]
        assert "Traceback" not in one.stderr
    assert not (tmp_path / "run").exists()
