"""A prompt that all rows share is read once, with the same result as one copy of it a row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tokenrec_jax.models import llm
from tokenrec_jax.models.llm.layer_calls import LayerCalls


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


@pytest.mark.parametrize("preset", ["llama-tiny", "gpt2-tiny"])
def test_copies_of_the_prompt_are_not_kept_where_activations_are_made_again(preset):
    model = llm.make_model(llm.preset(preset, vocab_size=40), rngs=nnx.Rngs(0))
    prompt, queries = jnp.ones((1, 9, model.hidden_size)), jnp.ones((3, 4, model.hidden_size))

    def states(queries):
        return model.hidden_states(prompt, jnp.ones((1, 9), bool), query_embeds=queries)

    def kept(remat: str) -> set[tuple[int, ...]]:
        model.calls = LayerCalls(remat=remat)
        return {leaf.shape for leaf in jax.tree.leaves(jax.vjp(states, queries)[1]) if leaf.shape[:1] == (3,)}

    # Keys or values of nine positions and four more, for each row.
    assert any(shape[1] == 13 for shape in kept("none"))
    assert not any(13 in shape for shape in kept("layers"))
