"""Our decoder-only models against transformers' PyTorch ones: files in both directions, states, padding, cache."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from flax import nnx

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: pip install 'tokenrec_jax[parity]'", exc_type=ImportError
)

import safetensors.torch  # noqa: E402 - PyTorch may be missing
import transformers  # noqa: E402

from tokenrec_jax.models import llm  # noqa: E402

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

# Uneven sizes, so that a swapped axis cannot hide; heads * head_dim is not hidden_size where a family allows it.
LLAMA = {
    "vocab_size": 99, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
# 8 positions were pretrained: the wave lengths of a head of 8 dimensions then fall into all three ranges.
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
GPT2 = {"vocab_size": 99, "n_embd": 24, "n_inner": 40, "n_layer": 2, "n_head": 3, "n_positions": 64}
CONFIGS = {
    "llama3": lambda: transformers.LlamaConfig(**LLAMA, head_dim=8, rope_parameters=dict(LLAMA3_ROPE)),
    "smollm2": lambda: transformers.LlamaConfig(**LLAMA | {"tie_word_embeddings": True}),
    "qwen2": lambda: transformers.Qwen2Config(**LLAMA),
    "qwen3": lambda: transformers.Qwen3Config(**LLAMA, head_dim=10),
    "gpt2": lambda: transformers.GPT2Config(**GPT2),
}
FAMILIES = tuple(CONFIGS)

# One batch for all: full, padded on the right, padded on the left.
LENGTH = 17
IDS = np.random.default_rng(0).integers(0, 99, (3, LENGTH))
MASK = np.stack([np.ones(LENGTH, bool), np.arange(LENGTH) < 9, np.arange(LENGTH) >= 6])
NUM_QUERIES = 3


def random_torch_model(family: str, *, seed: int = 0):
    """Returns a small PyTorch model in evaluation mode, no parameter of which is at its idle value."""
    generator = torch.Generator().manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[family](), attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(1.0 if is_scale else 0.0, 0.25, generator=generator)
    return model.eval()


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    """The same model twice: ours and theirs, by way of a folder."""
    folder = tmp_path_factory.mktemp(request.param)
    theirs = random_torch_model(request.param)
    theirs.save_pretrained(folder)
    return llm.load(str(folder)), theirs, folder


def torch_outputs(theirs, ids=IDS, mask=MASK):
    """Returns states after the final norm and logits."""
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    with torch.no_grad():
        outputs = theirs(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask).long(),
            # What transformers' generate does; left to itself GPT-2 would count padding.
            position_ids=torch.tensor(positions),
            output_hidden_states=True,
        )
    return outputs.hidden_states[-1].float().numpy(), outputs.logits.float().numpy()


@jax.jit
def run_ours(model_state, ids, mask):
    model = nnx.merge(*model_state)
    hidden = model(ids, mask)
    return hidden, model.logits(hidden)


def assert_same_outputs(ours, theirs, *, ids=IDS, mask=MASK, tolerance: float = 1e-4):
    for our_array, their_array in zip(
        run_ours(nnx.split(ours), jnp.asarray(ids), jnp.asarray(mask)), torch_outputs(theirs, ids, mask), strict=True
    ):
        # States of padding mean nothing and are compared with nothing.
        np.testing.assert_allclose(our_array[mask], their_array[mask], atol=tolerance, rtol=tolerance)
        assert np.abs(their_array[mask]).max() > 0.5


def test_states_and_logits_equal_those_of_transformers(pair):
    ours, theirs, _ = pair
    assert_same_outputs(ours, theirs)


def test_bfloat16_stays_close_to_transformers_float32(pair):
    _, theirs, folder = pair
    ours = llm.load(str(folder), dtype="bfloat16")
    hidden, _ = run_ours(nnx.split(ours), jnp.asarray(IDS), jnp.asarray(MASK))
    assert hidden.dtype == jnp.bfloat16
    expected = torch_outputs(theirs)[0][MASK]
    error = np.asarray(hidden, np.float32)[MASK] - expected
    assert np.linalg.norm(error) / np.linalg.norm(expected) < 2e-2
    # No further away than PyTorch's own bfloat16.
    theirs_rough = type(theirs).from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager").eval()
    their_error = torch_outputs(theirs_rough)[0][MASK] - expected
    assert np.linalg.norm(error) < 1.25 * np.linalg.norm(their_error)


def test_queries_after_a_padded_prompt_are_its_next_tokens(pair):
    """`hidden_states` with padding between prompt and queries equals transformers without any padding."""
    ours, theirs, _ = pair
    graphdef, params = nnx.split(ours)

    @jax.jit
    def states(params, prompt, mask, queries):
        model = nnx.merge(graphdef, params)
        return model.hidden_states(model.embed(prompt), mask, query_embeds=model.embed(queries))

    split = LENGTH - NUM_QUERIES
    ids, queries = IDS[:, :split], IDS[:, split:]
    mask = MASK[:, :split]
    hidden = states(params, jnp.asarray(ids), jnp.asarray(mask), jnp.asarray(queries))
    for row in range(3):
        bare = np.concatenate([ids[row][mask[row]], queries[row]])[None]
        expected = torch_outputs(theirs, bare, np.ones(bare.shape, bool))[0][0, -NUM_QUERIES:]
        np.testing.assert_allclose(hidden[row], expected, atol=1e-4, rtol=1e-4)


def test_cached_decoding_equals_the_full_pass(pair):
    ours, theirs, _ = pair
    graphdef, params = nnx.split(ours)

    @jax.jit
    def step(params, tokens, mask, cache):
        model = nnx.merge(graphdef, params)
        return model.decode(model.embed(tokens), cache, mask=mask)

    split = LENGTH - NUM_QUERIES
    mask = np.concatenate([MASK[:, :split], np.ones((3, NUM_QUERIES), bool)], axis=1)
    # More slots than tokens: the empty ones must not count.
    cache = ours.init_cache(3, LENGTH + 4)
    pieces = []
    for first, last in [(0, split), *((at, at + 1) for at in range(split, LENGTH))]:
        hidden, cache = step(params, jnp.asarray(IDS[:, first:last]), jnp.asarray(mask[:, first:last]), cache)
        pieces.append(hidden)
    assert int(cache.used) == LENGTH
    cached = np.concatenate(pieces, axis=1)
    full, _ = run_ours(nnx.split(ours), jnp.asarray(IDS), jnp.asarray(mask))
    np.testing.assert_allclose(cached[mask], full[mask], atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(cached[mask], torch_outputs(theirs, IDS, mask)[0][mask], atol=1e-4, rtol=1e-4)


def test_what_we_save_transformers_loads_bit_exact(pair, tmp_path):
    _, theirs, folder = pair
    ours = llm.load(str(folder))
    ours.extend_vocabulary(120, key=jax.random.key(0))
    llm.save_hf(ours, tmp_path / "ours")
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert type(again) is type(theirs)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert again.config.vocab_size == 128
    theirs_before, theirs_after = theirs.state_dict(), again.state_dict()
    assert theirs_before.keys() == theirs_after.keys()
    for name, before in theirs_before.items():
        after = theirs_after[name]
        assert torch.equal(before, after[: len(before)]), name
    assert_same_outputs(ours, again.eval())
    again.save_pretrained(tmp_path / "again")
    reloaded = llm.load(str(tmp_path / "again"))
    assert reloaded.config == ours.config
    left, right = (nnx.to_pure_dict(nnx.state(model, nnx.Param)) for model in (ours, reloaded))
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("family", ["smollm2", "gpt2"])
def test_the_one_table_of_a_tied_model_may_have_either_name(family, tmp_path):
    """`safetensors.torch.save_model` drops copies and keeps the first name, here that of the head."""
    theirs = random_torch_model(family)
    theirs.config.save_pretrained(tmp_path)
    safetensors.torch.save_model(theirs, str(tmp_path / "model.safetensors"))
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert "lm_head.weight" in file.keys()  # noqa: SIM118
    ours = llm.load(str(tmp_path))
    expected = theirs.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(np.asarray(ours.token_embedding[...])[: len(expected)], expected)


def test_bare_stack_without_head(tmp_path):
    """Published GPT-2 has the names of the stack alone, and causal masks that are no parameters."""
    theirs = random_torch_model("gpt2")
    theirs.transformer.save_pretrained(tmp_path)
    assert_same_outputs(llm.load(str(tmp_path)), theirs)


def test_rope_as_transformers_4_wrote_it(pair):
    ours, _, folder = pair
    values = json.loads((folder / "config.json").read_text())
    parameters = values.pop("rope_parameters", None)
    if parameters is None:
        pytest.skip("no rotary positions")
    theta = parameters.pop("rope_theta")
    values |= {"rope_theta": theta, "rope_scaling": parameters if parameters["rope_type"] != "default" else None}
    assert llm.LlamaConfig.from_hf(values) == ours.config
