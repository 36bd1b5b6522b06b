"""Several MLPs of one shape, computed as one: the encoders and the decoder of the tokenizers.

The kernels of a layer are stacked, [stack, in, out], so that a layer of K networks is one batched matmul.
Layers are linear → batch norm → ReLU → dropout; the last is linear only.
"""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

# Share of the running mean and variance that a training batch leaves as it was, and what is added to
# variances.
MOMENTUM = 0.9
EPSILON = 1e-5


class StackedLinear(nnx.Module):
    """`stack` linear layers side by side; He-uniform kernels, zero biases."""

    def __init__(self, stack: int, in_dim: int, out_dim: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(2.0, "fan_in", "uniform", batch_axis=0)
        self.kernel = nnx.Param(init(rngs.params(), (stack, in_dim, out_dim), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((stack, out_dim)))

    def __call__(self, inputs: Float[Array, "batch stack in"]) -> Float[Array, "batch stack out"]:
        """Returns the outputs of each network."""
        return jnp.einsum("bsi,sio->bso", inputs, self.kernel[...]) + self.bias[...][None]


class StackedBatchNorm(nnx.Module):
    """Batch norm of each network by itself; over a sharded batch the mean is over all of it."""

    def __init__(self, stack: int, dim: int):
        self.scale = nnx.Param(jnp.ones((stack, dim)))
        self.bias = nnx.Param(jnp.zeros((stack, dim)))
        self.mean = nnx.BatchStat(jnp.zeros((stack, dim)))
        self.var = nnx.BatchStat(jnp.ones((stack, dim)))

    def __call__(
        self, inputs: Float[Array, "batch stack dim"], *, training: bool, momentum: float
    ) -> Float[Array, "batch stack dim"]:
        """Returns normalised inputs; in training by the batch, whose statistics join the running ones."""
        if training:
            mean, var = jnp.mean(inputs, axis=0), jnp.var(inputs, axis=0)
            self.mean[...] = momentum * self.mean[...] + (1 - momentum) * jax.lax.stop_gradient(mean)
            self.var[...] = momentum * self.var[...] + (1 - momentum) * jax.lax.stop_gradient(var)
        else:
            mean, var = self.mean[...], self.var[...]
        scale = self.scale[...] * jax.lax.rsqrt(var + EPSILON)
        return inputs * scale[None] + (self.bias[...] - mean * scale)[None]


class StackedMLP(nnx.Module):
    """`stack` multi-layer perceptrons of one shape.

    Args of the constructor:
      stack: number of networks.
      dims: sizes of input, hidden layers and output.
      dropout: rate after each hidden layer in training.
      rngs: stream `params`.
    """

    def __init__(self, stack: int, dims: tuple[int, ...], *, dropout: float, rngs: nnx.Rngs):
        self.linears = nnx.List([StackedLinear(stack, *pair, rngs=rngs) for pair in itertools.pairwise(dims)])
        self.norms = nnx.List([StackedBatchNorm(stack, dim) for dim in dims[1:-1]])
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self,
        inputs: Float[Array, "batch stack in"],
        *,
        training: bool,
        momentum: float = MOMENTUM,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch stack out"]:
        """Returns the outputs of each network.

        Args:
          inputs: input of each network.
          training: normalise by the batch, update the running statistics, drop.
          momentum: 0 makes the running statistics those of this batch.
          key: for dropout; None drops nothing.
        """
        hidden = inputs
        for layer, norm in zip(self.linears[:-1], self.norms, strict=True):
            hidden = nnx.relu(norm(layer(hidden), training=training, momentum=momentum))
            if training and key is not None and self.dropout.rate > 0:
                key, layer_key = jax.random.split(key)
                hidden = self.dropout(hidden, deterministic=False, rngs=layer_key)
        return self.linears[-1](hidden)
