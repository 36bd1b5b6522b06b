"""`ItemIndex`: the item vectors of a catalogue, prepared for search.

What is done once for all queries (normalising, padding, rounding to a narrower storage) happens in `ItemIndex.build`;
the search itself is `search.top_k`, rounding is in `storage.py`, files are in `files.py`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import get_args, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int, Num

from tokenrec_jax.numerics import normalize, round_up
from tokenrec_jax.partitioned import EVERYWHERE, ROWS, first_row, over_devices, partitions
from tokenrec_jax.retrieval import files, search
from tokenrec_jax.retrieval.storage import Metric, Rows, Storage, encode, name_of
from tokenrec_jax.sharding import is_ours, on_mesh, put, replicated_beside
from tokenrec_jax.types import PADDING, ConfigError, TopK

#: Rows of the padded table are a multiple of this: the width of a TPU's matrix unit.
ROW_MULTIPLE = 128

#: Candidates for each item asked for, and at least, that an int8 index ranks again by the exact vectors.
CANDIDATES, MIN_CANDIDATES = 4, 64


# `no_type_check` for the reason given in types.py: tree functions put other things where the arrays were.
@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ItemIndex:
    """Searchable item vectors; a pytree, so it can be passed to jitted functions and be sharded.

    Attributes:
      vectors: one item a row, of length 1 under `cosine`, in the type of the storage; the rows from `num_items` on are
        zero padding.
      num_items: how many rows are items; an array, so that a catalogue that grows within its padding does not
        recompile the search.
      metric: "cosine" or "dot".
      mesh: devices that the rows are cut over, None if they are whole.
      scale: what products with each row of `vectors` are multiplied by: by the weight of the item, if items have any,
        and by what an int8 row was divided by. None for nothing.
      exact: int8: the vectors in float32, by which the best candidates are ranked again. None else.
    """

    vectors: Num[Array, "items emb"]
    num_items: Int[Array, ""]
    metric: Metric = dataclasses.field(metadata={"static": True})
    mesh: AbstractMesh | None = dataclasses.field(default=None, metadata={"static": True})
    scale: Float[Array, " items"] | None = None
    exact: Float[Array, "items emb"] | None = None

    @classmethod
    def build(
        cls,
        vectors: Float[Array, "items emb"] | Float[np.ndarray, "items emb"],
        *,
        metric: Metric,
        num_items: int | None = None,
        storage: Storage = "float32",
        capacity: int = 0,
        weights: Float[Array, " items"] | None = None,
    ) -> "ItemIndex":
        """Prepares item vectors for search.

        Args:
          vectors: one item a row; the row is the item id. If they lie on a mesh of ours they are cut over it.
          metric: "cosine" or "dot".
          num_items: how many of the rows are items, for tables that are padded already; None: all.
          storage: type that is searched, see `storage.py`.
          capacity: rows to make room for, so that items can be added without compiling anything again.
          weights: what the scores of each item are multiplied by, None for nothing; those of `update` weigh 1.

        Raises:
          ConfigError: an argument is out of range.
        """
        if metric not in get_args(Metric):
            raise ConfigError(f"metric: got {metric!r}; allowed are {get_args(Metric)}")
        if storage not in get_args(Storage):
            raise ConfigError(f"storage: got {storage!r}; allowed are {get_args(Storage)}")
        rows = vectors.shape[0]
        if not rows:
            raise ConfigError("vectors: there are none; allowed is one item or more")
        count = rows if num_items is None else num_items
        if not 0 <= count <= rows:
            raise ConfigError(f"num_items: got {count}; allowed is 0 to the number of vectors, {rows}")
        if capacity < 0:
            raise ConfigError(f"capacity: got {capacity}; allowed is 0 or more")
        # Explicit copies, so that an index can be built under jax.transfer_guard("disallow").
        table = vectors if isinstance(vectors, jax.Array) else jax.device_put(vectors)
        device_count = put(np.int32(count), replicated_beside(table))
        size = round_up(max(rows, capacity), multiple=ROW_MULTIPLE)
        prepared, mesh = _prepare(table, device_count, weights, metric=metric, storage=storage, size=size), None
        if table.sharding.num_devices > 1 and is_ours(table.sharding):
            prepared = jax.device_put(prepared, NamedSharding(table.sharding.mesh, ROWS))
            mesh = table.sharding.mesh.abstract_mesh
        return cls(num_items=device_count, metric=metric, mesh=mesh, **prepared._asdict())

    @property
    def storage(self) -> Storage:
        """The type that is searched."""
        return name_of(self._rows())

    @property
    def capacity(self) -> int:
        """Rows that there are, padding included."""
        return self.vectors.shape[0]

    @functools.partial(jax.jit, static_argnames=("k", "recall_target"))
    def search(
        self,
        queries: Float[Array, "batch emb"],
        *,
        k: int,
        exclude: Int[Array, "batch seen"] | None = None,
        allow: Bool[Array, " items"] | Bool[Array, "batch items"] | None = None,
        recall_target: float | None = None,
    ) -> TopK:
        """Returns the k best items of each query; see `search.top_k`, also for `exclude`, `allow` and ties.

        Args:
          queries: one vector a row.
          k: how many items.
          exclude: item ids that a query must not get; negative entries are padding.
          allow: False for items that may not be returned; as many columns as the index has rows or fewer, those that
            are missing are not allowed.
          recall_target: share of the k best that is enough, None for all of them: `lax.approx_max_k`, which a TPU does
            in a fraction of the time, and which elsewhere costs more than the exact search. See `recall`.
        """
        if allow is not None:
            missing = self.vectors.shape[0] - allow.shape[-1]
            allow = jnp.pad(allow, ((0, 0),) * (allow.ndim - 1) + ((0, missing),))
        with on_mesh(self.mesh):
            return search.top_k(
                self._prepared(queries),
                self.vectors,
                k=k,
                num_items=self.num_items,
                exclude=exclude,
                allow=allow,
                scale=self.scale,
                exact=self.exact,
                num_candidates=max(CANDIDATES * k, MIN_CANDIDATES),
                recall_target=recall_target,
            )

    @jax.jit
    def score(self, queries: Float[Array, "batch emb"]) -> Float[Array, "batch items"]:
        """Returns the scores of all rows, padding included, which is what an evaluator wants."""
        if self.exact is not None:
            return search.similarities(self._prepared(queries), self.exact)
        scores = search.similarities(self._prepared(queries), self.vectors)
        return scores if self.scale is None else scores * self.scale[None]

    def recall(self, queries: Float[Array, "batch emb"], *, k: int, recall_target: float | None = None) -> float:
        """Returns which share of the k best items a search finds, mean over the queries.

        The k best are those of the exact search by `score`: of the vectors as they were given for float32 and int8, as
        they are stored for bfloat16. So it is 1 unless the storage is int8 or `recall_target` is given.
        """
        found = self.search(queries, k=k, recall_target=recall_target).ids
        exact = self if self.exact is None else dataclasses.replace(self, vectors=self.exact, scale=None, exact=None)
        best = exact.search(queries, k=k).ids
        hits, possible = jax.device_get(_count_hits(found, best))
        return float(hits / max(possible, 1))

    def update(self, ids: Sequence[int] | np.ndarray, vectors: Float[np.ndarray, "new emb"] | Array) -> "ItemIndex":
        """Returns the index with the vectors of some items replaced or added, in the memory of this one.

        This index must not be used any more: its memory is given away. Rows up to `capacity` may be set; an id behind
        the last item makes all ids before it items, with zero vectors where none is given. Nothing is compiled again
        while the number of ids stays below the same power of two.

        Args:
          ids: rows; each at most once.
          vectors: one a row.

        Raises:
          ConfigError: an id is negative, repeated or not below `capacity`, or there are more or fewer vectors.
        """
        rows = np.asarray(ids, np.int32)
        if rows.shape[0] != vectors.shape[0] or rows.ndim != 1:
            raise ConfigError(f"vectors: got {vectors.shape[0]} for {rows.size} ids; allowed is one for each")
        if rows.size == 0:
            return self
        if rows.min() < 0 or rows.max() >= self.capacity or len(np.unique(rows)) < len(rows):
            raise ConfigError(
                f"ids: got {len(rows)} from {rows.min()} to {rows.max()}; "
                f"allowed is each of 0 to {self.capacity - 1} once"
            )
        # A power of two, so that few sizes are compiled.
        size = 1 << (len(rows) - 1).bit_length()
        new = np.zeros((size, vectors.shape[1]), np.float32)
        new[: len(rows)] = jax.device_get(vectors)
        padded = np.full(size, PADDING, np.int32)
        padded[: len(rows)] = rows
        beside = replicated_beside(self.num_items)
        return _update(self, put(padded, beside), put(new, beside))

    def grow(self, vectors: Float[np.ndarray, "new emb"] | Array) -> "ItemIndex":
        """Returns the index with items added behind the last one; see `update`.

        When the capacity is used up it is doubled, which copies the index and compiles its functions once more.
        """
        count = int(jax.device_get(self.num_items))
        wanted = count + vectors.shape[0]
        grown = self if wanted <= self.capacity else _enlarged(self, size=max(2 * self.capacity, wanted))
        return grown.update(np.arange(count, wanted), vectors)

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the index as one safetensors file; see `files.py`."""
        arrays = {name: value for name, value in self._rows()._asdict().items() if value is not None}
        files.write(path, arrays, num_items=int(jax.device_get(self.num_items)), metric=self.metric)

    @classmethod
    def load(cls, path: str | pathlib.Path, *, mesh: Mesh | None = None) -> "ItemIndex":
        """Returns an index that `save` wrote; on a CPU its memory is the file's, read when it is searched.

        Args:
          path: safetensors file.
          mesh: devices to cut the rows over; None: the default device.

        Raises:
          DataError: the file is no index.
        """
        contents = files.read(path)
        # On a CPU a copy that may be left out is left out: the arrays are then the pages of the file.
        rows = put(contents.arrays, None if mesh is None else NamedSharding(mesh, ROWS))
        count = put(np.int32(contents.num_items), replicated_beside(rows["vectors"]))
        return cls(num_items=count, metric=contents.metric, mesh=None if mesh is None else mesh.abstract_mesh, **rows)

    def _rows(self) -> Rows:
        return Rows(vectors=self.vectors, scale=self.scale, exact=self.exact)

    def _prepared(self, queries: Float[Array, "batch emb"]) -> Float[Array, "batch emb"]:
        return _measured(queries, self.metric)


