"""Shapes of T5 models that can be trained from random weights, by name: `scratch:<preset>` in a config.

The two invented ones are for machines without an accelerator; the others have the published shapes.
"""

import dataclasses

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


PRESETS = {
    # For tests: everything that a T5 has, compiled in a second.
    "tiny": _shape(32, 64, 1, 2, 16),
    # For CPUs: 0.3 million parameters beside the vocabulary. ReLU: tanh costs more than it brings at this
    # size.
    "compact": _shape(64, 256, 2, 4, 16),
    "t5-small": _shape(512, 2048, 6, 8),
    "t5-base": _shape(768, 3072, 12, 12),
    "t5-large": _shape(1024, 4096, 24, 16),
    "t5-v1_1-small": _shape(512, 1024, 8, 6, v1_1=True),
    "t5-v1_1-base": _shape(768, 2048, 12, 12, v1_1=True),
}


def preset(name: str, *, vocab_size: int) -> T5Config:
    """Returns the shape of a preset with another number of tokens.

    Raises:
      ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"scratch:{name}: no such preset; allowed: {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[name], vocab_size=vocab_size)
