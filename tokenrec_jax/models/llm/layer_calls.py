"""How a stack calls its layers: where activations lie, which are made again, one after another or in a loop.

Read `LayerCalls`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tokenrec_jax.partitioned import pin_batch

#: What is kept of a layer between forward and backward pass: everything, products with weights, or its input alone.
POLICIES: dict[str, Callable | None] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "layers": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class LayerCalls:
    """Choices that change how long a step takes, how much memory, and how long it is compiled; not what it computes.

    Attributes:
      remat: one of `POLICIES`.
      scan: compile one layer and loop over all of them, whose weights are stacked in every step.
    """

    remat: str = "none"
    scan: bool = False

    def inside(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a layer that takes hidden states, a keyword `key` and other keywords, for use within a stack.

        Its input and output lie along the batch. What the backward pass needs and the policy does not keep is computed
        again there.

        Args:
          layer: returns hidden states, or a tuple that starts with them.
        """

        def pinned(hidden: Any, **others: Any) -> Any:
            out = layer(pin_batch(hidden), **others)
            return (pin_batch(out[0]), *out[1:]) if isinstance(out, tuple) else pin_batch(out)

        policy = POLICIES[self.remat]
        if policy is None:
            return pinned

        def call(hidden: Any, *, key: Any, **others: Any) -> Any:
            return jax.checkpoint(lambda hidden, key: pinned(hidden, key=key, **others), policy=policy)(hidden, key)

        return call

    def through(self, layers: Sequence[nnx.Module], carry: Any, *, keys: Sequence[Any], call: Callable) -> Any:
        """Returns what is left of `carry` after `carry = call(layer, carry, key)` with each layer and its key.

        Args:
          layers: of one kind and size.
          carry: tree of arrays that keeps its shapes.
          keys: trees of keys, or of None if there is no dropout.
          call: may close over arrays that are the same for all layers.
        """
        if not self.scan or len(layers) < 2:
            for layer, key in zip(layers, keys, strict=True):
                carry = call(layer, carry, key)
            return carry
        definition, _ = nnx.split(layers[0])
        weights = [nnx.to_pure_dict(nnx.split(layer)[1]) for layer in layers]
        stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *zip(weights, keys, strict=True))

        def step(carry: Any, layer_and_key: tuple[Any, Any]) -> tuple[Any, None]:
            return call(nnx.merge(definition, layer_and_key[0]), carry, layer_and_key[1]), None

        return jax.lax.scan(step, carry, stacked)[0]


#: Everything kept, layer after layer.
UNROLLED = LayerCalls()
