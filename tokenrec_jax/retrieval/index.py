"""`ItemIndex`: the item vectors of a catalogue, prepared for search.

What is done once for all queries (normalising, padding) happens in `ItemIndex.build`; the search itself is
`search.top_k`. Other layouts and search algorithms belong behind the same three methods.
"""

import dataclasses
import functools
from typing import Literal, get_args, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, NamedSharding
from jaxtyping import Array, Float, Int

from tokenrec_jax.numerics import normalize
from tokenrec_jax.partitioned import ROWS
from tokenrec_jax.retrieval import search
from tokenrec_jax.sharding import is_ours, on_mesh, put, replicated_beside
from tokenrec_jax.types import ConfigError, TopK

Metric = Literal["cosine", "dot"]

#: Rows of the padded table are a multiple of this: the width of a TPU's matrix unit.
ROW_MULTIPLE = 128


# `no_type_check` for the reason given in types.py: tree functions put other things where the arrays were.
@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ItemIndex:
    """Searchable item vectors; a pytree, so it can be passed to jitted functions and be sharded.

    Attributes:
      vectors: one item a row, of length 1 under `cosine`; the rows from `num_items` on are zero padding.
      num_items: how many rows are items; an array, so that a catalogue that grows within its padding does not
        recompile the search.
      metric: "cosine" or "dot".
      mesh: devices that the rows are cut over, None if they are whole.
    """

    vectors: Float[Array, "items emb"]
    num_items: Int[Array, ""]
    metric: Metric = dataclasses.field(metadata={"static": True})
    mesh: AbstractMesh | None = dataclasses.field(default=None, metadata={"static": True})

    @classmethod
    def build(
        cls,
        vectors: Float[Array, "items emb"] | Float[np.ndarray, "items emb"],
        *,
        metric: Metric,
        num_items: int | None = None,
    ) -> "ItemIndex":
        """Prepares item vectors for search.

        Args:
          vectors: one item a row; the row is the item id. If they lie on a mesh of ours they are cut over it.
          metric: "cosine" or "dot".
          num_items: how many of the rows are items, for tables that are padded already; None: all.

        Raises:
          ConfigError: `metric` or `num_items` is out of range.
        """
        if metric not in get_args(Metric):
            raise ConfigError(f"metric: got {metric!r}; allowed are {get_args(Metric)}")
        rows = vectors.shape[0]
        count = rows if num_items is None else num_items
        if not 0 <= count <= rows:
            raise ConfigError(f"num_items: got {count}; allowed is 0 to the number of vectors, {rows}")
        # Explicit copies, so that an index can be built under jax.transfer_guard("disallow").
        table = vectors if isinstance(vectors, jax.Array) else jax.device_put(vectors)
        device_count = put(np.int32(count), replicated_beside(table))
        prepared, mesh = _prepare(table, device_count, metric=metric), None
        if table.sharding.num_devices > 1 and is_ours(table.sharding):
            prepared = jax.device_put(prepared, NamedSharding(table.sharding.mesh, ROWS))
            mesh = table.sharding.mesh.abstract_mesh
        return cls(vectors=prepared, num_items=device_count, metric=metric, mesh=mesh)

    @functools.partial(jax.jit, static_argnames=("k",))
    def search(
        self, queries: Float[Array, "batch emb"], *, k: int, exclude: Int[Array, "batch seen"] | None = None
    ) -> TopK:
        """Returns the k best items of each query; see `search.top_k`, also for `exclude` and ties."""
        with on_mesh(self.mesh):
            return search.top_k(self._prepared(queries), self.vectors, k=k, num_items=self.num_items, exclude=exclude)

    @jax.jit
    def score(self, queries: Float[Array, "batch emb"]) -> Float[Array, "batch items"]:
        """Returns the scores of all rows, padding included, which is what an evaluator wants."""
        return search.similarities(self._prepared(queries), self.vectors)

    def _prepared(self, queries: Float[Array, "batch emb"]) -> Float[Array, "batch emb"]:
        return normalize(queries) if self.metric == "cosine" else queries


@functools.partial(jax.jit, static_argnames=("metric",))
def _prepare(
    vectors: Float[Array, "items emb"], num_items: Int[Array, ""], *, metric: str
) -> Float[Array, "padded emb"]:
    """Returns the vectors, normalised if the metric wants it, with all rows from `num_items` on zero."""
    vectors = normalize(vectors) if metric == "cosine" else vectors
    is_item = jnp.arange(vectors.shape[0])[:, None] < num_items
    return jnp.pad(jnp.where(is_item, vectors, 0), ((0, -vectors.shape[0] % ROW_MULTIPLE), (0, 0)))
