"""The optimizer of a stage. Read `make_optimizer`."""

from typing import Any

import jax
import optax

from tokenrec_jax.config import StageConfig
from tokenrec_jax.sharding import path_name


def make_optimizer(config: StageConfig) -> optax.GradientTransformation:
    """Returns AdamW with warm-up, optional cosine decay and optional clipping of the global norm."""
    adamw = optax.adamw(make_schedule(config), weight_decay=config.weight_decay, mask=decayed)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm else adamw


def make_schedule(config: StageConfig) -> optax.Schedule:
    """Returns the learning rate by step: linear from 0 to the peak, then along a cosine to 0, or constant."""
    warmup = round(config.warmup * config.steps)
    if config.cosine_decay:
        after = optax.cosine_decay_schedule(config.learning_rate, max(config.steps - warmup, 1))
    else:
        after = optax.constant_schedule(config.learning_rate)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, config.learning_rate, warmup), after], [warmup])


def decayed(params: Any) -> Any:
    """Returns which parameters decay: matrices of layers; not tables, codebooks, scales or biases."""

    def decays(path: tuple, leaf: jax.Array) -> bool:
        return leaf.ndim >= 2 and path_name(path).endswith("kernel")

    return jax.tree_util.tree_map_with_path(decays, params)
