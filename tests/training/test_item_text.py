"""Text of items through a tiny random model: what counts is that the same text gives the same vector, and once."""

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from tests.test_recommender import compilations
from tokenrec_jax.data.vocabulary import word_tokenizer
from tokenrec_jax.models import llm
from tokenrec_jax.training import item_text
from tokenrec_jax.types import ConfigError

TEXTS = ["red shoe", "blue shoe", "red hat, large", "", "hat", "shoe hat red"]


@pytest.fixture(params=["tiny", "llama-tiny"])
def checkpoint(request, tmp_path):
    model = llm.make_model(llm.preset(request.param, vocab_size=100), rngs=nnx.Rngs(0))
    llm.save_hf(model, tmp_path / "model", word_tokenizer(TEXTS))
    item_text._load.cache_clear()
    return tmp_path / "model"


def test_a_text_is_read_once_and_says_the_same_in_any_company(checkpoint, monkeypatch, tmp_path):
    cache = tmp_path / "cache"
    fitted = item_text.fit_text_map(str(checkpoint), TEXTS, dim=3, dataset="shop", cache=cache)
    read = item_text._read
    monkeypatch.setattr(item_text, "_read", lambda *_: pytest.fail("read again"))
    vectors = fitted.vectors(TEXTS, cache=cache)
    monkeypatch.setattr(item_text, "_read", read)
    assert vectors.shape == (6, 3) and np.all(vectors[3] == 0) and np.all(np.any(vectors[[0, 1, 2, 4, 5]] != 0, axis=1))
    said = vectors[[0, 1, 2, 4, 5]]
    np.testing.assert_allclose(said.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(said.var(axis=0)[0], 1, rtol=1e-3)
    # Other weights under the same name are another model.
    other = llm.make_model(llm.preset("tiny", vocab_size=100), rngs=nnx.Rngs(1))
    names = item_text._files(str(checkpoint))
    llm.save_hf(other, checkpoint, word_tokenizer(TEXTS))
    assert names.keys() == item_text._files(str(checkpoint)).keys() and names != item_text._files(str(checkpoint))
    monkeypatch.setattr(item_text, "_read", lambda *_: np.zeros((5, 1), np.float32))
    assert item_text.text_states(str(checkpoint), [text for text in TEXTS if text], cache=cache).shape == (5, 1)
    monkeypatch.setattr(item_text, "_read", read)
    # In another batch, beside longer texts.
    np.testing.assert_allclose(fitted.vectors(["blue shoe"])[0], vectors[1], atol=1e-4)


def test_a_damaged_cache_is_read_again(checkpoint, tmp_path):
    states = item_text.text_states(str(checkpoint), TEXTS[:2], cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:-8])
    np.testing.assert_array_equal(item_text.text_states(str(checkpoint), TEXTS[:2], cache=tmp_path / "cache"), states)
    assert list((tmp_path / "cache").iterdir()) == [file]
    np.testing.assert_array_equal(safetensors.numpy.load_file(file)["states"], states)


def test_a_map_is_kept(checkpoint, tmp_path):
    fitted = item_text.fit_text_map(str(checkpoint), TEXTS, dim=2, dataset="shop")
    fitted.save(tmp_path)
    loaded = item_text.TextMap.load(tmp_path)
    assert loaded.name == fitted.name
    np.testing.assert_array_equal(loaded.basis, fitted.basis)
    with pytest.raises(ConfigError, match="cannot be read"):
        item_text.TextMap.load(checkpoint)


def test_what_cannot_be_read_is_refused(checkpoint):
    with pytest.raises(ConfigError, match="5 items have text"):
        item_text.fit_text_map(str(checkpoint), TEXTS, dim=6, dataset="shop")
    with pytest.raises(ConfigError, match="random weights cannot read"):
        item_text.fit_text_map("scratch:tiny", TEXTS, dim=2, dataset="shop")


def test_after_a_warm_up_no_text_compiles_anything(checkpoint):
    fitted = item_text.fit_text_map(str(checkpoint), TEXTS, dim=2, dataset="shop")
    fitted.warm_up()
    with compilations() as count:
        for text in ("hat", "red shoe", "shoe hat red " * 40):
            assert fitted.vectors([text]).any()
        assert count() == 0
