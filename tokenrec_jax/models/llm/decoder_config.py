"""`LlamaConfig` and `GPT2Config`: shapes of the decoder-only families, and their Hugging Face forms.

Options that would change what a model computes and that we do not have are refused, not passed over.
"""

import dataclasses
from typing import Any

from tokenrec_jax.models.llm.hf_fields import check_range, read_field, refuse
from tokenrec_jax.models.llm.rope import RopeConfig
from tokenrec_jax.types import ConfigError

#: Model types that `LlamaConfig` covers, and the class that transformers has for them.
LLAMA_TYPES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

#: Ids of tokens with a meaning, by Hugging Face's names: we do not use them, who loads what we save may.
SpecialTokens = tuple[tuple[str, int | tuple[int, ...]], ...]
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")

#: Options of all families, with the values that we compute.
_COMMON = {"quantization_config": (), "is_encoder_decoder": (False,), "attention_dropout": (0, 0.0)}
_LLAMA_OPTIONS = _COMMON | {
    "hidden_act": ("silu",),
    "mlp_bias": (False,),
    "rope_interleaved": (False,),
    "use_mrope": (False,),
    "num_experts": (0, 1),
    "num_local_experts": (0, 1),
}
_GPT2_OPTIONS = _COMMON | {
    "activation_function": ("gelu_new",),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}


def _check_shape(config: "LlamaConfig | GPT2Config", names: tuple[str, ...]) -> None:
    for name in names:
        check_range(name, getattr(config, name), good=getattr(config, name) >= 1, allowed="at least 1")
    rate = config.dropout_rate
    check_range("dropout_rate", rate, good=0.0 <= rate < 1.0, allowed="0 up to, not including, 1")


