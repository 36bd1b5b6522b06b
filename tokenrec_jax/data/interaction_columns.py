"""What the columns of an own interaction file may hold, and their conversion, with the place of a bad value.

Ids are text or whole numbers. Ratings are numbers. A time is seconds since 1970 or an ISO date such as
2024-05-01T12:00:00 (UTC unless it has an offset), one kind in the whole column; Parquet may hold dates and
timestamps as such. Formats of files are in `interaction_files.py`. Read `Rows` first, then `read_times`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from tokenrec_jax.data.interaction_table import MICROSECONDS
from tokenrec_jax.data.interactions import split_attributes
from tokenrec_jax.types import DataError

# Year 5138. Seconds beyond it are milliseconds that someone took for seconds.
_LATEST_SECOND = 100_000_000_000
_TIME_TYPES = (
    pa.int64(),
    pa.float64(),
    pa.timestamp("us"),
    pa.timestamp("us", "UTC"),
    pa.timestamp("ns"),
    pa.timestamp("ns", "UTC"),
)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Columns of a file.

    Attributes:
      columns: one chunk of values for each column that the config names.
      where: tells the place of a row, counted from 0, as `path:line` or `path: row n`.
    """

    columns: dict[str, pa.Array]
    where: Callable[[int], str]


def read_ids(rows: Rows, name: str) -> pa.StringArray:
    """Returns ids as text. Whole numbers that a library stored as floating point lose their `.0`."""
    values = rows.columns[name]
    _refuse_missing(rows, name)
    if pa.types.is_floating(values.type):
        _refuse_rounded(rows, name)
        values = _cast_or_refuse(rows, name, values, (pa.int64(),), "ids are text or whole numbers")
    try:
        return values.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(f"{rows.where(0)}: {name} is {values.type}; ids are text or whole numbers") from None


def read_titles(rows: Rows, name: str) -> pa.StringArray:
    """Returns titles, "" where there is none."""
    values = rows.columns[name]
    if pa.types.is_null(values.type):
        values = values.cast(pa.string())
    if not pa.types.is_string(values.type):
        raise DataError(f"{rows.where(0)}: {name} is {values.type}; titles are text")
    return values.fill_null("")


def read_features(rows: Rows, names: Sequence[str]) -> pa.StringArray:
    """Returns the categorical values of several columns as `name=A|name=B`; a column may hold many, as `A|B`.

    Numbers and truth values count as the text that they are written as.
    """
    parts = []
    for name in names:
        values = rows.columns[name]
        if pa.types.is_nested(values.type):
            raise DataError(f"{rows.where(0)}: {name} is {values.type}; values are text, several as `A|B`")
        if pa.types.is_floating(values.type):
            # Some libraries write it for what is missing.
            missing = pc.call_function("is_nan", [values])
            values = pc.call_function("if_else", [missing, pa.scalar(None, values.type), values])
        encoded = values.cast(pa.string()).fill_null("").dictionary_encode()
        named = ["|".join(f"{name}={one}" for one in split_attributes(text)) for text in encoded.dictionary.to_pylist()]
        parts.append(pa.array(named, pa.string()).take(encoded.indices))
    return pc.call_function("binary_join_element_wise", [*parts, pa.scalar("|")])


def read_ratings(rows: Rows, name: str) -> Float[np.ndarray, " rows"]:
    """Returns ratings as numbers."""
    allowed = "ratings are numbers"
    _refuse_missing(rows, name)
    values = _cast_or_refuse(rows, name, rows.columns[name], (pa.float64(),), allowed)
    ratings = values.to_numpy(zero_copy_only=False)
    if not np.isfinite(ratings).all():
        row = int(np.argmin(np.isfinite(ratings)))
        raise DataError(f"{rows.where(row)}: {name} {ratings[row]}; {allowed}")
    return ratings


def read_times(rows: Rows, name: str) -> Int[np.ndarray, " rows"]:
    """Returns times in microseconds since 1970."""
    allowed = "allowed are seconds since 1970 or ISO dates such as 2024-05-01T12:00:00, one kind a column"
    _refuse_missing(rows, name)
    values = rows.columns[name]
    if pa.types.is_string(values.type):
        values = _cast_or_refuse(rows, name, values, _TIME_TYPES, allowed)
    if pa.types.is_temporal(values.type):
        unit = pa.timestamp("us", getattr(values.type, "tz", None))
        values = _cast_or_refuse(rows, name, values, (unit,), allowed, safe=False)
        return values.cast(pa.int64()).to_numpy(zero_copy_only=False)
    if not pa.types.is_integer(values.type):
        values = _cast_or_refuse(rows, name, values, (pa.float64(),), allowed)
    seconds = values.to_numpy(zero_copy_only=False)
    fits = np.isfinite(seconds) & (seconds >= -_LATEST_SECOND) & (seconds <= _LATEST_SECOND)
    if not fits.all():
        row = int(np.argmin(fits))
        raise DataError(f"{rows.where(row)}: {name} {seconds[row]} is out of range (milliseconds?); {allowed}")
    if np.issubdtype(seconds.dtype, np.floating):
        return np.round(seconds.astype(np.float64) * MICROSECONDS).astype(np.int64)
    return seconds.astype(np.int64) * MICROSECONDS


def _refuse_missing(rows: Rows, name: str) -> None:
    """Raises a DataError if a row has no value."""
    values = rows.columns[name]
    missing = values.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    if pa.types.is_string(values.type):
        lengths = pc.call_function("binary_length", [values.fill_null("")])
        missing = lengths.to_numpy(zero_copy_only=False) == 0
    if missing.any():
        raise DataError(f"{rows.where(int(np.argmax(missing)))}: {name} is missing; every row needs one")


def _refuse_rounded(rows: Rows, name: str) -> None:
    """Raises a DataError if a floating-point number is so large that neighbouring whole numbers became the same."""
    values = rows.columns[name].to_numpy(zero_copy_only=False)
    exact = 2 ** (np.finfo(values.dtype).nmant + 1)
    if not (fits := ~(np.abs(values) >= exact)).all():
        row = int(np.argmin(fits))
        raise DataError(
            f"{rows.where(row)}: {name} {values[row]:.0f} was read as a {values.dtype} number, which holds whole "
            f"numbers exactly below {exact} only; write ids as text"
        )


def _cast_or_refuse(
    rows: Rows, name: str, values: pa.Array, types: Sequence[pa.DataType], allowed: str, *, safe: bool = True
) -> pa.Array:
    """Returns the values in the first type that takes all of them.

    Raises:
      DataError: none does; names the row where the type that got furthest fails.
    """
    furthest = 0
    for target in types:
        try:
            return values.cast(target, safe=safe)
        except pa.ArrowNotImplementedError:
            raise DataError(f"{rows.where(0)}: {name} is {values.type}; {allowed}") from None
        except pa.ArrowInvalid:
            furthest = max(furthest, _first_failing(values, target, safe=safe))
    raise DataError(f"{rows.where(furthest)}: {name} {values[furthest].as_py()!r} cannot be read; {allowed}")


def _first_failing(values: pa.Array, target: pa.DataType, *, safe: bool) -> int:
    """Returns the row of the first value that does not cast, by bisection on how much of the start casts."""
    good, bad = 0, len(values)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            values[good:middle].cast(target, safe=safe)
            good = middle
        except pa.ArrowInvalid:
            bad = middle
    return good


def one_line(error: Exception) -> str:
    """Returns the text of an error without line ends, cut to a readable length."""
    return " ".join(str(error).split())[:200]
