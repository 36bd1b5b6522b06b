"""Low-rank adapters of a frozen language model. Read `LowRankAdapters`."""

import jax
import jax.numpy as jnp
from flax import nnx

from tokenrec_jax.models.llm.interface import LanguageModel

#: Parts of a path, one of which an adapted kernel must have; the last part is always "kernel".
_ADAPTED = ("attention", "feed_forward")


class LowRankAdapters(nnx.Module):
    """A product of two thin matrices for each kernel of attention and feed-forward layers, to be added to it.

    `down` starts random and `up` at zero, so that the adapted model starts as the frozen one.

    Source: LoRA (Hu et al., 2021).
    Differs: the product is added to the kernel before use instead of being applied to activations beside it. The maths
    is the same, one implementation serves every family, and a merged model for export is the same call.

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

    def merged(self, llm: LanguageModel) -> LanguageModel:
        """Returns a copy of the model with the adapters added to its kernels; the model itself stays."""
        definition, params, rest = nnx.split(llm, nnx.Param, ...)
        flat = dict(nnx.to_flat_state(params))
        for path, leaf in flat.items():
            name = _name(path)
            if name in self.down:
                change = self.scale * (self.down[name][...] @ self.up[name][...])
                flat[path] = leaf.replace(leaf[...] + change.astype(leaf.dtype))
        return nnx.merge(definition, nnx.from_flat_state(list(flat.items())), rest)


def _name(path: tuple) -> str:
    return ".".join(map(str, path))
