"""Recomputation of a layer's activations in the backward pass, to save the memory of keeping them. Read `recompute`."""

from collections.abc import Callable
from typing import Any

import jax

#: What is kept of a layer between forward and backward pass: everything, products with weights, or its input alone.
POLICIES: dict[str, Callable | None] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "layers": jax.checkpoint_policies.nothing_saveable,
}


def recompute(layer: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """Returns `layer`, called with hidden states, a keyword `key` and other keywords, under a policy of `POLICIES`."""
    policy = POLICIES[remat]
    if policy is None:
        return layer

    def call(hidden: Any, *, key: Any, **others: Any) -> Any:
        return jax.checkpoint(lambda hidden, key: layer(hidden, key=key, **others), policy=policy)(hidden, key)

    return call
