"""Shipped configs are valid, survive JSON, and change only on purpose.

After a change that is meant: python -m tests.test_configs
"""

import importlib
import json
import math
import pathlib

import pytest

from tokenrec_jax.config import Config, from_json, to_json
from tokenrec_jax.config_checks import validate
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError, Stage

GOLDEN = pathlib.Path(__file__).parent / "golden"
SHIPPED = [
    ("tiny", "tiny"),
    ("quickstart", "compact"),
    ("quickstart", "smollm2"),
    ("ml100k", "compact"),
    ("lastfm", "compact"),
    ("lastfm", "paper-t5-small"),
    ("beauty", "compact"),
    ("ml1m", "compact"),
    ("clothing", "compact"),
]


def shipped(name: str, argument: str) -> Config:
    return importlib.import_module(f"experiments.configs.{name}").get_config(argument)


@pytest.mark.parametrize(("name", "argument"), SHIPPED)
def test_shipped_configs_are_valid_and_as_recorded(name, argument):
    config = shipped(name, argument)
    validate(config)
    recorded = (GOLDEN / f"{name}-{argument}.json").read_text(encoding="utf-8")
    assert to_json(config) == recorded, "changed on purpose? then: python -m tests.test_configs"


@pytest.mark.parametrize("name", ["quickstart", "ml100k", "lastfm", "beauty", "ml1m", "clothing"])
def test_without_an_argument_a_config_needs_nothing_from_the_hub(name):
    config = importlib.import_module(f"experiments.configs.{name}").get_config()
    assert config == shipped(name, "compact")
    assert config.llm.name.startswith("scratch:")


def test_json_round_trip_keeps_types():
    config = shipped("quickstart", "compact")
    assert from_json(to_json(config)) == config


def test_a_field_that_an_older_run_lacks_has_its_default():
    values = json.loads(to_json(shipped("lastfm", "compact")))
    del values["llm"]["item_vector_length"], values["data"]["bucket_batches"]
    config = from_json(json.dumps(values))
    assert (config.llm.item_vector_length, config.data.bucket_batches) == (1.0, True)
    assert config.data.max_history == 50


def test_an_older_run_goes_on_where_new_fields_have_their_defaults(tmp_path):
    config = shipped("lastfm", "paper-t5-small")
    values = json.loads(to_json(config))
    assert values["data"].pop("bucket_batches") is True
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    Workdir.start(str(tmp_path), config)
    config.data.bucket_batches = False
    with pytest.raises(ConfigError, match=r"another config \(data.bucket_batches: True there, False here\)"):
        Workdir.start(str(tmp_path), config)


WHOLE = json.loads(to_json(Config()))


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "{}"),
        *(json.dumps(WHOLE | changed) for changed in ({"llm": []}, {"sead": 0}, {"seed": "0"}, {"seed": True})),
        json.dumps({name: value for name, value in WHOLE.items() if name != "mesh"}),
    ],
)
def test_json_of_something_else_is_refused(text):
    with pytest.raises(ConfigError):
        from_json(text)


