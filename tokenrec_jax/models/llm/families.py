"""The table of model families: for each Hugging Face model type its classes and the names of its tensors.

A new family is one entry of `FAMILIES` and one key table. Read `Family`, then `key_table`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from tokenrec_jax.models.llm.decoder_config import LLAMA_TYPES, GPT2Config, LlamaConfig
from tokenrec_jax.models.llm.gpt2 import GPT2
from tokenrec_jax.models.llm.llama import Llama
from tokenrec_jax.models.llm.t5 import T5
from tokenrec_jax.models.llm.t5_config import T5Config
from tokenrec_jax.types import ConfigError

#: Path of a parameter in a module tree.
Path = tuple[str | int, ...]
KeyTable = dict[str, Path]

HEAD = "lm_head.weight"


@dataclasses.dataclass(frozen=True)
class Family:
    """What loading and saving need to know of a family.

    Attributes:
      model_types: Hugging Face's names of it.
      config_class: shape of its models.
      model_class: their module.
      key_table: for each Hugging Face tensor the path of our parameter.
      embedding: Hugging Face's name of the token embedding.
      aliases: other names of it; a checkpoint may hold it under several, with the same values.
      prefix: start of most names, which checkpoints of the bare stack (without head) leave out.
      unused: pattern of tensors that are no parameters: buffers and leftovers of old checkpoints.
      transposed: a path that ends in "kernel" holds the transposed tensor, as PyTorch's linear layers are [out, in]
        and ours [in, out].
    """

    model_types: tuple[str, ...]
    config_class: Any
    model_class: Any
    key_table: Callable[[Any], KeyTable]
    embedding: str
    aliases: tuple[str, ...] = ()
    prefix: str = ""
    unused: str = r"(?!)"
    transposed: bool = True


def key_table(config: Any) -> KeyTable:
    """Returns for each Hugging Face tensor of a model of this shape the path of our parameter."""
    return family_of(config).key_table(config)


def family_of(config: Any) -> Family:
    """Returns the family that a config belongs to."""
    return next(family for family in FAMILIES if isinstance(config, family.config_class))


def config_from_hf(values: dict[str, Any]) -> Any:
    """Returns the shape that the dict of a config.json tells, whatever its family.

    Raises:
      ConfigError: an unknown model type, or the family refuses the values.
    """
    model_type = values.get("model_type")
    for family in FAMILIES:
        if model_type in family.model_types:
            return family.config_class.from_hf(values)
    known = sorted(name for family in FAMILIES for name in family.model_types)
    raise ConfigError(f"model_type is {model_type!r}; allowed: {', '.join(known)}")


def _t5_keys(config: T5Config) -> KeyTable:
    if config.gated:
        feed_forward = {"wi_0": "gate", "wi_1": "input", "wo": "output"}
    else:
        feed_forward = {"wi": "input", "wo": "output"}
    attention = {"q": "query", "k": "key", "v": "value", "o": "output"}
    table: KeyTable = {"shared.weight": ("token_embedding",)}
    if not config.tied_head:
        table[HEAD] = ("lm_head",)
    for stack, num_layers in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        parts = [
            ("SelfAttention", "self_attention", attention),
            ("DenseReluDense", "feed_forward", feed_forward),
        ]
        if stack == "decoder":
            parts.insert(1, ("EncDecAttention", "cross_attention", attention))
        for layer in range(num_layers):
            for place, (theirs, ours, matrices) in enumerate(parts):
                prefix = f"{stack}.block.{layer}.layer.{place}"
                table[f"{prefix}.layer_norm.weight"] = (stack, "layers", layer, f"{ours}_norm", "scale")
                for their_matrix, our_matrix in matrices.items():
                    path = (stack, "layers", layer, ours, our_matrix, "kernel")
                    table[f"{prefix}.{theirs}.{their_matrix}.weight"] = path
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        table[bias] = (stack, "relative_bias", "embedding")
        table[f"{stack}.final_layer_norm.weight"] = (stack, "final_norm", "scale")
    return table


def _llama_keys(config: LlamaConfig) -> KeyTable:
    table: KeyTable = {"model.embed_tokens.weight": ("token_embedding",), "model.norm.weight": ("final_norm", "scale")}
    if not config.tied_head:
        table[HEAD] = ("lm_head",)
    parts = {
        "input_layernorm.weight": ("attention_norm", "scale"),
        "post_attention_layernorm.weight": ("feed_forward_norm", "scale"),
        "self_attn.q_proj.weight": ("attention", "query", "kernel"),
        "self_attn.k_proj.weight": ("attention", "key", "kernel"),
        "self_attn.v_proj.weight": ("attention", "value", "kernel"),
        "self_attn.o_proj.weight": ("attention", "output", "kernel"),
        "mlp.gate_proj.weight": ("feed_forward", "gate", "kernel"),
        "mlp.up_proj.weight": ("feed_forward", "input", "kernel"),
        "mlp.down_proj.weight": ("feed_forward", "output", "kernel"),
    }
    if config.qkv_bias:
        parts |= {f"self_attn.{name[0]}_proj.bias": ("attention", name, "bias") for name in ("query", "key", "value")}
    if config.qk_norm:
        parts |= {
            f"self_attn.{name[0]}_norm.weight": ("attention", f"{name}_norm", "scale") for name in ("query", "key")
        }
    return table | _layer_keys("model.layers", parts, num_layers=config.num_layers)


def _gpt2_keys(config: GPT2Config) -> KeyTable:
    table: KeyTable = {
        "transformer.wte.weight": ("token_embedding",),
        "transformer.wpe.weight": ("position_embedding",),
        "transformer.ln_f.weight": ("final_norm", "scale"),
        "transformer.ln_f.bias": ("final_norm", "bias"),
    }
    if not config.tied_head:
        table[HEAD] = ("lm_head",)
    parts: KeyTable = {}
    for theirs, ours in {"ln_1": "attention_norm", "ln_2": "feed_forward_norm"}.items():
        parts |= {f"{theirs}.weight": (ours, "scale"), f"{theirs}.bias": (ours, "bias")}
    for theirs, ours in {
        "attn.c_attn": ("attention", "qkv"),
        "attn.c_proj": ("attention", "output"),
        "mlp.c_fc": ("feed_forward", "input"),
        "mlp.c_proj": ("feed_forward", "output"),
    }.items():
        parts |= {f"{theirs}.weight": (*ours, "kernel"), f"{theirs}.bias": (*ours, "bias")}
    return table | _layer_keys("transformer.h", parts, num_layers=config.num_layers)


def _layer_keys(prefix: str, parts: KeyTable, *, num_layers: int) -> KeyTable:
    """Returns the names of one layer, repeated for all layers."""
    return {
        f"{prefix}.{layer}.{theirs}": ("layers", layer, *ours)
        for layer in range(num_layers)
        for theirs, ours in parts.items()
    }


FAMILIES = (
    Family(
        model_types=("t5",),
        config_class=T5Config,
        model_class=T5,
        key_table=_t5_keys,
        embedding="shared.weight",
        aliases=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
        # Left in the original checkpoints by mistake: T5 has no relative bias between decoder and encoder.
        unused=r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    ),
    Family(
        model_types=tuple(LLAMA_TYPES),
        config_class=LlamaConfig,
        model_class=Llama,
        key_table=_llama_keys,
        embedding="model.embed_tokens.weight",
        prefix="model.",
        unused=r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    ),
    Family(
        model_types=("gpt2",),
        config_class=GPT2Config,
        model_class=GPT2,
        key_table=_gpt2_keys,
        embedding="transformer.wte.weight",
        prefix="transformer.",
        # Causal masks that old checkpoints hold.
        unused=r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",
        # Its projections are not PyTorch's linear layers but [in, out] like ours.
        transposed=False,
    ),
)
