"""Operations that the mathematics needs are those that a plain forward pass does, for every family and objective."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from experiments.configs import tiny
from tokenrec_jax.ahead_of_time.costs import count
from tokenrec_jax.ahead_of_time.hlo import parse
from tokenrec_jax.ahead_of_time.model_flops import forward_flops, head_flops, lengths, training_flops
from tokenrec_jax.config import LossConfig, MeshConfig
from tokenrec_jax.data.synthetic import synthetic_interactions
from tokenrec_jax.models import llm
from tokenrec_jax.sharding import make_mesh
from tokenrec_jax.training.build import build_model
from tokenrec_jax.training.query import make_query_function
from tokenrec_jax.training.state import abstract_state

BATCH = 4


def built_model(config):
    few = synthetic_interactions(name="few", num_users=32, num_items=32, seed=0)
    return build_model(config, few, mesh=make_mesh(MeshConfig(), devices=jax.devices()[:1]))


@pytest.mark.parametrize(
    ("preset", "objective"),
    [("tiny", "prompt"), ("tiny", "dense"), ("llama-tiny", "dense"), ("gpt2-tiny", "prompt")],
)
def test_forward_operations_are_those_of_the_program(preset, objective):
    config = tiny.get_config(preset)
    config.llm.objective = objective
    config.llm.user_tokens = "learned" if objective == "prompt" else "none"
    built = built_model(config)
    state = abstract_state(built.definition)
    sizes = lengths(config, built.shape, batch=BATCH, num_answer_tokens=len(built.templates.answer))
    needed = forward_flops(built.llm_config, sizes)
    needed += head_flops(config, built.shape, sizes, hidden=built.llm_config.model_dim, with_softmax=False)
    ids = jax.ShapeDtypeStruct((BATCH,), jnp.int32)
    history = jax.ShapeDtypeStruct((BATCH, config.data.max_history), jnp.int32)
    query = make_query_function(built.definition, mesh=make_mesh(MeshConfig(), devices=jax.devices()[:1]))
    lowered = query.lower(state.params, state.buffers, None, ids, history, jax.ShapeDtypeStruct((), jnp.int32))
    done = count(parse(lowered.compile().as_text())).flops
    # The program also does the half of the scores that a causal mask hides, T5's table of relative positions, the
    # fold-in of every prefix, and the queries of all tokens in GPT-2's last layer, whose kernel holds them beside keys
    # and values.
    assert 0.74 * done < needed < 1.02 * done


def test_a_trained_weight_costs_three_times_its_forward_pass_and_a_frozen_one_twice():
    config = tiny.get_config("tiny")
    config.loss = LossConfig(kind="pairwise")
    built = built_model(config)
    sizes = lengths(config, built.shape, batch=BATCH, num_answer_tokens=5)
    backbone = forward_flops(built.llm_config, sizes)
    head = head_flops(config, built.shape, sizes, hidden=32, with_softmax=True)
    assert training_flops(config, built.llm_config, built.shape, sizes) == 3 * (backbone + head)
    config.llm.tuning = "frozen"
    assert training_flops(config, built.llm_config, built.shape, sizes) == 2 * backbone + 3 * head
    config.llm.tuning = "lora"
    lora = training_flops(config, built.llm_config, built.shape, sizes)
    assert 2 * backbone + 3 * head < lora < 4 * backbone + 3 * head


def test_the_softmax_counts_the_whole_catalogue():
    config = tiny.get_config("tiny")
    built = built_model(config)
    shape = dataclasses.replace(built.shape, num_items=1000)
    sizes = lengths(config, shape, batch=BATCH, num_answer_tokens=5)
    with_softmax, without = (
        head_flops(config, shape, sizes, hidden=32, with_softmax=with_softmax) for with_softmax in (True, False)
    )
    assert with_softmax - without == 2 * BATCH * 1000 * config.lightgcn.embedding_dim


def test_six_operations_a_weight_and_token():
    """The rule of thumb, for a long batch of a published shape: attention adds little at 64 positions."""
    model = llm.preset("t5-small", vocab_size=32128)
    config = tiny.get_config("tiny")
    built = built_model(config)
    sizes = dataclasses.replace(lengths(config, built.shape, batch=256, num_answer_tokens=5), prompt=64, queries=64)
    layers = 6 * (4 * 512 * 512 + 2 * 512 * 2048) + 6 * (8 * 512 * 512 + 2 * 512 * 2048)
    assert forward_flops(model, sizes) == pytest.approx(2 * layers * 256 * 64, rel=0.06)
