"""A trace of chosen steps, in which stages and parts of the model appear by name."""

import gzip
import json

import pytest

from experiments.configs import tiny
from experiments.train import run
from tokenrec_jax.config_checks import validate
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError


def test_steps_are_traced_by_name(tmp_path):
    config = tiny.get_config()
    config.data.cache_dir = str(tmp_path / "cache")
    config.stages = ("collaborative",)
    config.train.steps, config.train.profile = 6, "2:4"
    run(config, Workdir.start(str(tmp_path / "run"), config))
    traces = list((tmp_path / "run" / "profile" / "collaborative").rglob("*.trace.json.gz"))
    assert len(traces) == 1
    assert list(traces[0].parent.glob("*.xplane.pb"))
    events = json.loads(gzip.decompress(traces[0].read_bytes()))["traceEvents"]
    steps = {event["args"]["step_num"] for event in events if event.get("name") == "collaborative"}
    assert steps == {"2", "3"}


def test_a_range_that_is_none_is_refused():
    config = tiny.get_config()
    config.train.profile = "4:2"
    with pytest.raises(ConfigError, match=r"train\.profile is '4:2'; allowed: first:last"):
        validate(config)
