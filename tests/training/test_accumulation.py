"""Gradients summed over parts, and activations made again, are those of the whole batch kept in memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import tiny
from tests.training.conftest import make_setup
from tests.training.test_step import run
from tokenrec_jax.config_checks import validate
from tokenrec_jax.models import llm
from tokenrec_jax.training import step
from tokenrec_jax.types import ConfigError, Stage


def configured(**llm):
    config = tiny.get_config(llm.pop("preset", "tiny"))
    config.data.history_buckets = ()
    config.llm.objective, config.llm.user_tokens = "dense", "none"
    config.train.llm.clip_norm = 0.0
    for name, value in llm.items():
        setattr(config.llm, name, value)
    return config


def trajectory(config, steps: int = 2):
    _, state, metrics, _, _ = run(make_setup(config), Stage.LLM, steps)
    return state.params, [(float(m["loss"]), float(m["gradient_norm"])) for m in metrics]


def test_parts_of_a_batch_give_its_gradient(monkeypatch):
    # Parts draw templates of their own.
    monkeypatch.setattr(step, "choose_templates", lambda key, batch, num_templates: jnp.zeros(batch, jnp.int32))
    expected = trajectory(configured())
    config = configured()
    config.train.llm.accumulate = 4
    params, metrics = trajectory(config)
    np.testing.assert_allclose(metrics, expected[1], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, expected[0])


@pytest.mark.parametrize(("preset", "remat"), [("tiny", "dots"), ("tiny", "layers"), ("llama-tiny", "layers")])
def test_recomputed_activations_change_nothing(preset, remat):
    kept = trajectory(configured(preset=preset), steps=1)[1]
    again = trajectory(configured(preset=preset, remat=remat), steps=1)[1]
    np.testing.assert_allclose(again, kept, rtol=1e-5)


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("tiny", {"dropout": 0.3}),
        ("llama-tiny", {"tuning": "lora"}),
        ("gpt2-tiny", {"user_tokens": "learned", "remat": "layers"}),
    ],
)
def test_a_loop_over_layers_changes_nothing(preset, options, monkeypatch):
    shape = llm.preset(preset, vocab_size=8)
    depth = {name: 3 for name in ("num_layers", "num_encoder_layers", "num_decoder_layers") if hasattr(shape, name)}
    table = llm.PRESETS if preset in llm.PRESETS else llm.DECODER_PRESETS
    monkeypatch.setitem(table, preset, dataclasses.replace(shape, **depth))
    unrolled = trajectory(configured(preset=preset, **options), steps=1)[1]
    looped = trajectory(configured(preset=preset, scan_layers=True, **options), steps=1)[1]
    np.testing.assert_allclose(looped, unrolled, rtol=1e-5)


def test_a_batch_that_cannot_be_cut_is_refused():
    config = configured()
    config.train.llm.accumulate = 5
    with pytest.raises(ConfigError, match=r"train.llm.accumulate is 5; allowed are divisors of train.llm.batch_size"):
        validate(config)
