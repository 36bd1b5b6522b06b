"""Tables of users and items cut into row ranges over devices: lookups that never bring a whole table together.

A function here looks at the mesh of the trace that it is called in, which `sharding.on_mesh` sets; where there is none,
or one device, it is plain indexing. Read `take_rows`. The softmax over a cut table is in `training/normaliser.py`,
the search in `retrieval/search.py`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Shaped

from tokenrec_jax.sharding import BATCH_AXES, FSDP, ROW_AXES, TENSOR

BATCH, ROWS, EVERYWHERE = PartitionSpec(BATCH_AXES), PartitionSpec(ROW_AXES), PartitionSpec()


def partitions() -> AbstractMesh | None:
    """Returns the mesh of the current trace if it has several devices; inside of `over_devices` there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or AxisType.Manual in mesh.axis_types:
        return None
    return mesh


def take_rows(table: Shaped[Array, " rows *rest"], index: Int[Array, " batch *more"]) -> Shaped[Array, "batch ..."]:
    """Returns `table[index]`; the rows of `table` and the first axis of `index` may be cut over devices.

    Indices travel, not rows: devices that share a part of the batch's axis tell each other theirs, each looks up those
    in its own range, and the sums come back. The transpose, the gradient of the table, is the same in reverse.

    Args:
      table: cut along `ROW_AXES`.
      index: in range, cut along `BATCH_AXES`.
    """
    mesh = partitions()
    if mesh is None:
        return table[index]

    def local(part: Array, index: Array) -> Array:
        index = gather_batch(index)
        own = index - first_row(part)
        here = (own >= 0) & (own < part.shape[0])
        found = part[jnp.clip(own, 0, part.shape[0] - 1)]
        found = jnp.where(here.reshape(here.shape + (1,) * (part.ndim - 1)), found, jnp.zeros((), part.dtype))
        return scatter_sum(found)

    return over_devices(local, mesh, in_specs=(ROWS, BATCH), out_specs=BATCH)(table, index)


def map_rows(
    function: Callable[..., Array], rows: Shaped[Array, " rows *rest"], *others: Array, at_once: int
) -> Shaped[Array, "rows ..."]:
    """Returns `function(rows, *others)`, on each device of its own rows and of no more than `at_once` at a time.

    Args:
      function: treats each row alike. What it closes over has no gradient: that belongs into `others`.
      rows: cut along `ROW_AXES`.
      others: what else the function reads, whole on each device.
      at_once: bounds the memory that the function works in.
    """

    def local(part: Array, *others: Array) -> Array:
        whole = part.shape[0] // at_once * at_once
        if part.shape[0] <= at_once:
            return function(part, *others)
        parts = part[:whole].reshape(-1, at_once, *part.shape[1:])
        done = jax.lax.map(lambda each: function(each, *others), parts)
        done = done.reshape(whole, *done.shape[2:])
        return done if whole == part.shape[0] else jnp.concatenate([done, function(part[whole:], *others)])

    mesh = partitions()
    if mesh is None:
        return local(rows, *others)
    return over_devices(local, mesh, in_specs=(ROWS, *(EVERYWHERE for _ in others)), out_specs=ROWS)(rows, *others)


def pin_batch(rows: Shaped[Array, " batch *rest"]) -> Shaped[Array, " batch *rest"]:
    """Returns the same rows, told to lie along the axes of a batch and whole in all others; one row lies everywhere.

    Left to itself the compiler may rather leave the weights of a layer where they are and cut its activations along
    their contracted dimension, which makes every product a sum over devices of the whole batch.
    """
    mesh = partitions()
    if mesh is None:
        return rows
    along = BATCH_AXES if rows.shape[0] % math.prod(mesh.shape[axis] for axis in BATCH_AXES) == 0 else None
    return jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, PartitionSpec(along)))


def over_devices(function: Callable, mesh: AbstractMesh, *, in_specs: Any, out_specs: Any) -> Callable:
    """Returns a function that runs on each device's own parts; collectives in it are explicit."""
    # Results are equal over axes that no output names, which the checker cannot see through gathers and sums.
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def gather_batch(rows: Array) -> Array:
    """Inside `over_devices`: returns the batch rows of all devices that together hold one copy of the tables."""
    return jax.lax.all_gather(rows, FSDP, tiled=True)


def scatter_sum(rows: Array) -> Array:
    """Inside `over_devices`: sums what every range of rows contributed; each device keeps its own batch rows."""
    return jax.lax.psum_scatter(jax.lax.psum(rows, TENSOR), FSDP, tiled=True)


def own_batch(rows: Array) -> Array:
    """Inside `over_devices`: undoes `gather_batch`, for rows that all devices have made alike."""
    size = rows.shape[0] // jax.lax.axis_size(FSDP)
    return jax.lax.dynamic_slice_in_dim(rows, jax.lax.axis_index(FSDP) * size, size)


def first_row(part: Array) -> Array:
    """Inside `over_devices`: returns the number of the first row that this device holds."""
    return jax.lax.axis_index(ROW_AXES) * part.shape[0]