def _special_tokens(values: dict[str, Any]) -> SpecialTokens:
    found = {name: values[name] for name in _SPECIAL if values.get(name) is not None}
    return tuple((name, tuple(ids) if isinstance(ids, list) else ids) for name, ids in found.items())


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Shape of a Llama, Qwen2 or Qwen3: RMS norms, rotary positions, grouped queries, gated feed-forward."""

    # Rows of the token embedding.
    vocab_size: int
    # Size of embeddings and hidden states.
    model_dim: int
    # Size of a query, key or value of one head; heads * head_dim need not be model_dim.
    head_dim: int
    # Hidden size of the feed-forward.
    feed_forward_dim: int
    num_layers: int
    # Heads of the queries, and of the keys and values that groups of them share.
    num_heads: int
    num_kv_heads: int
    # Longest prompt, queries included, that the positions are made for.
    max_positions: int
    # One of LLAMA_TYPES: only the name of the family; what it computes is in the other fields.
    model_type: str = "llama"
    rope: RopeConfig = dataclasses.field(default_factory=RopeConfig)
    # Biases of the query, key and value projections (Qwen2), and norms of each head's queries and keys (Qwen3).
    qkv_bias: bool = False
    qk_norm: bool = False
    # Logits from the token embedding (True) or from a matrix of their own.
    tied_head: bool = False
    # Rate of the dropout on what each layer adds; the published models have none.
    dropout_rate: float = 0.0
    # Draw it for each position, not once for all positions of a row; no field of Hugging Face's.
    dropout_each_position: bool = False
    # Added to the mean square in norms.
    norm_epsilon: float = 1e-6
    # Standard deviation of the initial weights.
    initializer_range: float = 0.02
    special_tokens: SpecialTokens = ()

    def __post_init__(self):
        sizes = ("vocab_size", "model_dim", "head_dim", "feed_forward_dim", "num_layers", "num_heads", "num_kv_heads")
        _check_shape(self, (*sizes, "max_positions"))
        even = self.head_dim % 2 == 0
        check_range("head_dim", self.head_dim, good=even, allowed="even numbers, as rotary positions turn pairs")
        grouped = self.num_heads % self.num_kv_heads == 0
        allowed = f"divisors of the {self.num_heads} heads of the queries"
        check_range("num_key_value_heads", self.num_kv_heads, good=grouped, allowed=allowed)

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> "LlamaConfig":
        """Reads the dict of a config.json of one of `LLAMA_TYPES`.

        Raises:
          ConfigError: another model type, a missing field, a wrong type, or an option that we do not compute.
        """
        model_type = values.get("model_type", "")
        if model_type not in LLAMA_TYPES:
            raise ConfigError(f"model_type is {model_type!r}; allowed: {', '.join(LLAMA_TYPES)}")
        # Llama's attention_bias also has one on the output, Qwen2's biases are always there and have not.
        refuse(values, _LLAMA_OPTIONS | {"attention_bias": (False,) if model_type != "qwen2" else (False, True)})
        max_positions = read_field(values, "max_position_embeddings", int)
        num_layers = read_field(values, "num_hidden_layers", int)
        if model_type != "llama":
            _refuse_sliding_window(values, num_layers=num_layers, max_positions=max_positions)
        model_dim = read_field(values, "hidden_size", int)
        num_heads = read_field(values, "num_attention_heads", int)
        head_dim = 128 if model_type == "qwen3" else model_dim // max(num_heads, 1)
        return cls(
            vocab_size=read_field(values, "vocab_size", int),
            model_dim=model_dim,
            head_dim=read_field(values, "head_dim", int, default=head_dim),
            feed_forward_dim=read_field(values, "intermediate_size", int),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=read_field(values, "num_key_value_heads", int, default=num_heads),
            max_positions=max_positions,
            model_type=model_type,
            rope=RopeConfig.from_hf(values),
            qkv_bias=model_type == "qwen2",
            qk_norm=model_type == "qwen3",
            tied_head=read_field(values, "tie_word_embeddings", bool, default=False),
            norm_epsilon=read_field(values, "rms_norm_eps", float, default=1e-6),
            initializer_range=read_field(values, "initializer_range", float, default=0.02),
            special_tokens=_special_tokens(values),
        )

    def to_hf(self) -> dict[str, Any]:
        """Returns the dict of a config.json from which transformers 4 and 5 build the same model."""
        values = {
            "architectures": [LLAMA_TYPES[self.model_type]],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.model_dim,
            "head_dim": self.head_dim,
            "intermediate_size": self.feed_forward_dim,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "max_position_embeddings": self.max_positions,
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "tie_word_embeddings": self.tied_head,
            "rms_norm_eps": self.norm_epsilon,
            "initializer_range": self.initializer_range,
            **dict.fromkeys(_SPECIAL),
            **dict(self.special_tokens),
            **self.rope.to_hf(),
        }
        if self.model_type != "llama":
            values["use_sliding_window"] = False
        if self.model_type != "qwen2":
            values["attention_bias"] = False
        return values


def _refuse_sliding_window(values: dict[str, Any], *, num_layers: int, max_positions: int) -> None:
    """Raises `ConfigError` if a layer sees fewer positions than the model has; a mere mention is fine."""
    window = values.get("sliding_window")
    first = read_field(values, "max_window_layers", int, default=28)
    kinds = values.get("layer_types")
    if kinds is None:
        in_use = read_field(values, "use_sliding_window", bool, default=False) and first < num_layers
    else:
        in_use = any(kind != "full_attention" for kind in kinds)
    if in_use and window is not None and window < max_positions:
        raise ConfigError(f"sliding_window is {window} and in use, which is not supported; allowed: full attention")


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """Shape of a GPT-2: layer norms, learned positions, biases everywhere, tanh-GELU feed-forward."""

    vocab_size: int
    model_dim: int
    feed_forward_dim: int
    num_layers: int
    num_heads: int
    # Rows of the position embedding: no prompt, queries included, may be longer.
    max_positions: int = 1024
    # Logits from the token embedding (True) or from a matrix of their own.
    tied_head: bool = True
    # Rates of the dropout on what each layer adds, on the sum of the embeddings and on attention weights.
    dropout_rate: float = 0.1
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    # Draw it for each position, not once for all positions of a row; no field of Hugging Face's.
    dropout_each_position: bool = False
    # Added to the variance in norms.
    norm_epsilon: float = 1e-5
    # Standard deviation of the initial weights.
    initializer_range: float = 0.02
    special_tokens: SpecialTokens = ()

    def __post_init__(self):
        _check_shape(self, ("vocab_size", "model_dim", "feed_forward_dim", "num_layers", "num_heads", "max_positions"))
        for name in ("embedding_dropout", "attention_dropout"):
            rate = getattr(self, name)
            check_range(name, rate, good=0.0 <= rate < 1.0, allowed="0 up to, not including, 1")
        whole = self.model_dim % self.num_heads == 0
        check_range("n_head", self.num_heads, good=whole, allowed=f"divisors of n_embd ({self.model_dim})")

    @property
    def head_dim(self) -> int:
        """Size of a query, key or value of one head."""
        return self.model_dim // self.num_heads

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values: one for each head of queries."""
        return self.num_heads

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> "GPT2Config":
        """Reads the dict of a config.json of model type "gpt2".

        Raises:
          ConfigError: another model type, a missing field, a wrong type, or an option that we do not compute.
        """
        if values.get("model_type") != "gpt2":
            raise ConfigError(f"model_type is {values.get('model_type')!r}; allowed: 'gpt2'")
        refuse(values, _GPT2_OPTIONS)
        model_dim = read_field(values, "n_embd", int)
        return cls(
            vocab_size=read_field(values, "vocab_size", int),
            model_dim=model_dim,
            feed_forward_dim=read_field(values, "n_inner", int, default=4 * model_dim),
            num_layers=read_field(values, "n_layer", int),
            num_heads=read_field(values, "n_head", int),
            max_positions=read_field(values, "n_positions", int, default=1024),
            tied_head=read_field(values, "tie_word_embeddings", bool, default=True),
            dropout_rate=read_field(values, "resid_pdrop", float, default=0.1),
            embedding_dropout=read_field(values, "embd_pdrop", float, default=0.1),
            attention_dropout=read_field(values, "attn_pdrop", float, default=0.1),
            norm_epsilon=read_field(values, "layer_norm_epsilon", float, default=1e-5),
            initializer_range=read_field(values, "initializer_range", float, default=0.02),
            special_tokens=_special_tokens(values),
        )

    def to_hf(self) -> dict[str, Any]:
        """Returns the dict of a config.json from which transformers 4 and 5 build the same model."""
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": self.vocab_size,
            "n_embd": self.model_dim,
            "n_inner": self.feed_forward_dim,
            "n_layer": self.num_layers,
            "n_head": self.num_heads,
            "n_positions": self.max_positions,
            "activation_function": "gelu_new",
            "tie_word_embeddings": self.tied_head,
            "resid_pdrop": self.dropout_rate,
            "embd_pdrop": self.embedding_dropout,
            "attn_pdrop": self.attention_dropout,
            "layer_norm_epsilon": self.norm_epsilon,
            "initializer_range": self.initializer_range,
            **dict.fromkeys(_SPECIAL),
            **dict(self.special_tokens),
        }
