"""`T5Config`: the shape of a T5 or T5 v1.1 model, and its Hugging Face form."""

import dataclasses
from typing import Any

from tokenrec_jax.types import ConfigError

#: Values of Hugging Face's `feed_forward_proj` that we know, and whether they are gated.
FEED_FORWARDS = {"relu": False, "gated-gelu": True}

#: Our name and Hugging Face's of the fields that are plain numbers.
_HF_NAMES = {
    "vocab_size": "vocab_size",
    "model_dim": "d_model",
    "head_dim": "d_kv",
    "feed_forward_dim": "d_ff",
    "num_heads": "num_heads",
    "num_encoder_layers": "num_layers",
    "num_decoder_layers": "num_decoder_layers",
    "num_buckets": "relative_attention_num_buckets",
    "max_distance": "relative_attention_max_distance",
    "dropout_rate": "dropout_rate",
    "norm_epsilon": "layer_norm_epsilon",
    "initializer_factor": "initializer_factor",
    "pad_token": "pad_token_id",
    "eos_token": "eos_token_id",
    "decoder_start_token": "decoder_start_token_id",
}


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Shape of an encoder-decoder. Defaults are those of Hugging Face's `T5Config`."""

    # Rows of the token embedding: the tokens of the tokenizer and spare ones.
    vocab_size: int
    # Size of embeddings and hidden states.
    model_dim: int
    # Size of a query, key or value of one head; heads * head_dim need not be model_dim.
    head_dim: int
    # Hidden size of the feed-forward.
    feed_forward_dim: int
    # Heads of each attention, and layers of the two stacks.
    num_heads: int
    num_encoder_layers: int
    num_decoder_layers: int
    # Buckets of relative distances, and the distance (tokens) from which all share the last one.
    num_buckets: int = 32
    max_distance: int = 128
    # True: gated GELU (v1.1). False: ReLU.
    gated: bool = False
    # Logits from the token embedding (True) or from a matrix of their own (v1.1).
    tied_head: bool = True
    # Hidden states times model_dim ** -0.5 before the logits; True in the original T5, False in v1.1.
    scale_logits: bool = True
    # Dropout rate everywhere.
    dropout_rate: float = 0.1
    # Draw dropout for each position, not once for all positions of a row; no field of Hugging Face's.
    dropout_each_position: bool = False
    # Added to the mean square in norms.
    norm_epsilon: float = 1e-6
    # Scales the standard deviation of all initial weights.
    initializer_factor: float = 1.0
    # Token ids with a meaning.
    pad_token: int = 0
    eos_token: int = 1
    decoder_start_token: int = 0

    def __post_init__(self):
        for name in ("vocab_size", "model_dim", "head_dim", "feed_forward_dim", "num_heads"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("num_encoder_layers", "num_decoder_layers"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("pad_token", "eos_token", "decoder_start_token"):
            self._check(name, 0 <= getattr(self, name) < self.vocab_size, f"0 to {self.vocab_size - 1}")
        self._check("num_buckets", self.num_buckets >= 4, "at least 4")
        self._check("max_distance", self.max_distance > self.num_buckets // 2, "more than half of the buckets")
        self._check("dropout_rate", 0.0 <= self.dropout_rate < 1.0, "0 up to, not including, 1")

    def _check(self, name: str, good: bool, allowed: str) -> None:
        if not good:
            raise ConfigError(f"{name} ({_HF_NAMES[name]}) is {getattr(self, name)}; allowed: {allowed}")

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> "T5Config":
        """Reads the dict of a Hugging Face config.json of model type "t5".

        Fields that do not shape the computation are passed over.

        Raises:
          ConfigError: another model type, a feed-forward that we do not know, a missing field or a wrong
            type.
        """
        if values.get("model_type") != "t5":
            raise ConfigError(f"model_type is {values.get('model_type')!r}; allowed: 't5'")
        feed_forward = values.get("feed_forward_proj", "relu")
        if feed_forward not in FEED_FORWARDS:
            raise ConfigError(f"feed_forward_proj is {feed_forward!r}; allowed: {', '.join(FEED_FORWARDS)}")
        tied = values.get("tie_word_embeddings", True)
        # transformers 5 writes the scaling apart from the tying; older versions derive one from the other.
        scaled = values.get("scale_decoder_outputs", tied)
        if not isinstance(tied, bool) or not isinstance(scaled, bool):
            raise ConfigError("tie_word_embeddings and scale_decoder_outputs must be true or false")
        given = {name: values[hf] for name, hf in _HF_NAMES.items() if values.get(hf) is not None}
        given.setdefault("num_decoder_layers", given.get("num_encoder_layers"))
        given.setdefault("decoder_start_token", given.get("pad_token", 0))
        for field in dataclasses.fields(cls):
            if field.name not in _HF_NAMES:
                continue
            hf = _HF_NAMES[field.name]
            value = given.get(field.name, field.default)
            if value is None or value is dataclasses.MISSING:
                raise ConfigError(f"{hf} is missing; allowed: a number")
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole and not (field.type is float and isinstance(value, float)):
                kind = "a number" if field.type is float else "an integer"
                raise ConfigError(f"{hf} is {value!r}; allowed: {kind}")
            given[field.name] = float(value) if field.type is float else value
        return cls(gated=FEED_FORWARDS[feed_forward], tied_head=tied, scale_logits=scaled, **given)

    def to_hf(self) -> dict[str, Any]:
        """Returns the dict of a config.json from which transformers 4 and 5 build the same model."""
        return {
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
            "is_encoder_decoder": True,
            "feed_forward_proj": "gated-gelu" if self.gated else "relu",
            "tie_word_embeddings": self.tied_head,
            "scale_decoder_outputs": self.scale_logits,
            **{hf: getattr(self, name) for name, hf in _HF_NAMES.items()},
        }
