"""A refit has the settings of its run, the steps that its run chose, and more to learn from."""

import html
import json

import numpy as np
import pytest

from experiments.configs import tiny
from experiments.evaluation import held_out_splits
from experiments.printing import print_result
from experiments.refit import refit_config
from experiments.reporting.run_page import run_page
from experiments.training import run
from tokenrec_jax.config import Config, to_json
from tokenrec_jax.data.graph import build_graph, inverse_sqrt_degree
from tokenrec_jax.evaluation.comparability import HELD_OUT_NOTICES
from tokenrec_jax.training.finished import FinishedRun
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError, Split, Stage

CHOSEN = {"collaborative": 20, "tokenizer": 60, "llm": 40}


def finished(folder, config: Config, **result) -> Workdir:
    (folder / "config.json").write_text(to_json(config))
    (folder / "result.json").write_text(json.dumps(result))
    return Workdir.open_finished(str(folder))


def test_stages_stop_where_validation_chose_and_all_else_is_the_run(tmp_path):
    config = tiny.get_config()
    refit = refit_config(finished(tmp_path, config, steps=CHOSEN), held_out=1)
    assert {name: getattr(refit.train, name).stop_at for name in CHOSEN} == CHOSEN
    assert (refit.evaluation.held_out, refit.evaluation.baselines) == (1, False)
    for name in CHOSEN:
        getattr(refit.train, name).stop_at = 0
    refit.evaluation.held_out, refit.evaluation.baselines = 2, config.evaluation.baselines
    assert refit == config


@pytest.mark.parametrize(
    ("field", "value", "steps", "message"),
    [
        ("held_out", 1, CHOSEN, "trained on its validation items itself"),
        ("protocol", "reference", CHOSEN, "chose its steps by the test items"),
        ("held_out", 2, {"collaborative": 20}, "after how many steps tokenizer, llm was best"),
    ],
)
def test_runs_that_cannot_be_refitted_are_refused(tmp_path, field, value, steps, message):
    config = tiny.get_config()
    config.evaluation.baselines = False
    setattr(config.evaluation, field, value)
    with pytest.raises(ConfigError, match=message):
        refit_config(finished(tmp_path, config, steps=steps), held_out=1)


def test_a_split_is_ranked_only_if_it_was_held_out():
    config = tiny.get_config()
    splits = {}
    for config.evaluation.held_out in (2, 1, 0):
        splits[config.evaluation.held_out] = held_out_splits(config)
    assert splits == {2: (Split.VALID, Split.TEST), 1: (Split.TEST,), 0: ()}


@pytest.mark.parametrize("held_out", [2, 1, 0])
def test_a_stage_ends_early_and_learns_from_all_but_what_is_held_out(tmp_path, capsys, held_out):
    config = tiny.get_config()
    config.data.cache_dir = str(tmp_path / "cache")
    config.stages = ("collaborative",)
    config.train.collaborative.stop_at = 7
    config.evaluation.held_out, config.evaluation.baselines = held_out, False
    workdir = Workdir.start(str(tmp_path / "run"), config)
    run(config, workdir)
    result = workdir.result()
    assert result["steps"] == {"collaborative": 7}
    assert set(result["baselines"].get("lightgcn", {})) == {str(split) for split in held_out_splits(config)}
    reopened = FinishedRun.open(str(workdir.path), trained=Stage.COLLABORATIVE)
    whole = reopened.interactions
    np.testing.assert_array_equal(
        reopened.buffers["tables"]["inverse_sqrt_degree"], inverse_sqrt_degree(whole.without_last(held_out))
    )
    assert reopened.built.graph.n_edge[0] == build_graph(whole.without_last(held_out)).n_edge[0]
    capsys.readouterr()
    print_result(workdir)
    page = html.unescape(run_page(workdir.path))
    printed = capsys.readouterr().out
    for output in (printed, page):
        said = [number for number in (1, 0) if HELD_OUT_NOTICES[number] in output]
        assert said == ([held_out] if held_out < 2 else [])
    assert ("lightgcn" in printed) == (held_out > 0)
