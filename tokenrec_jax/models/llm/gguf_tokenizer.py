"""The tokenizer inside a GGUF file, as one of transformers. Read `build_tokenizer`.

A GGUF file holds tokens, merges and the name of the rule that splits text into words, but not the rule; the
rules that we know are in `_SPLITS`. Built from the `tokenizers` package alone: transformers' own converter wants
PyTorch, and falls back on GPT-2's rule where it does not know the name.
"""

from collections.abc import Callable
from typing import Any

import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from tokenrec_jax.types import ConfigError

#: Keys of the file and the special tokens of transformers that they tell.
_SPECIAL = {
    "tokenizer.ggml.bos_token_id": "bos_token",
    "tokenizer.ggml.eos_token_id": "eos_token",
    "tokenizer.ggml.unknown_token_id": "unk_token",
    "tokenizer.ggml.padding_token_id": "pad_token",
}
#: Values of tokenizer.ggml.token_type: kept whole in a text; the first is also left out of decoded text.
_CONTROL, _USER_DEFINED = 3, 4

_CONTRACTIONS_AND_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS_AND_SPACES = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _by_regex(digits: str) -> pre_tokenizers.PreTokenizer:
    regex = tokenizers.Regex(f"{_CONTRACTIONS_AND_LETTERS}|{digits}|{_SIGNS_AND_SPACES}")
    split = pre_tokenizers.Split(regex, behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _single_digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _llama3() -> pre_tokenizers.PreTokenizer:
    return _by_regex(r"\p{N}{1,3}")


def _qwen2() -> pre_tokenizers.PreTokenizer:
    return _by_regex(r"\p{N}")


#: Values of tokenizer.ggml.pre, and how each splits text before the merges.
_SPLITS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": _gpt2,
    "smollm": _single_digits,
    "llama-bpe": _llama3,
    "llama3": _llama3,
    "llama-v3": _llama3,
    "qwen2": _qwen2,
    "deepseek-r1-qwen": _qwen2,
}


def build_tokenizer(metadata: dict[str, Any]) -> transformers.PreTrainedTokenizerFast:
    """Returns the byte-level BPE tokenizer that the metadata of a GGUF file describe. Needs no network.

    Args:
      metadata: keys and values of the file's header; those that begin with "tokenizer." are read.

    Raises:
      ConfigError: another kind of tokenizer, an unknown rule of splitting, or values that do not fit each other.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ConfigError(f"tokenizer.ggml.model is {kind!r}; allowed: 'gpt2' (byte-level BPE)")
    split = metadata.get("tokenizer.ggml.pre")
    if split not in _SPLITS:
        raise ConfigError(f"tokenizer.ggml.pre is {split!r}; allowed: {', '.join(_SPLITS)}")
    tokens = metadata.get("tokenizer.ggml.tokens") or []
    core = _core(tokens, metadata.get("tokenizer.ggml.merges") or [], split=split)
    kinds = metadata.get("tokenizer.ggml.token_type") or []
    for token, token_kind in zip(tokens, kinds, strict=False):
        if token_kind in (_CONTROL, _USER_DEFINED):
            special = token_kind == _CONTROL
            # They are in the vocabulary already and keep their ids; this makes them whole words.
            core.add_tokens([tokenizers.AddedToken(token, special=special, normalized=False)])
    special = {}
    for key, name in _SPECIAL.items():
        index = metadata.get(key)
        if index is not None:
            if not 0 <= index < len(tokens):
                raise ConfigError(f"{key} is {index}; allowed: ids of the {len(tokens)} tokens")
            special[name] = tokens[index]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        # llama.cpp adds it to texts of Llama 3 unless told otherwise.
        add_bos_token=metadata.get("tokenizer.ggml.add_bos_token", _SPLITS[split] is _llama3),
        add_eos_token=metadata.get("tokenizer.ggml.add_eos_token", False),
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **special,
    )


def _core(tokens: list[str], merges: list[str], *, split: str) -> tokenizers.Tokenizer:
    """Returns the BPE with its rule of splitting."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    odd = [pair for pair in pairs if len(pair) != 2 or not ({*pair, "".join(pair)} <= vocabulary.keys())]
    if odd:
        raise ConfigError(f"tokenizer.ggml.merges has {' '.join(odd[0])!r}; allowed: pairs of tokens that make a token")
    if not tokens or not merges:
        raise ConfigError(f"tokenizer.ggml has {len(tokens)} tokens and {len(merges)} merges; allowed: some of both")
    # Words of Llama 3 that are tokens stay whole even if no merges lead there.
    bpe = models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=_SPLITS[split] is _llama3)  # pyright: ignore
    core = tokenizers.Tokenizer(bpe)
    if _SPLITS[split] is _qwen2:
        core.normalizer = normalizers.NFC()
    core.pre_tokenizer = _SPLITS[split]()
    core.decoder = decoders.ByteLevel()
    return core
