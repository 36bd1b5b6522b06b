"""A prompt that all rows share is read once, with the same result as one copy of it a row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tokenrec_jax.models import llm


@pytest.mark.parametrize("preset", ["tiny", "llama-tiny", "gpt2-tiny"])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_one_prompt_for_all_rows_equals_a_copy_a_row(preset, padding):
    shape = llm.preset(preset, vocab_size=40)
    layers = {"num_layers": 2} if preset != "tiny" else {"num_encoder_layers": 2, "num_decoder_layers": 2}
    model = llm.make_model(dataclasses.replace(shape, **layers), rngs=nnx.Rngs(0))
    prompt = jax.random.randint(jax.random.key(1), (1, 9), 0, 40)
    queries = jax.random.randint(jax.random.key(2), (3, 4), 0, 40)
    mask = jnp.arange(9)[None] >= 2 if padding == "left" else jnp.arange(9)[None] < 7

    @jax.jit
    def states(prompt, mask):
        return model.hidden_states(model.embed(prompt), mask, query_embeds=model.embed(queries))

    repeated = states(jnp.tile(prompt, (3, 1)), jnp.tile(mask, (3, 1)))
    np.testing.assert_allclose(states(prompt, mask), repeated, rtol=1e-5, atol=1e-5)
    other = states(prompt.at[0, 4].set((prompt[0, 4] + 1) % 40), mask)
    assert not np.allclose(other, repeated, atol=1e-4)
