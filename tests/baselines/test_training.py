"""Runs of trained baselines: they learn what can be learned, resume, and leave the files that others read."""

import json

import numpy as np
import pytest

from experiments.baseline_config import BaselineConfig, for_config
from experiments.baseline_models import make_baseline
from experiments.baseline_training import run
from experiments.configs import baselines_sasrec, baselines_tiger, lastfm, tiny
from tests.killing import Killed, kill_after, let_live
from tokenrec_jax.baselines.semantic_ids import spectral_vectors
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.data.synthetic import synthetic_interactions
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError

from .conftest import make_interactions

SYSTEMS = ("sasrec", pytest.param("tiger", marks=pytest.mark.slow))


def small(system: str, *, steps: int) -> BaselineConfig:
    module = {"sasrec": baselines_sasrec, "tiger": baselines_tiger}[system]
    config = module.get_config("tiny")
    # One length of histories: one compilation.
    config.data.max_history, config.data.history_buckets = 8, ()
    config.evaluation.batch_size = 32
    config.training.optimization.steps = steps
    config.training.log_every = 1
    config.model.dropout = 0.1
    return config


def train(config: BaselineConfig, interactions: Interactions, folder) -> Workdir:
    workdir = Workdir.start(str(folder), config)
    baseline = make_baseline(config, interactions)
    workdir.begin(config, interactions)
    run(baseline, interactions, config=config, workdir=workdir)
    return workdir


def circle() -> Interactions:
    """Everybody goes on along one circle of 30 items, from different places: the next item is certain."""
    return make_interactions([(start + np.arange(9)) % 30 for start in range(30)], num_items=30)


@pytest.mark.parametrize("system", SYSTEMS)
def test_learns_a_circle_by_heart(system, tmp_path):
    config = small(system, steps=300)
    config.model.dropout = 0.0
    config.training.optimization.eval_every = 0
    result = train(config, circle(), tmp_path / "run").result()
    assert result["valid"]["hr@10"] == 1.0
    assert result["test"]["mrr@5"] > 0.8


@pytest.fixture(scope="module")
def data() -> Interactions:
    return synthetic_interactions(name="synthetic", num_users=60, num_items=40, seed=0)


def lines(workdir: Workdir) -> list[dict]:
    text = (workdir.path / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("system", SYSTEMS)
def test_killed_and_resumed_equals_uninterrupted_and_leaves_result_and_ranks(system, tmp_path, monkeypatch, data):
    config = small(system, steps=14)
    config.training.checkpoint_every = 4
    config.training.optimization.eval_every = 7
    whole = train(config, data, tmp_path / "whole")
    kill_after(10, monkeypatch)
    with pytest.raises(Killed):
        train(config, data, tmp_path / "broken")
    let_live(monkeypatch)
    broken = train(config, data, tmp_path / "broken")
    assert lines(broken) == lines(whole)
    first, second = (workdir.result() for workdir in (whole, broken))
    assert set(first.pop("seconds")) == {"training"}
    second.pop("seconds")
    assert first == second

    assert first["system"] == system
    assert (first["dataset"], first["seed"]) == ("synthetic", 0)
    ranks = broken.ranks()
    assert set(ranks) == {f"{name}/{split}" for name in (system, "users") for split in ("valid", "test")}
    for split in ("valid", "test"):
        assert ranks[f"{system}/{split}"].dtype == np.int32
        np.testing.assert_array_equal(ranks[f"users/{split}"], np.arange(60))
        assert np.mean(ranks[f"{system}/{split}"] <= 10) == pytest.approx(first[split]["hr@10"])


def test_another_config_in_the_same_directory_is_refused(tmp_path, data):
    config = small("sasrec", steps=1)
    Workdir.start(str(tmp_path), config).begin(config, data)
    config.model.dim = 32
    with pytest.raises(ConfigError, match=r"another config \(model.dim: 16 there, 32 here\)"):
        Workdir.start(str(tmp_path), config)


def test_a_config_names_a_data_set_and_the_baseline_brings_its_settings():
    given = lastfm.get_config("compact")
    given.seed = 7
    for system, module in (("sasrec", baselines_sasrec), ("tiger", baselines_tiger)):
        made, own = for_config(system, given), module.get_config("lastfm")
        own.seed = 7
        assert made == own
        given.data.name = "Other"
        other = for_config(system, given)
        assert (other.data.name, other.model) == ("Other", module.get_config("").model)
        given.data.name = "LastFM"
        # The paper's recipe has batches of one length, which cost a baseline its accuracy.
        assert for_config(system, lastfm.get_config("paper-compact")).data.bucket_batches is False


def test_a_generator_has_no_figures_beyond_its_beam():
    config = for_config("tiger", tiny.get_config())
    config.evaluation.cutoffs = (5, 10, 20)
    assert config.loop_config().evaluation.cutoffs == (5, 10)
    assert config.evaluation.cutoffs == (5, 10, 20)
    config.model.beam = 9
    with pytest.raises(ConfigError, match=r"model\.beam is 9; allowed is 10 or more"):
        config.loop_config()


def test_every_data_set_of_ours_has_valid_settings():
    for module in (baselines_sasrec, baselines_tiger):
        for name in ("lastfm", "beauty", "ml1m", "clothing", "quickstart", "tiny"):
            config = module.get_config(name)
            config.loop_config()
        with pytest.raises(ConfigError, match="data set 'netflix': allowed: lastfm, beauty"):
            module.get_config("netflix")


def test_vectors_of_symmetric_data_are_the_same_each_time():
    first, second = (spectral_vectors(circle().without_last(2), dim=16) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_codes_of_a_run_that_is_not_there(tmp_path, data):
    config = small("tiger", steps=1)
    config.codes = str(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"--codes=.*holds no run"):
        make_baseline(config, data)


def test_a_baseline_learns_from_its_validation_items_for_steps_that_were_chosen(tmp_path, data):
    config = small("sasrec", steps=5)
    config.evaluation.held_out, config.evaluation.baselines = 1, False
    with pytest.raises(ConfigError, match="stop_at 0; with it, allowed is the step that another run chose"):
        config.loop_config()
    config.training.optimization.stop_at = 3
    result = train(config, data, tmp_path).result()
    assert result["best_step"] == 3 and result["held_out"] == 1
    assert "test" in result and "valid" not in result


def test_bad_values_of_the_loop_are_named():
    config = for_config("tiger", tiny.get_config())
    config.training.optimization.learning_rate = 0.0
    with pytest.raises(ConfigError, match="learning_rate is 0"):
        config.loop_config()
    config = for_config("tiger", tiny.get_config())
    config.evaluation.cutoffs = (10, "20")  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ConfigError, match=r"cutoffs is .*; allowed are whole numbers"):
        config.loop_config()
