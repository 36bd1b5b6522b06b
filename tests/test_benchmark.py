"""The suites of the benchmark run and report what they promise; their figures are no test's business."""

import numpy as np

from experiments.configs import tiny
from experiments.suites import dispatch, objectives, retrieval, softmax
from experiments.suites.machine import machine
from tokenrec_jax.retrieval.index import ItemIndex


def small():
    config = tiny.get_config()
    config.data.synthetic_users, config.data.synthetic_items = 60, 40
    config.train.llm.batch_size = 8
    return config


def test_objectives(tmp_path, monkeypatch):
    monkeypatch.setattr(objectives, "STEPS", 2)
    config = small()
    config.data.cache_dir = str(tmp_path)
    found = objectives.measure(config)
    rows = found["objectives"]
    # The prompt objective has one target an example; the dense one as many as there are positions.
    assert rows["prompt"]["targets_per_step"] == 8
    assert 8 < rows["dense"]["targets_per_step"] <= 8 * config.data.max_history
    assert found["ratio"] == rows["dense"]["targets_per_second"] / rows["prompt"]["targets_per_second"]
    assert machine()["devices"] >= 1


def test_dispatch(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "CALLS", 3)
    config = small()
    config.data.cache_dir = str(tmp_path)
    found = dispatch.measure(config)
    assert found["arrays_in_state"] > 50
    assert found["host_seconds_per_call"] > 0


def test_softmax_agrees_with_the_whole_matrix(tmp_path, monkeypatch):
    monkeypatch.setattr(softmax, "BATCHES", 2)
    config = small()
    config.data.cache_dir = str(tmp_path)
    config.llm.objective = "dense"
    found = softmax.measure(config)
    assert found["positions"] == 8 * config.data.max_history
    assert 0 < found["share_with_target"] < 1
    assert found["largest_difference"] < 1e-5
    assert found["ratio"] == found["seconds"]["optax"] / found["seconds"]["ours"]


def test_retrieval_compares_ids_and_seconds(monkeypatch):
    monkeypatch.setattr(retrieval, "BUDGET", 0.0)
    monkeypatch.setattr(retrieval, "TURN", 0.0)
    vectors, queries = retrieval.random_vectors(200, seed=0), retrieval.random_vectors(3, seed=1)
    index = ItemIndex.build(vectors, metric="dot")

    def exact(queries):
        return np.argsort(-queries @ vectors.T, axis=1)[:, : retrieval.K]

    found = retrieval.compare(index, queries, other=exact)
    assert found["identical"] is True
    assert found["ratio"] == found["faiss_seconds"] / found["ours_seconds"] > 0
    assert not retrieval.compare(index, queries, other=lambda queries: exact(queries)[:, ::-1])["identical"]


def test_memory_of_a_search_holds_its_items():
    found = retrieval.peak_memory(1000, 4)
    assert found["peak_bytes"] > found["item_bytes"] >= 1000 * retrieval.DIMENSION * 4