def _measured(vectors: Float[Array, "rows emb"], metric: str) -> Float[Array, "rows emb"]:
    """Returns vectors whose dot products are what the metric says."""
    return normalize(vectors) if metric == "cosine" else vectors


@functools.partial(jax.jit, static_argnames=("metric", "storage", "size"))
def _prepare(
    vectors: Float[Array, "items emb"],
    num_items: Int[Array, ""],
    weights: Float[Array, " items"] | None,
    *,
    metric: str,
    storage: str,
    size: int,
) -> Rows:
    """Returns rows to search, normalised if the metric wants it, with all rows from `num_items` on zero."""
    vectors = _measured(vectors, metric)
    is_item = jnp.arange(vectors.shape[0])[:, None] < num_items
    vectors = jnp.pad(jnp.where(is_item, vectors, 0), ((0, size - vectors.shape[0]), (0, 0)))
    rows = encode(vectors, storage)
    if weights is None:
        return rows
    weights = jnp.pad(weights, (0, size - len(weights)), constant_values=1.0)
    return Rows(
        rows.vectors,
        weights if rows.scale is None else weights * rows.scale,
        None if rows.exact is None else weights[:, None] * rows.exact,
    )


@functools.partial(jax.jit, donate_argnames=("index",))
def _update(index: ItemIndex, ids: Int[Array, " new"], vectors: Float[Array, "new emb"]) -> ItemIndex:
    """Returns the index with rows replaced, in its own memory; ids of `PADDING` replace nothing."""
    rows = index._rows()
    new = encode(_measured(vectors, index.metric), index.storage)
    if rows.scale is not None and new.scale is None:
        new = new._replace(scale=jnp.ones(len(ids)))
    new = jax.tree.map(lambda value, table: value.astype(table.dtype), new, rows)

    def replace(rows: Rows, ids: Array, new: Rows, *, first: int | Array = 0) -> Rows:
        size = rows.vectors.shape[0]
        # Padding and rows of other devices are sent past the end, where "drop" ignores them.
        at = jnp.where((ids < first) | (ids >= first + size), size, ids - first)
        return jax.tree.map(lambda table, value: table.at[at].set(value, mode="drop"), rows, new)

    with on_mesh(index.mesh):
        mesh = partitions()
        if mesh is None:
            rows = replace(rows, ids, new)
        else:

            def local(part: Rows, ids: Array, new: Rows) -> Rows:
                return replace(part, ids, new, first=first_row(part.vectors))

            specs = (ROWS, EVERYWHERE, EVERYWHERE)
            rows = over_devices(local, mesh, in_specs=specs, out_specs=ROWS)(rows, ids, new)
    count = jnp.maximum(index.num_items, jnp.max(ids) + 1)
    return dataclasses.replace(index, num_items=count, **rows._asdict())


@functools.partial(jax.jit, static_argnames=("size",))
def _with_more_rows(rows: Rows, *, size: int) -> Rows:
    return jax.tree.map(lambda x: jnp.pad(x, ((0, size - x.shape[0]),) + ((0, 0),) * (x.ndim - 1)), rows)


def _enlarged(index: ItemIndex, *, size: int) -> ItemIndex:
    """Returns the index with room for more items."""
    rows = _with_more_rows(index._rows(), size=round_up(size, multiple=ROW_MULTIPLE))
    if index.mesh is not None and isinstance(index.vectors.sharding, NamedSharding):
        rows = jax.device_put(rows, NamedSharding(index.vectors.sharding.mesh, ROWS))
    return dataclasses.replace(index, **rows._asdict())


@jax.jit
def _count_hits(found: Int[Array, "batch k"], best: Int[Array, "batch k"]) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Returns how many of the best were found, and how many there are."""
    is_item = best != PADDING
    return jnp.sum(is_item & jnp.any(best[:, :, None] == found[:, None, :], axis=2)), jnp.sum(is_item)
