"""Low-rank adapters of a frozen language model. Read `LowRankAdapters`."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from tokenrec_jax.models.llm.interface import LanguageModel

#: Parts of a path, one of which an adapted kernel must have; the last part is always "kernel".
_ADAPTED = ("attention", "feed_forward")


class LowRankAdapters(nnx.Module):
    """A product of two thin matrices for each kernel of attention and feed-forward layers.

    `down` starts random and `up` at zero, so that the adapted model starts as the frozen one.

    Source: LoRA (Hu et al., 2021).

    Attributes:
      down: [in, rank] of each adapted kernel, by its path joined with dots.
      up: [rank, out].
      scale: alpha / rank.
    """

    def __init__(self, llm: LanguageModel, *, rank: int, alpha: float, rngs: nnx.Rngs):
        """Makes adapters for all kernels of `llm` that are adapted."""
        self.scale = alpha / rank
        down, up = {}, {}
        for path, leaf in nnx.to_flat_state(nnx.state(llm, nnx.Param)):
            if path[-1] == "kernel" and any(word in str(part) for part in path for word in _ADAPTED):
                rows, columns = leaf.shape
                down[_name(path)] = nnx.Param(jax.random.normal(rngs.params(), (rows, rank)) / jnp.sqrt(rows))
                up[_name(path)] = nnx.Param(jnp.zeros((rank, columns)))
        self.down, self.up = nnx.Dict(down), nnx.Dict(up)

    def beside(self, llm: Any) -> Any:
        """Returns the model with the adapters working beside its layers, for training: kernels get no gradient."""
        definition, params, rest = nnx.split(llm, nnx.Param, ...)
        adapted = nnx.merge(definition, params, rest)
        for path, module in list(nnx.iter_modules(adapted)):
            for name, layer in list(vars(module).items()):
                key = _name((*path, name, "kernel"))
                if key in self.down:
                    setattr(module, name, AdaptedLinear(layer, self.down[key], self.up[key], scale=self.scale))
        return adapted

    def merged(self, llm: Any) -> Any:
        """Returns a copy of the model with the adapters added to its kernels; the model itself stays."""
        definition, params, rest = nnx.split(llm, nnx.Param, ...)
        flat = dict(nnx.to_flat_state(params))
        for path, leaf in flat.items():
            name = _name(path)
            if name in self.down:
                change = self.scale * (self.down[name][...] @ self.up[name][...])
                flat[path] = leaf.replace(leaf[...] + change.astype(leaf.dtype))
        return nnx.merge(definition, nnx.from_flat_state(list(flat.items())), rest)


class AdaptedLinear(nnx.Module):
    """A linear layer and, added to what it returns, a low-rank map of the same input."""

    def __init__(self, base: nnx.Linear, down: nnx.Param, up: nnx.Param, *, scale: float):
        self.base = base
        self.down, self.up = down, up
        self.scale = scale

    @property
    def dtype(self) -> Any:
        """Type of activations."""
        return self.base.dtype

    @property
    def kernel(self) -> Float[Array, "in out"]:
        """The merged kernel, for callers that move it to the other side of a product."""
        kernel = self.base.kernel[...]
        return kernel + (self.scale * (self.down[...] @ self.up[...])).astype(kernel.dtype)

    def __call__(self, x: Float[Array, "*shape in"]) -> Float[Array, "*shape out"]:
        """Transforms the last axis."""
        down, up = (matrix[...].astype(x.dtype) for matrix in (self.down, self.up))
        return self.base(x) + self.scale * (x @ down @ up)


def _name(path: tuple) -> str:
    return ".".join(map(str, path))
