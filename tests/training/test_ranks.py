"""The ranks of a finished run are there before its result, and the result is made of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import tiny
from experiments.evaluation import ranked_splits, say_protocol
from experiments.printing import print_result
from experiments.training import SYSTEM, run
from experiments.untrained import baselines
from tests.killing import Killed
from tokenrec_jax.baselines.dot_product import dot_product
from tokenrec_jax.baselines.popularity import popularity
from tokenrec_jax.data.synthetic import synthetic_interactions
from tokenrec_jax.evaluation.statistics import per_user
from tokenrec_jax.training import workdir as workdir_module
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError, Split


def config(tmp_path):
    made = tiny.get_config()
    made.data.cache_dir = str(tmp_path / "cache")
    made.stages = ("collaborative",)
    made.train.steps = 20
    return made


def test_a_run_killed_between_ranks_and_result_is_not_finished_and_goes_on(tmp_path, monkeypatch):
    made = config(tmp_path)
    workdir = Workdir.start(str(tmp_path / "run"), made)
    write = workdir_module.write_whole

    def dying(path, content):
        if path.name == "result.json":
            raise Killed
        write(path, content)

    monkeypatch.setattr(workdir_module, "write_whole", dying)
    with pytest.raises(Killed):
        run(made, workdir)
    assert not workdir.finished
    first = workdir.ranks()
    monkeypatch.setattr(workdir_module, "write_whole", write)
    run(made, workdir)
    assert workdir.finished
    again = workdir.ranks()
    assert again.keys() == first.keys()
    for name, array in again.items():
        np.testing.assert_array_equal(array, first[name], err_msg=name)

    result = workdir.result()
    assert result["protocol"] == "honest"
    # No stage that recommends by query: only baselines are ranked, LightGCN by the vectors of this very stage.
    assert f"{SYSTEM}/test" not in again
    assert result["baselines"]["lightgcn"]["valid"]["hr@10"] > result["baselines"]["popularity"]["valid"]["hr@10"]
    assert set(result["baselines"]["item_knn"]) == {"valid", "test", "shrinkage", "neighbours", "recency"}
    for split in Split:
        users = again[f"users/{split}"]
        assert users.dtype == np.int32 and (np.diff(users) > 0).all()
        for name, found in result["baselines"].items():
            ranks = again[f"{name}/{split}"]
            assert len(ranks) == len(users) == found[split]["users"]
            for metric in ("hr@10", "ndcg@10"):
                assert per_user(ranks, metric).mean() == found[split][metric]


@pytest.mark.parametrize("content", [None, b"not safetensors"])
def test_ranks_that_are_not_there_or_broken(tmp_path, content):
    if content:
        (tmp_path / "ranks.safetensors").write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"ranks\.safetensors: .*; remove result\.json and run the training command again"
    ):
        Workdir(tmp_path).ranks()


def test_a_flawed_protocol_is_loud(tmp_path, caplog, capsys):
    made = config(tmp_path)
    made.evaluation.protocol = "reference"
    say_protocol(made)
    assert any("WARNING: protocol reference" in record.message for record in caplog.records)
    result = {"dataset": "d", "seed": 0, "protocol": "reference", "baselines": {}, "seconds": {}}
    Workdir(tmp_path).save_result(result)
    print_result(Workdir(tmp_path))
    assert "WARNING: protocol reference" in capsys.readouterr().out


def test_baselines_that_no_run_trains_can_be_left_out():
    data = synthetic_interactions(name="synthetic", num_users=30, num_items=90, seed=0)
    made = tiny.get_config()
    lightgcn = dict.fromkeys(Split, dot_product(jnp.ones((128, 4)), jnp.ones((128, 4))))
    assert set(baselines(lightgcn, data, config=made)) == {"lightgcn", "popularity", "item_knn", "ease"}
    made.evaluation.baselines = False
    assert set(baselines(lightgcn, data, config=made)) == {"lightgcn"}


def test_under_the_reference_protocol_both_splits_are_ranked_as_test():
    data = synthetic_interactions(name="synthetic", num_users=30, num_items=90, seed=0)
    made = tiny.get_config()
    score = popularity(data.without_last(2))
    honest, flawed = {}, {}
    for found, protocol in ((honest, "honest"), (flawed, "reference")):
        made.evaluation.protocol = protocol
        found.update(ranked_splits(dict.fromkeys(Split, score), data, config=made))
    np.testing.assert_array_equal(flawed[Split.VALID].ranks, flawed[Split.TEST].ranks)
    np.testing.assert_array_equal(flawed[Split.TEST].ranks, honest[Split.TEST].ranks)
    assert not np.array_equal(honest[Split.VALID].ranks, honest[Split.TEST].ranks)
