"""The variable type of arrays that belong to a module but are not trained: tables, statistics, scales."""

from flax import nnx


class Buffer(nnx.Variable):
    """An array that optimizers never see; saved and sharded with the rest of the train state."""
