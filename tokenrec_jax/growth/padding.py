"""Tables of a model in other numbers of rows, or without some. Read `resize_tables`."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from tokenrec_jax.sharding import fetch, path_name, put, state_shardings
from tokenrec_jax.types import PADDING

# Every array of the model with a row a user or an item. Weights of new items count as those of one user's.
_TABLES = re.compile(
    r"/((user|item)_(embedding|vectors|codes)|(item|sent)_residual|item_features|item_text|inverse_sqrt_degree)$"
)
_FILLED_WITH_ONES = "inverse_sqrt_degree"
_FILLED_WITH_PADDING = "item_features"


def resize_tables(trees: tuple[Any, ...], *, rows: Mapping[str, int], keep: Mapping[str, int], mesh: Mesh) -> Any:
    """Returns trees of parameters and buffers whose tables have other numbers of rows; all else is the same arrays.

    Args:
      trees: of arrays on the devices.
      rows: of the tables of each side, "user" and "item".
      keep: rows whose values stay; the others are zero (one where it is a weight).
      mesh: devices.
    """

    def resize(path: tuple, leaf: Any) -> Any:
        name = path_name(path)
        if not _TABLES.search(name):
            return leaf
        side = "user" if "/user_" in name else "item"
        fill = 1 if name.endswith(_FILLED_WITH_ONES) else PADDING if name.endswith(_FILLED_WITH_PADDING) else 0
        table = np.full((rows[side], *leaf.shape[1:]), fill, leaf.dtype)
        kept = min(keep[side], rows[side])
        table[:kept] = fetch(leaf)[:kept]
        return table

    resized = jax.tree_util.tree_map_with_path(resize, trees)
    return jax.tree.map(
        lambda leaf, sharding: put(leaf, sharding) if isinstance(leaf, np.ndarray) else leaf,
        resized,
        state_shardings(resized, mesh),
    )


def without_rows(table: Float[Array, "rows emb"], gone: Bool[Array, " rows"]) -> Float[Array, "rows emb"]:
    """Returns a table, cut over the devices as it is, with zeros in some rows."""
    return jax.jit(_zeroed, out_shardings=table.sharding)(table, gone)


def _zeroed(table: Float[Array, "rows emb"], gone: Bool[Array, " rows"]) -> Float[Array, "rows emb"]:
    return jnp.where(gone[:, None], 0.0, table)
