"""Language models from folders in Hugging Face's layout, of every family, in a TokenRec."""

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.configs import tiny
from tests.training.conftest import make_setup
from tests.training.test_step import run
from tokenrec_jax.data import prompts
from tokenrec_jax.data.vocabulary import word_tokenizer
from tokenrec_jax.models import llm
from tokenrec_jax.training.build import first_state
from tokenrec_jax.types import ConfigError, Stage

PRESETS = ("tiny", "llama-tiny", "gpt2-tiny")


@pytest.fixture(scope="module", params=PRESETS)
def checkpoint(request, tmp_path_factory):
    """A folder with random weights and a tokenizer, and the model in it."""
    tokenizer = word_tokenizer((*prompts.TRAINING_TEMPLATES, prompts.ANSWER))
    model = llm.build(f"scratch:{request.param}", vocab_size=128, rngs=nnx.Rngs(7))
    folder = tmp_path_factory.mktemp(request.param)
    llm.save_hf(model, folder, tokenizer)
    return folder, model


@pytest.mark.parametrize("objective", ["prompt", "dense"])
def test_a_folder_trains_from_its_weights(checkpoint, objective):
    folder, model = checkpoint
    config = tiny.get_config()
    config.data.history_buckets = ()  # one shape, one compilation
    config.llm.name = str(folder)
    config.llm.objective = objective
    config.llm.dropout = -1.0
    setup = make_setup(config)
    state = first_state(setup.built, seed=1, mesh=setup.mesh)
    expected = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, state.params["llm"], expected)
    assert setup.built.vocabulary.num_text_tokens == len(setup.built.tokenizer)
    _, _, metrics, _, _ = run(setup, Stage.LLM, 16)
    assert np.mean([m["loss"] for m in metrics[-4:]]) < np.mean([m["loss"] for m in metrics[:4]])


def test_a_tokenizer_that_the_embedding_cannot_hold_is_refused(tmp_path):
    texts = (*prompts.TRAINING_TEMPLATES, prompts.ANSWER)
    model = llm.build("scratch:llama-tiny", vocab_size=16, rngs=nnx.Rngs(0))
    llm.save_hf(model, tmp_path)
    word_tokenizer(texts).save_pretrained(tmp_path)
    config = tiny.get_config()
    config.llm.name = str(tmp_path)
    with pytest.raises(ConfigError) as caught:
        make_setup(config)
    assert "\n" not in str(caught.value) and "16" in str(caught.value)
