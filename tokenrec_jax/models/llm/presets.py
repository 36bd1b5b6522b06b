"""Shapes of models that can be trained from random weights, by name: `scratch:<preset>` in a config.

The tiny and compact ones are invented, for machines without an accelerator; the others have the published shapes.
"""

import dataclasses
from typing import Any

from tokenrec_jax.models.llm.decoder_config import GPT2Config, LlamaConfig
from tokenrec_jax.models.llm.rope import Llama3Scaling, RopeConfig
from tokenrec_jax.models.llm.t5_config import T5Config
from tokenrec_jax.types import ConfigError


def _shape(
    model_dim: int, feed_forward_dim: int, layers: int, heads: int, head_dim: int = 64, *, v1_1: bool = False
) -> T5Config:
    """Returns a T5 with equally deep stacks; v1.1 has a gated feed-forward and a head of its own."""
    return T5Config(
        vocab_size=32128,
        model_dim=model_dim,
        head_dim=head_dim,
        feed_forward_dim=feed_forward_dim,
        num_heads=heads,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        gated=v1_1,
        tied_head=not v1_1,
        scale_logits=not v1_1,
    )


def _llama(model_dim: int, feed_forward_dim: int, layers: int, heads: int) -> LlamaConfig:
    """Returns a small Llama with heads of 16 dimensions, keys and values shared by two heads, a tied head.

    The published 0.02 is the initial scale of wide models; 1 / sqrt(model_dim) suits narrow ones.
    """
    return LlamaConfig(
        vocab_size=32128,
        model_dim=model_dim,
        head_dim=16,
        feed_forward_dim=feed_forward_dim,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads // 2,
        max_positions=2048,
        tied_head=True,
        initializer_range=model_dim**-0.5,
    )


def _qwen3(model_dim: int, feed_forward_dim: int, layers: int, heads: int, *, tied_head: bool) -> LlamaConfig:
    """Returns a published Qwen3: heads of 128 dimensions whose queries and keys are normed, 8 of keys and values."""
    return LlamaConfig(
        vocab_size=151936,
        model_dim=model_dim,
        head_dim=128,
        feed_forward_dim=feed_forward_dim,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=8,
        max_positions=40960,
        model_type="qwen3",
        rope=RopeConfig(theta=1_000_000.0),
        qk_norm=True,
        tied_head=tied_head,
    )


#: Encoder-decoders.
PRESETS = {
    # For tests: everything that a T5 has, compiled in a second.
    "tiny": _shape(32, 64, 1, 2, 16),
    # For CPUs: 0.3 million parameters beside the vocabulary. ReLU: tanh costs more than it brings at this
    # size.
    "compact": _shape(64, 256, 2, 4, 16),
    # Twice as wide, for histories that are long and items that are many.
    "compact-wide": _shape(128, 512, 2, 4, 32),
    # Four times as wide, for accelerators.
    "compact-wider": _shape(256, 1024, 2, 4, 64),
    "t5-small": _shape(512, 2048, 6, 8),
    "t5-base": _shape(768, 3072, 12, 12),
    "t5-large": _shape(1024, 4096, 24, 16),
    "t5-v1_1-small": _shape(512, 1024, 8, 6, v1_1=True),
    "t5-v1_1-base": _shape(768, 2048, 12, 12, v1_1=True),
}


#: Decoder-only models.
DECODER_PRESETS: dict[str, LlamaConfig | GPT2Config] = {
    # For tests: grouped queries, tied head.
    "llama-tiny": _llama(32, 64, 1, 2),
    # For CPUs: 0.1 million parameters beside the vocabulary.
    "llama-compact": _llama(64, 192, 2, 4),
    # SmolLM2-135M, the shape of `smollm2`.
    "smollm2-135m": LlamaConfig(
        vocab_size=49152,
        model_dim=576,
        head_dim=64,
        feed_forward_dim=1536,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        max_positions=8192,
        rope=RopeConfig(theta=100_000.0),
        tied_head=True,
        norm_epsilon=1e-5,
        initializer_range=576**-0.5,
    ),
    "qwen3-0.6b": _qwen3(1024, 3072, 28, 16, tied_head=True),
    "qwen3-8b": _qwen3(4096, 12288, 36, 32, tied_head=False),
    "llama-3.1-8b": LlamaConfig(
        vocab_size=128256,
        model_dim=4096,
        head_dim=128,
        feed_forward_dim=14336,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        max_positions=131072,
        rope=RopeConfig(
            theta=500_000.0,
            scaling=Llama3Scaling(
                factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_max_positions=8192
            ),
        ),
        norm_epsilon=1e-5,
    ),
    "gpt2-tiny": GPT2Config(
        vocab_size=32128, model_dim=32, feed_forward_dim=128, num_layers=1, num_heads=2, initializer_range=32**-0.5
    ),
}


def small_start(config: Any) -> Any:
    """Returns a shape, of whatever family, whose random weights are a tenth of the published size.

    T5's norms start at a tenth, too. Each layer then adds little to what it reads until it has learned what to add.
    """
    name = "initializer_factor" if isinstance(config, T5Config) else "initializer_range"
    return dataclasses.replace(config, **{name: 0.1 * getattr(config, name)})


def preset(name: str, *, vocab_size: int) -> Any:
    """Returns the shape of a preset with another number of tokens.

    Raises:
      ConfigError: there is no such preset.
    """
    known = PRESETS | DECODER_PRESETS
    if name not in known:
        raise ConfigError(f"scratch:{name}: no such preset; allowed: {', '.join(known)}")
    return dataclasses.replace(known[name], vocab_size=vocab_size)
