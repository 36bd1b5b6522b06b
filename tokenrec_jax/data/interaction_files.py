"""Reader of a user's own interaction file: CSV, TSV, JSON lines or Parquet, one row an interaction.

pyarrow reads whole columns at once; only when something is wrong are the lines walked one by one, to name the
line. What a column may hold is told in `interaction_columns.py`, filters and dense ids in
`interaction_table.py`. Read `read_interaction_file` first.

CSV quotes with `"`, and a quoted value may hold line ends; TSV has no quotes. Text files are UTF-8. Blanks
around a value are not part of it.
"""

import csv
import json
import pathlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from absl import logging

from tokenrec_jax.config import DataConfig
from tokenrec_jax.data.files import require_file, require_utf8
from tokenrec_jax.data.interaction_columns import (
    Rows,
    one_line,
    read_features,
    read_ids,
    read_ratings,
    read_times,
    read_titles,
)
from tokenrec_jax.data.interaction_table import InteractionTable
from tokenrec_jax.types import ConfigError, DataError

#: Characters of a field of a CSV file.
_LONGEST = (1 << 31) - 1

ADVICE = "an interactions file (.csv, .tsv, .jsonl or .parquet) is due in data.path"


def read_interaction_file(path: pathlib.Path, *, config: DataConfig) -> InteractionTable:
    """Reads the columns that the config names.

    Args:
      path: the file; its ending tells the format: .csv, .tsv, .jsonl (or .ndjson), .parquet.
      config: for the names of the columns.

    Raises:
      ConfigError: two columns of the config have the same name.
      DataError: the file is missing, of another format, broken, or lacks a column or a value.
    """
    require_file(path, advice=ADVICE)
    readers = {
        ".csv": lambda: _read_delimited(path, names, delimiter=","),
        ".tsv": lambda: _read_delimited(path, names, delimiter="\t"),
        ".jsonl": lambda: _read_json_lines(path, names),
        ".ndjson": lambda: _read_json_lines(path, names),
        ".parquet": lambda: _read_parquet(path, names),
    }
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: unknown ending {path.suffix!r}; allowed are {', '.join(readers)}")
    named = [config.user_column, config.item_column]
    named += [config.timestamp_column, config.rating_column, config.title_column]
    named += [*config.feature_columns, *config.text_columns]
    names = [name for name in named if name]
    if not (config.user_column and config.item_column) or len(set(names)) < len(names):
        raise ConfigError(f"columns {names} of the config; user_column and item_column are due, and names must differ")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty; {ADVICE}")
    try:
        return _table(readers[path.suffix.lower()](), config)
    except pa.ArrowException as error:
        raise DataError(f"{path}: {one_line(error)}; {ADVICE}") from None


def _table(rows: Rows, config: DataConfig) -> InteractionTable:
    return InteractionTable(
        user=read_ids(rows, config.user_column),
        item=read_ids(rows, config.item_column),
        time=read_times(rows, config.timestamp_column) if config.timestamp_column else None,
        rating=read_ratings(rows, config.rating_column) if config.rating_column else None,
        title=read_titles(rows, config.title_column) if config.title_column else None,
        attributes=read_features(rows, config.feature_columns) if config.feature_columns else None,
        text=_joined([read_titles(rows, name) for name in config.text_columns]) if config.text_columns else None,
    )


def _joined(columns: list[pa.StringArray]) -> pa.StringArray:
    """Returns the texts of each row one after another."""
    text = pc.call_function("binary_join_element_wise", [*columns, pa.scalar(". ")])
    return pc.call_function("utf8_trim", [text], pc.TrimOptions(characters=". "))


def _read_delimited(path: pathlib.Path, names: list[str], *, delimiter: str) -> Rows:
    """Reads CSV or TSV; every value is text."""
    require_utf8(path)
    quote = '"' if delimiter == "," else False
    records = _CsvRecords(path, delimiter=delimiter)
    header, line = records.header()
    _require_columns(names, header, f"{path}:{line}")
    if twice := [name for name in names if header.count(name) > 1]:
        raise DataError(f"{path}:{line}: two columns have the same name {twice[0]!r}; names must differ")
    try:
        table = pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, quote_char=quote, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=names,
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(records.complaint(len(header), error)) from None
    if quote and table.num_rows + 1 != records.count_lines():
        records.require_closed_quotes()
    return Rows(_columns(path, table), lambda row: f"{path}:{records.line_of(row)}")


