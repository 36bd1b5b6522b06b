"""SmolLM2's GGUF file, read by us and by transformers' own loader: config, every tensor, token ids.

Takes 1.6 GB of memory at most: transformers holds the model, we read it one tensor at a time.
"""

import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: pip install 'tokenrec_jax[parity]'", exc_type=ImportError
)
pytest.importorskip("gguf", reason="gguf is not installed: pip install 'tokenrec_jax[gguf]'")

import transformers  # noqa: E402 - PyTorch may be missing
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint  # noqa: E402

from tokenrec_jax.models.llm.gguf_weights import GGUFCheckpoint, read_gguf, smollm2_path  # noqa: E402
from tokenrec_jax.types import ConfigError  # noqa: E402

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "It's 7:45, they've read 1,024 pages; she'd said 'no'!",
    "  leading spaces, tabs\tand\n\nnew lines \n",
    "naïve café, Ελληνικά, 日本語, emoji 🙂, and ﬁ ligatures",
    "<|im_start|>user\nHi<|im_end|><|endoftext|>tail",
    "def f(x):\n    return x ** 2  # comment",
    "",
)


@pytest.fixture(scope="module")
def checkpoint() -> GGUFCheckpoint:
    try:
        path = smollm2_path()
    except ConfigError as error:
        pytest.skip(str(error))
    return read_gguf(path)


@pytest.mark.slow
def test_config_and_tensors_equal_those_of_transformers(checkpoint):
    # A model without values: transformers takes the names of its parameters.
    with torch.device("meta"):
        skeleton = transformers.LlamaForCausalLM(transformers.LlamaConfig(**checkpoint.config))
    # What from_pretrained(..., gguf_file=...) calls; that itself wants the package accelerate.
    theirs = load_gguf_checkpoint(str(checkpoint.path), return_tensors=True, model_to_load=skeleton)
    config = {name: value for name, value in checkpoint.config.items() if value is not None}
    # Theirs leaves out what LlamaConfig assumes.
    assert (config.pop("hidden_act"), config.pop("attention_bias")) == ("silu", False)
    # And the ids of special tokens are beside their config.
    special = {name: config.pop(name) for name in list(config) if name.endswith("_token_id")}
    assert special == {name: theirs["tokenizer"][name] for name in special}
    assert config == {name: theirs["config"].get(name) for name in config}
    tensors = theirs["tensors"]
    # Neither side has a tied head twice.
    assert tensors.keys() == skeleton.state_dict().keys() - {"lm_head.weight"}
    for name, values in checkpoint.tensors():
        np.testing.assert_array_equal(values, tensors.pop(name).numpy(), err_msg=name)
    assert not tensors


def test_tokenizer_equals_that_of_transformers(checkpoint):
    path = checkpoint.path
    theirs = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    ours = checkpoint.tokenizer
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert set(ours.all_special_ids) == set(theirs.all_special_ids)
    for text in SENTENCES:
        ids = ours(text).input_ids
        assert ids == theirs(text).input_ids, text
        assert ours.decode(ids) == text
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    chat = [{"role": "user", "content": "Name 3 films."}, {"role": "assistant", "content": "Heat, Alien, M."}]
    for options in ({"tokenize": False}, {"add_generation_prompt": True, "return_dict": False}):
        assert ours.apply_chat_template(chat, **options) == theirs.apply_chat_template(chat, **options)


def test_spaces_before_digits_follow_smollm_not_gpt2(checkpoint):
    # SmolLM2 splits off digits first, so that the spaces are one token; transformers' loader does not know its rule.
    tokens = checkpoint.tokenizer.tokenize("a   24")
    assert tokens == ["a", "ĠĠĠ", "2", "4"]
