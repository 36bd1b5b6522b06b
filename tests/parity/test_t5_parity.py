"""Our T5 against transformers' PyTorch T5: files in both directions, hidden states, logits, buckets."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: pip install 'tokenrec_jax[parity]'", exc_type=ImportError
)

import transformers  # noqa: E402 - PyTorch may be missing
from transformers.models.t5.modeling_t5 import T5Attention  # noqa: E402

from tokenrec_jax.models import llm  # noqa: E402
from tokenrec_jax.models.llm.t5_layers import relative_position_bucket  # noqa: E402

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

KINDS = ("original", "v1.1")


def random_torch_model(kind: str, *, seed: int = 0, **overrides):
    """Returns a small PyTorch T5 in evaluation mode: uneven sizes, so that a swapped axis cannot hide."""
    generator = torch.Generator().manual_seed(seed)
    tied = kind == "original"
    config = transformers.T5Config(
        **{
            "vocab_size": 99, "d_model": 24, "d_kv": 5, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 3,
            "num_heads": 3, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12,
            "feed_forward_proj": "relu" if tied else "gated-gelu", "tie_word_embeddings": tied,
            "decoder_start_token_id": 0,
        }
        | overrides
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config)
    with torch.no_grad():
        if not tied:
            # transformers 5 ties every new T5; the published v1.1 checkpoints are not tied.
            model.lm_head.weight = torch.nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        for name, parameter in model.named_parameters():
            # Norm scales away from 1, and biases of positions large enough to matter.
            parameter.normal_(1.0 if "layer_norm" in name else 0.0, 0.25, generator=generator)
    return model.eval()


def save_torch(model, folder, **options):
    model.save_pretrained(folder, **options)
    return str(folder)


def inputs(*, vocab_size: int = 99, length: int = 17, positions: int = 2, left: bool = False):
    """Returns token ids, a mask with padding on one side, and decoder ids."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, vocab_size, (3, length))
    mask = np.arange(length) < np.array([length, length - 5, 2])[:, None]
    return ids, np.flip(mask, axis=1).copy() if left else mask, rng.integers(0, vocab_size, (3, positions))


@jax.jit
def run_ours(model_state, ids, mask, decoder_ids):
    graphdef, params = model_state
    model = nnx.merge(graphdef, params)
    hidden = model.encode(model.embed(ids), mask)
    decoded = model.decode(model.embed(decoder_ids), encoder_hidden=hidden, encoder_mask=mask)
    return hidden, decoded, model.logits(decoded)


def assert_same_outputs(ours: llm.T5, theirs, ids, mask, decoder_ids, *, tolerance: float = 1e-4):
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask).long(),
            decoder_input_ids=torch.tensor(decoder_ids),
            output_hidden_states=True,
        )
    hidden, decoded, logits = run_ours(nnx.split(ours), jnp.asarray(ids), jnp.asarray(mask), jnp.asarray(decoder_ids))
    pairs = (
        # States of padding mean nothing and are compared with nothing.
        (hidden[mask], expected.encoder_last_hidden_state[torch.tensor(mask)]),
        (decoded, expected.decoder_hidden_states[-1]),
        (logits, expected.logits),
    )
    for our_array, their_tensor in pairs:
        np.testing.assert_allclose(our_array, their_tensor.numpy(), atol=tolerance, rtol=1e-5)
    assert np.abs(logits).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", [2, 9], ids=["fewer-than-head-dim", "more-than-head-dim"])
def test_outputs_equal_those_of_transformers(tmp_path, kind, positions):
    theirs = random_torch_model(kind)
    ours = llm.load(save_torch(theirs, tmp_path))
    assert ours.config.num_decoder_layers == 3
    assert (ours.lm_head is None) == (kind == "original")
    assert_same_outputs(ours, theirs, *inputs(positions=positions))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_the_left(tmp_path, kind):
    theirs = random_torch_model(kind)
    assert_same_outputs(llm.load(save_torch(theirs, tmp_path)), theirs, *inputs(left=True))


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_activations_stay_close_to_float32(tmp_path, kind):
    # Weights of the usual size: those of the other tests, large on purpose, make near ties in the softmax.
    theirs = random_torch_model(kind)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "layer_norm" not in name:
                parameter.mul_(0.5)
    folder = save_torch(theirs, tmp_path)
    arrays = [jnp.asarray(x) for x in inputs()]
    exact, rough = (run_ours(nnx.split(llm.load(folder, dtype=d)), *arrays)[1] for d in ("float32", "bfloat16"))
    assert rough.dtype == jnp.bfloat16
    error = np.asarray(rough, np.float32) - np.asarray(exact)
    assert np.linalg.norm(error) / np.linalg.norm(exact) < 2e-2


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_save_transformers_loads(tmp_path, kind):
    ours = llm.load(save_torch(random_torch_model(kind), tmp_path / "theirs"))
    ours.extend_vocabulary(120, key=jax.random.key(0))
    llm.save_hf(ours, tmp_path / "ours")
    theirs, info = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.vocab_size == 128
    assert_same_outputs(ours, theirs.eval(), *inputs(vocab_size=128))
    again = llm.load(save_torch(theirs, tmp_path / "again"))
    left, right = (nnx.to_pure_dict(nnx.state(model, nnx.Param)) for model in (ours, again))
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_config_that_says_untied(tmp_path):
    """As in the published v1.1 checkpoints, which transformers 4 wrote."""
    theirs = random_torch_model("v1.1")
    folder = save_torch(theirs, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values.pop("scale_decoder_outputs")
    values["tie_word_embeddings"] = False
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert_same_outputs(llm.load(folder), theirs, *inputs())


def test_shards(tmp_path):
    theirs = random_torch_model("original")
    folder = save_torch(theirs, tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_same_outputs(llm.load(folder), theirs, *inputs())


def test_bfloat16_checkpoint(tmp_path):
    theirs = random_torch_model("original")
    folder = save_torch(theirs.bfloat16(), tmp_path)
    assert_same_outputs(llm.load(folder), theirs.float(), *inputs())


def test_our_initial_model_runs_in_transformers(tmp_path):
    config = dataclasses.replace(llm.preset("tiny", vocab_size=256), gated=True)
    ours = llm.T5(config, rngs=nnx.Rngs(0))
    llm.save_hf(ours, tmp_path)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert_same_outputs(ours, theirs, *inputs(vocab_size=256, length=70))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 12), (32, 512), (64, 200)])
def test_buckets(bidirectional, num_buckets, max_distance):
    distance = np.arange(-1100, 1100)
    options = {"bidirectional": bidirectional, "num_buckets": num_buckets, "max_distance": max_distance}
    ours = relative_position_bucket(distance, **options)
    theirs = T5Attention._relative_position_bucket(torch.tensor(distance), **options)
    np.testing.assert_array_equal(ours, theirs.numpy())


def test_real_sentences(tmp_path, shared_data):
    tokenizer = transformers.AutoTokenizer.from_pretrained(shared_data / "t5_tokenizer")
    sentences = [
        "What would the user like to listen to next, after a long evening of post-punk and new wave?",
        "Studies have shown that owning a dog is good for you.",
    ]
    encoded = tokenizer(sentences, padding=True, return_tensors="np")
    assert encoded["attention_mask"].min() == 0
    theirs = random_torch_model("original", vocab_size=32128, d_model=16, num_layers=1, num_decoder_layers=1)
    ours = llm.load(save_torch(theirs, tmp_path))
    start = np.zeros((2, 1), int)
    assert_same_outputs(ours, theirs, encoded["input_ids"], encoded["attention_mask"] == 1, start)
