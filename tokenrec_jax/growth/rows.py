"""What `Recommender.add_interactions` accepts, checked and turned into columns. Read `read_rows`."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from jaxtyping import Float

from tokenrec_jax.types import DataError

_COLUMNS = ("user", "item", "timestamp", "title")
_ALLOWED = "allowed are rows (user, item[, timestamp[, title]]) or columns user, item[, timestamp][, title]"
# Year 5138. Seconds beyond it are milliseconds that someone took for seconds.
_LATEST_SECOND = 100_000_000_000


@dataclasses.dataclass(frozen=True)
class Rows:
    """Interactions by original ids, in the order in which they were handed over.

    Attributes:
      users, items: original ids.
      timestamps: seconds since 1970, NaN where unknown.
      titles: of the items, "" where not given.
    """

    users: list[str]
    items: list[str]
    timestamps: Float[np.ndarray, " rows"]
    titles: list[str]


def read_rows(table: Any) -> Rows:
    """Returns a table as columns.

    Args:
      table: a sequence of (user, item), (user, item, timestamp) or (user, item, timestamp, title), or a mapping of
        such columns (a dict of lists or arrays, a data frame). Ids are text or whole numbers; a timestamp is None or
        seconds since 1970, whose fraction does not count; a title is None or text.

    Raises:
      DataError: it is something else; names the first row that is.
    """
    columns = _from_columns(table) if hasattr(table, "keys") else _from_rows(table)
    users, items, timestamps, titles = columns
    return Rows(
        users=[read_id(value, f"row {row}: user") for row, value in enumerate(users)],
        items=[read_id(value, f"row {row}: item") for row, value in enumerate(items)],
        timestamps=np.array([_timestamp(value, row) for row, value in enumerate(timestamps)], np.float64),
        titles=[_text(value, row, name="title") for row, value in enumerate(titles)],
    )


@dataclasses.dataclass(frozen=True)
class Items:
    """Items by original ids and what is known of them.

    Attributes:
      items: original ids.
      titles: "" where not given.
      attributes: categorical values, in the words of the run's data; empty where not given.
      texts: what else is written of them, "" where not given.
    """

    items: list[str]
    titles: list[str]
    attributes: list[tuple[str, ...]]
    texts: list[str]


def read_items(
    items: Sequence[Any],
    *,
    titles: Iterable[Any] | None = None,
    attributes: Iterable[Any] | None = None,
    texts: Iterable[Any] | None = None,
) -> Items:
    """Returns the arguments of `Recommender.add_items` as columns.

    Raises:
      DataError: an id, a title, a value or a text is not what it should be, or the columns differ in length.
    """
    names = read_ids(items, "items", each="item")
    given = {"titles": titles, "attributes": attributes, "texts": texts}
    columns = {name: [None] * len(names) if column is None else _column(column, name) for name, column in given.items()}
    lengths = {"items": len(names)} | {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"items: columns have lengths {lengths}; allowed is one length for all")
    return Items(
        items=names,
        titles=[_text(value, row, name="title") for row, value in enumerate(columns["titles"])],
        attributes=[_attributes(values, row) for row, values in enumerate(columns["attributes"])],
        texts=[_text(value, row, name="text") for row, value in enumerate(columns["texts"])],
    )


def read_id(value: Any, where: str) -> str:
    """Returns an original id as text.

    Raises:
      DataError: it is neither text nor a whole number, or empty; begins with `where`.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise DataError(f"{where} is {value!r}; ids are text or whole numbers, and not empty")
    return value


def read_ids(values: Iterable[Any], what: str, *, each: str) -> list[str]:
    """Returns several original ids as text.

    Args:
      values: the ids.
      what: to name in errors about all of them.
      each: to name in errors about one of them.

    Raises:
      DataError: there is one id in place of several, or one is none.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise DataError(f"{what} is {values!r}; allowed is a list of ids")
    return [read_id(value, each) for value in values]


def _column(values: Any, name: str) -> list[Any]:
    column = _listed(values)
    if column is None:
        raise DataError(f"items: {name} is {values!r}; allowed is a list with one for each item")
    return column


def _listed(values: Any) -> list[Any] | None:
    # Text falls into letters, and of a mapping or a set only names or no order would be left.
    if isinstance(values, str | bytes | Mapping | Set) or not isinstance(values, Iterable):
        return None
    return list(values)


def _from_columns(table: Mapping[str, Any]) -> list[Sequence[Any]]:
    names = [str(name) for name in table.keys()]  # noqa: SIM118 (a data frame iterates over its columns otherwise)
    if not {"user", "item"} <= set(names) <= set(_COLUMNS):
        raise DataError(f"interactions: columns are {names}; {_ALLOWED}")
    given = {name: list(table[name]) for name in names}
    lengths = {name: len(values) for name, values in given.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"interactions: columns have lengths {lengths}; allowed is one length for all")
    return [given.get(name, [None] * lengths["user"]) for name in _COLUMNS]


def _from_rows(table: Any) -> list[Sequence[Any]]:
    try:
        rows = [tuple(_listed(row) or ()) for row in table]
    except TypeError:
        raise DataError(f"interactions: got a {type(table).__name__}; {_ALLOWED}") from None
    for number, row in enumerate(rows):
        if not 2 <= len(row) <= len(_COLUMNS):
            raise DataError(f"row {number}: has {len(row)} values; {_ALLOWED}")
    filled = [row + (None,) * (len(_COLUMNS) - len(row)) for row in rows]
    return [list(column) for column in zip(*filled, strict=True)] or [[] for _ in _COLUMNS]


def _timestamp(value: Any, row: int) -> float:
    if value is None:
        return math.nan
    allowed = f"allowed are seconds since 1970 up to {_LATEST_SECOND}, or None"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"row {row}: timestamp is {value!r}; {allowed}")
    if math.isnan(value):
        return math.nan
    if not 0 <= value <= _LATEST_SECOND:
        raise DataError(f"row {row}: timestamp is {value!r}; {allowed}")
    return float(math.floor(value))


def _attributes(values: Any, row: int) -> tuple[str, ...]:
    if values is None or (isinstance(values, float) and math.isnan(values)):
        return ()
    given = _listed(values)
    if given is None or not all(isinstance(value, str) for value in given):
        raise DataError(f"row {row}: attributes are {values!r}; allowed are lists of texts")
    # An item has a value or has it not.
    return tuple(dict.fromkeys(given))


def _text(value: Any, row: int, *, name: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str):
        raise DataError(f"row {row}: {name} is {value!r}; {name}s are text")
    return value
