"""A run that was killed, or stopped by a signal, ends as one that was not."""

import json
import os
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import pytest

from experiments import training
from experiments.configs import tiny
from experiments.train import run
from tests.conftest import REPOSITORY
from tests.killing import Killed, kill_after, let_live
from tokenrec_jax.data.synthetic import synthetic_interactions
from tokenrec_jax.data.vocabulary import word_tokenizer
from tokenrec_jax.models import llm
from tokenrec_jax.training import step
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError, TokenRecError


def config(tmp_path):
    made = tiny.get_config()
    made.data.cache_dir = str(tmp_path / "cache")
    made.stages = ("collaborative", "tokenizer", "llm", "joint")
    made.train.log_every = 10
    return made


def metrics_of(workdir: Workdir) -> tuple[dict, list]:
    result = workdir.result()
    del result["seconds"]
    lines = (workdir.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return result, [json.loads(line) for line in lines]


@pytest.mark.slow
def test_killed_in_every_stage_and_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    made = config(tmp_path)
    whole = Workdir.start(str(tmp_path / "whole"), made)
    run(made, whole)
    broken = Workdir.start(str(tmp_path / "broken"), made)
    # Steps over all stages, counted in batches: away from checkpoints, in each of the four stages.
    for limit in (33, 50, 55, 45):
        kill_after(limit, monkeypatch)
        with pytest.raises(Killed):
            run(made, broken)
        assert not broken.finished
    let_live(monkeypatch)
    run(made, broken)
    assert metrics_of(broken) == metrics_of(whole)


def test_who_is_killed_while_ranking_does_not_train_again(tmp_path, monkeypatch):
    made = config(tmp_path)
    made.stages, made.train.checkpoint_every, made.evaluation.baselines = ("collaborative", "tokenizer"), 1000, False
    workdir = Workdir.start(str(tmp_path / "run"), made)
    ranking = training.baselines
    monkeypatch.setattr(training, "baselines", None)
    with pytest.raises(TypeError):
        run(made, workdir)
    monkeypatch.setattr(training, "baselines", ranking)
    kill_after(0, monkeypatch)
    run(made, workdir)
    assert workdir.result()["steps"].keys() == {"collaborative", "tokenizer"}


def test_a_loss_that_is_not_finite_names_step_and_checkpoint(tmp_path, monkeypatch):
    made = config(tmp_path)
    made.stages = ("collaborative",)
    made.train.collaborative.learning_rate = 1e38
    workdir = Workdir.start(str(tmp_path / "run"), made)
    with pytest.raises(TokenRecError, match=r"stage collaborative, step \d+: the loss is nan; last checkpoint: "):
        run(made, workdir)
    assert not workdir.finished


def test_a_gradient_that_is_not_finite_is_said_before_a_checkpoint_holds_it(tmp_path, monkeypatch):
    made = config(tmp_path)
    made.stages, made.train.checkpoint_every = ("collaborative",), 1
    workdir = Workdir.start(str(tmp_path / "run"), made)
    monkeypatch.setattr(step.optax, "global_norm", lambda gradients: jnp.float32(jnp.nan))
    with pytest.raises(TokenRecError, match=r"step 1: the norm of the gradient is nan; last checkpoint: None; train"):
        run(made, workdir)
    assert not workdir.has_state


def test_another_config_in_the_same_directory_is_refused(tmp_path):
    made = config(tmp_path)
    begun = Workdir.start(str(tmp_path / "run"), made)
    begun.begin(
        made,
        synthetic_interactions(name="synthetic", num_users=20, num_items=30, seed=0),
        language_model=llm.preset("tiny", vocab_size=8),
        tokenizer=word_tokenizer(["a b"]),
    )
    made.train.llm.learning_rate = 0.5
    with pytest.raises(ConfigError, match=r"train.llm.learning_rate: 0.003 there, 0.5 here"):
        Workdir.start(str(tmp_path / "run"), made)


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(tmp_path):
    command = [
        sys.executable, "-m", "experiments.train", "--config=experiments/configs/tiny.py",
        f"--workdir={tmp_path}/run", f"--config.data.cache_dir={tmp_path}/cache", "--config.stages=collaborative",
        "--config.train.steps=1500", "--config.train.collaborative.eval_every=0",
        "--config.train.checkpoint_every=1000000", "--config.train.log_every=20", "--config.evaluation.baselines=false",
    ]  # fmt: skip
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    last = errors.splitlines()[-1]
    assert last.startswith("error: stopped at stage collaborative, step ")
    assert "run the same command again to go on" in last
    stopped_at = int(last.split("step ")[1].split(" ")[0])
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"resuming at stage collaborative, step {stopped_at}" in done.stderr
