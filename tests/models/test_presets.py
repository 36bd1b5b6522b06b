"""Presets with the name of a published model have its published shape."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.test_hf_weights import PUBLISHED
from tokenrec_jax.models import llm
from tokenrec_jax.models.llm.families import config_from_hf
from tokenrec_jax.models.llm.hf_weights import abstract_params

MILLIONS = {"t5-small": 60.5, "t5-base": 222.9, "t5-large": 737.7, "qwen3-0.6b": 596.0, "llama-3.1-8b": 8030.3}


@pytest.mark.parametrize(("name", "published"), [("qwen3-8b", "Qwen3-8B"), ("llama-3.1-8b", "Llama-3.1-8B")])
def test_shapes_are_those_of_the_published_file(name, published):
    theirs = dataclasses.replace(config_from_hf(PUBLISHED[published][1]), special_tokens=())
    assert llm.preset(name, vocab_size=theirs.vocab_size) == theirs
    assert llm.DECODER_PRESETS[name].vocab_size == theirs.vocab_size


@pytest.mark.parametrize("name", ["tiny", "llama-tiny", "gpt2-tiny"])
def test_a_small_start_is_a_tenth_of_the_usual_one(name):
    usual = llm.preset(name, vocab_size=64)
    models = [llm.make_model(config, rngs=nnx.Rngs(0)) for config in (usual, llm.small_start(usual))]
    tables = [model.token_embedding[...] for model in models]
    np.testing.assert_allclose(10 * tables[1], tables[0], rtol=1e-5)
    sizes = [sum(float(jnp.abs(x).sum()) for x in jax.tree.leaves(nnx.state(model, nnx.Param))) for model in models]
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize(("name", "millions"), MILLIONS.items(), ids=MILLIONS)
def test_published_numbers_of_parameters(name, millions):

    config = (llm.PRESETS | llm.DECODER_PRESETS)[name]
    count = sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config)))
    assert count / 1e6 == pytest.approx(millions, abs=0.06)
