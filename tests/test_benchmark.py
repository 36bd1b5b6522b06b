"""The suites of the benchmark run and report what they promise; their figures are no test's business."""

from experiments.configs import tiny
from experiments.suites import dispatch, objectives
from experiments.suites.machine import machine


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
