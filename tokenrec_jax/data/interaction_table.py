"""From rows (user, item, time, rating, title) to histories: the filters that all raw sources share.

The readers of `interaction_files.py` and `movielens.py` make an `InteractionTable`; `assemble` turns it into
`Interactions` and counts what it leaves out. Read `assemble` first. Files and columns are not known here.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int

from tokenrec_jax.data.interactions import MIN_HISTORY, Interactions, split_attributes
from tokenrec_jax.types import ConfigError, DataError

#: `InteractionTable.time` counts microseconds, `Interactions.timestamps` seconds.
MICROSECONDS = 1_000_000


@dataclasses.dataclass(frozen=True)
class InteractionTable:
    """Rows of a source, in its own order, before any of them is left out.

    Attributes:
      user: original id of the user of each row, no nulls.
      item: original id of its item, no nulls.
      time: microseconds since 1970 of each row, or None: then rows are in the order in which things happened.
      rating: stars of each row, or None.
      title: title of the row's item ("" where unknown), or None.
      attributes: attributes of the row's item as `A|B` ("" for none), or None.
      text: what else is written of the row's item ("" for nothing), or None.
    """

    user: pa.StringArray
    item: pa.StringArray
    time: Int[np.ndarray, " rows"] | None = None
    rating: Float[np.ndarray, " rows"] | None = None
    title: pa.StringArray | None = None
    attributes: pa.StringArray | None = None
    text: pa.StringArray | None = None


def assemble(
    table: InteractionTable, *, name: str, where: str, min_rating: float = 0.0, min_interactions: int = 0
) -> Interactions:
    """Returns the histories of a table.

    In this order: rows rated below `min_rating` go; rows are sorted by time, those of the same time in the
    order of the table; the first row of each (user, item) stays, later ones go; then users with fewer than
    max(3, `min_interactions`) rows and items with fewer than `min_interactions` go, again and again, until
    all that are left have enough. What is left does not depend on the order of removal. Dense ids follow the
    first appearance in the table, also where that row itself is left out.

    Args:
      table: the rows.
      name: name of the data set in results.
      where: file or source to name in errors.
      min_rating: lowest rating to keep, in stars; 0 keeps all.
      min_interactions: k of the k-core; 0 keeps all items, and users with 3 interactions.

    Raises:
      ConfigError: `min_rating` without ratings.
      DataError: no rows, or none is left.
    """
    if min_rating > 0 and table.rating is None:
        raise ConfigError(f"data.min_rating is {min_rating:g} but {where} has no ratings; set data.rating_column or 0")
    num_rows = len(table.user)
    if num_rows == 0:
        raise DataError(f"{where}: holds no interactions; at least {MIN_HISTORY} a user are needed")
    user, user_ids = _encode(table.user)
    item, item_ids = _encode(table.item)
    dropped: dict[str, int] = {}

    rows = np.arange(num_rows)
    if table.rating is not None and min_rating > 0:
        rows = _keep(rows, table.rating >= min_rating, f"rated below {min_rating:g}", dropped)
    if table.time is not None:
        rows = rows[np.argsort(table.time[rows], kind="stable")]
    first = np.zeros(len(rows), bool)
    first[np.unique(user[rows] * len(item_ids) + item[rows], return_index=True)[1]] = True
    rows = _keep(rows, first, "duplicates of an earlier row", dropped)
    user_core = max(MIN_HISTORY, min_interactions)
    left = _core(user[rows], item[rows], min_user=user_core, min_item=min_interactions)
    core_items = f" or items with fewer than {min_interactions}" if min_interactions > 1 else ""
    rows = _keep(rows, left, f"of users with fewer than {user_core} interactions{core_items}", dropped)
    if not len(rows):
        advice = "lower data.min_rating or data.min_interactions" if min_rating or min_interactions else "add some"
        raise DataError(f"{where}: no interactions are left, {describe_dropped(dropped, kept=0)}; {advice}")

    rows = rows[np.argsort(user[rows], kind="stable")]
    users, user_dense = np.unique(user[rows], return_inverse=True)
    items, item_dense = np.unique(item[rows], return_inverse=True)
    titles = attributes = texts = None
    if table.title is not None:
        titles = _text_of_items(table.title, item=item, wanted=items)
    if table.attributes is not None:
        attributes = tuple(map(split_attributes, _text_of_items(table.attributes, item=item, wanted=items)))
    if table.text is not None:
        texts = _text_of_items(table.text, item=item, wanted=items)
    return Interactions(
        name=name,
        indptr=np.append(0, np.cumsum(np.bincount(user_dense))),
        items=item_dense.astype(np.int32),
        user_ids=tuple(user_ids.take(pa.array(users)).to_pylist()),
        item_ids=tuple(item_ids.take(pa.array(items)).to_pylist()),
        timestamps=None if table.time is None else table.time[rows] // MICROSECONDS,
        item_titles=titles,
        item_attributes=attributes,
        item_texts=texts,
        dropped=dropped,
    ).validated()


def describe_dropped(dropped: dict[str, int], *, kept: int) -> str:
    """Returns how many rows were left out and why: `dropped 12 of 99 rows: 10 rated below 4, 2 duplicates`.

    Args:
      dropped: rows by reason.
      kept: rows that stayed.
    """
    total = sum(dropped.values())
    if not total:
        return f"dropped none of {kept} rows"
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    return f"dropped {total} of {total + kept} rows: {reasons}"


def _encode(texts: pa.StringArray) -> tuple[Int[np.ndarray, " rows"], pa.StringArray]:
    """Returns numbers for texts, from 0 in the order of first appearance, and the text of each number."""
    encoded = texts.dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary


def _keep(
    rows: Int[np.ndarray, " rows"], keep: Bool[np.ndarray, " rows"], reason: str, dropped: dict[str, int]
) -> Int[np.ndarray, " left"]:
    """Returns the rows to keep and counts the others under a reason."""
    count = int(len(keep) - np.count_nonzero(keep))
    if count:
        dropped[reason] = count
    return rows[keep]


def _core(
    user: Int[np.ndarray, " rows"], item: Int[np.ndarray, " rows"], *, min_user: int, min_item: int
) -> Bool[np.ndarray, " rows"]:
    """Returns which rows are in the largest set where users and items have the least numbers of rows."""
    keep = np.ones(len(user), bool)
    while True:
        enough = np.bincount(user[keep], minlength=1)[user[keep]] >= min_user
        enough &= np.bincount(item[keep], minlength=1)[item[keep]] >= min_item
        if enough.all():
            return keep
        keep[np.flatnonzero(keep)[~enough]] = False


def _text_of_items(
    texts: pa.StringArray, *, item: Int[np.ndarray, " rows"], wanted: Int[np.ndarray, " items"]
) -> tuple[str, ...]:
    """Returns for each wanted item the text of its first row that has one, "" if none has."""
    filled = np.flatnonzero(pc.call_function("binary_length", [texts]).to_numpy(zero_copy_only=False))
    row_of = np.full(int(item.max()) + 1, -1)
    known, first = np.unique(item[filled], return_index=True)
    row_of[known] = filled[first]
    row = row_of[wanted]
    found = texts.take(pa.array(np.maximum(row, 0))).to_pylist()
    return tuple(text if there else "" for text, there in zip(found, row >= 0, strict=True))