def test_global_steps_and_batch_size_replace_those_of_every_stage():
    config = Config()
    config.train.llm.steps, config.train.llm.batch_size = 7, 9
    assert (config.stage(Stage.LLM).steps, config.stage(Stage.LLM).batch_size) == (7, 9)
    config.train.steps, config.train.batch_size = 3, 4
    assert {(config.stage(s).steps, config.stage(s).batch_size) for s in Stage} == {(3, 4)}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "data.source",
            "netflix",
            "data.source is 'netflix'; allowed: tokenrec, interactions, movielens-small",
        ),
        ("stages", ("llm", "tokenizer"), "in the order collaborative, tokenizer, llm, joint"),
        ("stages", (), "stages is ''"),
        ("tokenizer.kind", "pq", "tokenizer.kind is 'pq'"),
        ("tokenizer.mask_ratio", 1.0, "tokenizer.mask_ratio is 1.0; allowed is 0 or more and below 1"),
        ("llm.objective", "beam", "llm.objective is 'beam'"),
        ("loss.temperature", 0.0, "loss.temperature is 0.0; allowed is above 0"),
        ("llm.item_vector_length", 0.0, "llm.item_vector_length is 0.0; allowed is above 0"),
        ("llm.fold_in_dropout", 1.0, "llm.fold_in_dropout is 1.0; allowed is 0 or more and below 1"),
        ("llm.projection_dim", -1, "llm.projection_dim is -1; allowed is 0 or more"),
        ("train.batch_size", -1, "batch_size is -1; allowed is 1 or more"),
        ("train.llm.stop_at", 5001, "train.llm.stop_at is 5001; allowed is 0 to train.llm.steps = 5000"),
        ("evaluation.held_out", 3, "evaluation.held_out is 3; allowed: 2, 1, 0"),
        ("evaluation.held_out", 1, "evaluation.baselines is on with evaluation.held_out 1; allowed with it: off"),
        ("mesh.fsdp", 0, "mesh.fsdp is 0; allowed is 1 or more"),
        ("data.history_buckets", (30, 20), "ascending lengths that end with data.max_history"),
        ("data.history_buckets", (6, "12"), "data.history_buckets is (6, '12'); allowed are whole numbers"),
        ("data.history_buckets", (50.0,), "data.history_buckets is (50.0,); allowed are whole numbers"),
        ("tokenizer.hidden_dims", (64.0,), "tokenizer.hidden_dims is (64.0,); allowed are whole numbers"),
        ("evaluation.cutoffs", (10, 20.0), "evaluation.cutoffs is (10, 20.0); allowed are whole numbers"),
        ("evaluation.cutoffs", (10, "a"), "evaluation.cutoffs is (10, 'a'); allowed are whole numbers"),
        ("evaluation.cutoffs", (True, 10), "evaluation.cutoffs is (True, 10); allowed are whole numbers"),
        ("evaluation.cutoffs", (5,), "allowed are sets that hold 10"),
        ("evaluation.cutoffs", (0, 10), "the least of evaluation.cutoffs is 0; allowed is 1 or more"),
        ("train.patience", -1, "train.patience is -1; allowed is 0 or more"),
        ("seed", -1, "seed is -1; allowed is 0 or more"),
        # Numbers that would train uphill, or never reach the rate that was asked for.
        ("train.llm.clip_norm", -1.0, "train.llm.clip_norm is -1.0; allowed is 0 or more"),
        ("train.tokenizer.weight_decay", -1.0, "train.tokenizer.weight_decay is -1.0; allowed is 0 or more"),
        ("train.joint.warmup", 3.0, "train.joint.warmup is 3.0; allowed is 0 to 1"),
        ("train.joint.warmup", -0.5, "train.joint.warmup is -0.5; allowed is 0 to 1"),
        ("train.llm.learning_rate", math.nan, "train.llm.learning_rate is nan; allowed is above 0"),
        ("lightgcn.l2", -1.0, "lightgcn.l2 is -1.0; allowed is 0 or more"),
        ("lightgcn.init_std", math.nan, "lightgcn.init_std is nan; allowed is 0 or more"),
        ("loss.margin", -1.0, "loss.margin is -1.0; allowed is 0 or more"),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(path, value, message):
    config = Config()
    *sections, field = path.split(".")
    target = config
    for section in sections:
        target = getattr(target, section)
    setattr(target, field, value)
    with pytest.raises(ConfigError) as caught:
        validate(config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_small_start_is_for_random_weights():
    config = Config()
    config.llm.small_start = True
    validate(config)
    config.llm.name = "t5-small"
    with pytest.raises(ConfigError, match=r"llm.small_start is on with llm.name 't5-small'"):
        validate(config)


def test_dense_objective_refuses_user_tokens_that_know_the_future():
    config = Config()
    config.llm.objective, config.llm.user_tokens = "dense", "folded"
    with pytest.raises(ConfigError, match="would know the later items"):
        validate(config)


def test_user_tokens_folded_in_need_codes_that_mean_something():
    config = Config()
    config.llm.user_tokens, config.tokenizer.kind = "folded", "random"
    with pytest.raises(ConfigError, match="each history would have other codes"):
        validate(config)


def test_a_batch_of_joint_needs_nothing_of_the_stage_that_it_replaces():
    config = Config()
    config.train.joint.batch_size, config.train.joint.accumulate, config.train.llm.batch_size = 16, 8, 100
    validate(config)
    config.train.tokenizer.batch_size = 100
    with pytest.raises(ConfigError, match=r"train.joint.accumulate is 8; allowed are divisors of train.tokenizer"):
        validate(config)


if __name__ == "__main__":
    for name, argument in SHIPPED:
        (GOLDEN / f"{name}-{argument}.json").write_text(to_json(shipped(name, argument)), encoding="utf-8")