class _CsvRecords:
    """Records of a delimited text with the line each begins at; walked for the header and for errors only."""

    def __init__(self, path: pathlib.Path, *, delimiter: str):
        self._path = path
        self._delimiter = delimiter

    def __iter__(self):
        return self._walk(strict=False)

    def _walk(self, *, strict: bool) -> Iterator[tuple[int, list[str]]]:
        with self._path.open(encoding="utf-8-sig", newline="") as file:
            quoting = csv.QUOTE_NONE if self._delimiter == "\t" else csv.QUOTE_MINIMAL
            # Else a long text is an error here, though not for pyarrow.
            csv.field_size_limit(_LONGEST)
            reader = csv.reader(file, delimiter=self._delimiter, quoting=quoting, strict=strict)
            line = 1
            try:
                for fields in reader:
                    if fields:  # An empty line is no record, for pyarrow neither.
                        yield line, fields
                    line = reader.line_num + 1
            except csv.Error as error:
                raise DataError(
                    f"{self._path}:{line}: {error}; a table with one header line is due, a value that begins with a "
                    "quote must end with one, quotes within it doubled"
                ) from None

    def header(self) -> tuple[list[str], int]:
        """Returns the names of the columns and their line."""
        for line, fields in self:
            return fields, line
        raise DataError(f"{self._path}: is empty; a header line with the names of the columns is due")

    def line_of(self, row: int) -> int:
        """Returns the line that a row begins at, rows counted from 0 below the header."""
        return next(line for number, (line, _) in enumerate(self) if number == row + 1)

    def count_lines(self) -> int:
        """Returns how many lines are not empty."""
        with self._path.open("rb") as file:
            return sum(1 for line in file if line.strip(b"\r\n"))

    def require_closed_quotes(self) -> None:
        """Raises a DataError that names the line of the first record with a quote that ends elsewhere than its value.

        Such a value takes in the lines below it, up to the next quote.
        """
        for _ in self._walk(strict=True):
            pass

    def complaint(self, num_columns: int, error: Exception) -> str:
        """Returns what is wrong with a text that pyarrow refused."""
        for line, fields in self:
            if len(fields) != num_columns:
                return f"{self._path}:{line}: {len(fields)} fields; the header has {num_columns}"
        return f"{self._path}: {one_line(error)}; a table with one header line is due"


def _read_json_lines(path: pathlib.Path, names: list[str]) -> Rows:
    """Reads one JSON object a line; empty lines are skipped."""
    require_utf8(path)
    try:
        table = pyarrow.json.read_json(path)
        # pyarrow takes text that looks like a date for one, which would change ids and titles.
        dates = [(field.name, pa.string()) for field in table.schema if pa.types.is_temporal(field.type)]
        if dates:
            options = pyarrow.json.ParseOptions(explicit_schema=pa.schema(dates))
            table = pyarrow.json.read_json(path, parse_options=options)
    except pa.ArrowInvalid as error:
        if complaint := _json_complaint(path, names):
            raise DataError(complaint) from None
        logging.info("%s: %s; columns that nobody has named are left out", path, one_line(error))
        table = _read_named_json(path, names)
    if not table.num_rows:
        raise DataError(f"{path}: is empty; one JSON object a line is due")
    _require_columns(names, table.column_names, f"{path}:1")

    def where(row: int) -> str:
        with path.open(encoding="utf-8-sig") as file:
            filled = (line for line, text in enumerate(file, start=1) if text.strip())
            line = next((line for number, line in enumerate(filled) if number == row), None)
        # Several objects may share a line.
        return f"{path}: row {row + 1}" if line is None else f"{path}:{line}"

    return Rows(_columns(path, table.select(names)), where)


def _read_named_json(path: pathlib.Path, names: list[str]) -> pa.Table:
    """Reads the named columns of JSON lines, whatever the others hold, slowly."""
    with path.open(encoding="utf-8-sig") as file:
        rows = [json.loads(text) for text in file if text.strip()]
    columns = {}
    for name in (name for name in names if any(name in row for row in rows)):
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (UnicodeError, OverflowError, pa.ArrowException) as error:
            raise DataError(f"{path}: {name}: {one_line(error)}; text and numbers of one type are due") from None
    return pa.table(columns)


def _json_complaint(path: pathlib.Path, names: list[str]) -> str:
    """Returns what is wrong with JSON lines that pyarrow refused, "" if nothing is in the named columns.

    That is the first line unlike those before.
    """
    kinds: dict[str, type] = {}
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                value = json.loads(text)
            except ValueError as bad:
                return f"{path}:{line}: no JSON object ({bad}); one object a line is due"
            if not isinstance(value, dict):
                return f"{path}:{line}: {type(value).__name__} instead of an object; one object a line is due"
            for name in names:
                found = value.get(name)
                kind = float if isinstance(found, int | float) else type(found)
                if found is not None and kinds.setdefault(name, kind) is not kind:
                    return f"{path}:{line}: {name} {found!r} is of another type than above; one type is due"
    return ""


def _read_parquet(path: pathlib.Path, names: list[str]) -> Rows:
    """Reads the named columns of a Parquet file."""
    try:
        _require_columns(names, pyarrow.parquet.read_schema(path).names, str(path))
        table = pyarrow.parquet.read_table(path, columns=names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file ({one_line(error)}); write it with a Parquet library") from None
    return Rows(_columns(path, table), lambda row: f"{path}: row {row + 1}")


def _columns(path: pathlib.Path, table: pa.Table) -> dict[str, pa.Array]:
    """Returns each column in one chunk, categories replaced by values, text without blanks around it."""
    columns = {}
    for name in table.column_names:
        try:
            column = table[name].combine_chunks()
        except pa.ArrowInvalid as error:
            # A column of text has 2 GiB at most.
            raise DataError(f"{path}: column {name!r}: {one_line(error)[:80]}; shorten it or leave it out") from None
        if isinstance(column, pa.ChunkedArray):  # What an empty column becomes.
            column = pa.array([], column.type)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = pc.call_function("utf8_trim_whitespace", [column]).cast(pa.string())
        columns[name] = column
    return columns


def _require_columns(names: list[str], header: Sequence[str], where: str) -> None:
    """Raises a DataError if a column is not there."""
    for name in names:
        if name not in header:
            listed = ", ".join(repr(column[:40]) for column in header[:20])
            raise DataError(f"{where}: no column {name!r}; columns are {listed}: set data.*_column to one of them")
