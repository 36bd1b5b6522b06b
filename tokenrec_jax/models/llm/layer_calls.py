"""How a stack calls its layers in training: where their activations lie, and which are made again. Read `in_stack`."""

from collections.abc import Callable
from typing import Any

import jax

from tokenrec_jax.partitioned import pin_batch

#: What is kept of a layer between forward and backward pass: everything, products with weights, or its input alone.
POLICIES: dict[str, Callable | None] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "layers": jax.checkpoint_policies.nothing_saveable,
}


def in_stack(layer: Callable[..., Any], *, remat: str) -> Callable[..., Any]:
    """Returns a layer that takes hidden states, a keyword `key` and other keywords, for use within a stack.

    Its input and output lie along the batch. What the backward pass needs and the policy `remat` does not keep is
    computed again there.

    Args:
      layer: returns hidden states, or a tuple that starts with them.
      remat: one of `POLICIES`.
    """

    def pinned(hidden: Any, **others: Any) -> Any:
        out = layer(pin_batch(hidden), **others)
        return (pin_batch(out[0]), *out[1:]) if isinstance(out, tuple) else pin_batch(out)

    policy = POLICIES[remat]
    if policy is None:
        return pinned

    def call(hidden: Any, *, key: Any, **others: Any) -> Any:
        return jax.checkpoint(lambda hidden, key: pinned(hidden, key=key, **others), policy=policy)(hidden, key)

    return call
