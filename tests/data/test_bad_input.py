"""Broken input: every failure is one line that names the place, and leaves nothing in the cache."""

import contextlib
import datetime
import io
import pathlib
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from experiments import cli
from tests.data.helpers import unfinished, write_layout
from tokenrec_jax.config import DataConfig
from tokenrec_jax.data.sources import load_interactions
from tokenrec_jax.types import DataError


def refusal(config: DataConfig, cache: pathlib.Path) -> str:
    """Returns the message with which a source is refused, after checking status, form and the cache."""
    config.cache_dir = str(cache)
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        status = cli.guarded(lambda: load_interactions(config) and None)
    assert status == 1
    text = printed.getvalue()
    assert text.startswith("error: ") and text.count("\n") == 1, text
    assert unfinished(cache) == []
    return text.removeprefix("error: ").removesuffix("\n")


# --- the reference layout -------------------------------------------------------------------------

LISTED = "org_id remap_id\n"


@pytest.mark.parametrize(
    ("files", "place", "message"),
    [
        ({"test": ""}, "test.txt", "is empty"),
        ({"test": "0 0 1 2\n1 -1 3 4\n"}, "test.txt:2", "'-1' is no id; ids are integers from 0"),
        ({"test": "0 0 1 2\n\n1 1.5 3 4\n"}, "test.txt:3", "'1.5' is no id"),
        ({"test": "0 0 1 2\n1 x3 3 4\n"}, "test.txt:2", "'x3' is no id"),
        ({"test": "0 0 1 2\n1 3\xff 3 4\n"}, "test.txt:2", "not UTF-8"),
        ({"test": "0 0 1 2\n1 99999999999999999999 3 4\n"}, "test.txt:2", "is too large"),
        ({"test": "0 0 1 2\n1 3 4 6\n"}, "test.txt:2", "item 6 is not in item_list.txt, which has 6 items"),
        ({"test": "0 0 1 2\n4 3 4 5\n"}, "test.txt:2", "user 4 is not in user_list.txt, which has 4 users"),
        ({"test": "0 0 1 2\n1 3 4\n2 1 2 3\n"}, "test.txt:2", "user 1 has too few items; at least 3"),
        ({"test": "0 0 1 2\n1\n"}, "test.txt:2", "user 1 has too few items"),
        ({"test": "0 0 1 2\n1 3 4 5\n0 3 4 5\n"}, "test.txt:3", "user 0 has a second line"),
        ({"test": "0 0 1 2\n1 3 4 3\n"}, "test.txt:2", "item 3 is in this history twice"),
        ({"test": "0 0 1 2\n1 3 4 5\n2 0 1 2\n3 0 1 2"}, "test.txt:4", "the last line has no line end"),
        ({"test": "0 0 1 2\n1 3 4 5\n3 0 1 2\n"}, "test.txt", "user 2 of user_list.txt has no line"),
        ({"user_list": "u0 0\nu1 1\n"}, "user_list.txt:1", "the header is missing"),
        ({"user_list": ""}, "user_list.txt:1", "the header is missing"),
        ({"user_list": LISTED}, "user_list.txt", "lists no users"),
        ({"item_list": LISTED + "a 0\nb\n"}, "item_list.txt:3", "'b' is not a pair"),
        ({"item_list": LISTED + "a 0\nb 2\n"}, "item_list.txt:3", "dense id '2'; allowed are 0 to 1"),
        ({"item_list": LISTED + "a 0\nb -1\n"}, "item_list.txt:3", "dense id '-1'"),
        ({"item_list": LISTED + "a 0\nb 0\n"}, "item_list.txt:3", "repeats an id"),
        ({"item_list": LISTED + "a 0\na 1\n"}, "item_list.txt:3", "repeats an id"),
        ({"item_list": LISTED + "a 0\n\xe9 1\n"}, "item_list.txt:3", "not UTF-8"),
    ],
)
def test_reference_layout_refuses(tmp_path, files, place, message):
    folder = write_layout(tmp_path / "Tiny", **files)
    text = refusal(DataConfig(source="tokenrec", path=str(folder)), tmp_path / "cache")
    assert text.startswith(f"{folder}/{place}: ")
    assert message in text


@pytest.mark.parametrize("missing", ["test.txt", "user_list.txt", "item_list.txt"])
def test_reference_layout_needs_its_files(tmp_path, missing):
    folder = write_layout(tmp_path / "Tiny")
    (folder / missing).unlink()
    text = refusal(DataConfig(source="tokenrec", path=str(folder)), tmp_path / "cache")
    assert text.startswith(f"{folder / missing}: no such file; a folder with test.txt")


@pytest.mark.parametrize(
    ("name", "content", "place", "message"),
    [
        ("item_titles.tsv", "0\tB000\tHeat\tDrama\n1\tB001\tUp\n", 2, "3 fields"),
        ("item_titles.tsv", "0\tB001\tHeat\tDrama\n", 1, "item '0', 'B001' is not in item_list.txt"),
        ("item_titles.tsv", "6\tB006\tHeat\tDrama\n", 1, "is not in item_list.txt"),
        ("item_attributes.tsv", "B006\tA\nB007\tA\n", None, "none of its items is in item_list.txt"),
        ("item_attributes.tsv", "B000\n", 1, "1 fields"),
    ],
)
def test_item_texts_refuse(tmp_path, name, content, place, message):
    folder = write_layout(tmp_path / "Tiny")
    (folder / name).write_text(content, "utf-8")
    text = refusal(DataConfig(source="tokenrec", path=str(folder)), tmp_path / "cache")
    assert text.startswith(f"{folder / name}:{place}: " if place else f"{folder / name}: ")
    assert message in text


# --- own text files -------------------------------------------------------------------------------

GOOD = "u,a,1,5\nu,b,2,5\nu,c,3,5\n"
HEADER = "user,item,time,stars\n"


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("", None, "is empty; an interactions file"),
        ("\n\n", None, "is empty; a header line"),
        (HEADER, None, "holds no interactions"),
        ("who,item,time,stars\n" + GOOD, 1, "no column 'user'; columns are 'who', 'item', 'time', 'stars'"),
        ("\nuser,what,time,stars\n" + GOOD, 2, "no column 'item'"),
        ("user,item,time,stars,time\nu,a,1,5,1\n", 1, "two columns have the same name 'time'"),
        ('user,item,time,stars,name\nu,a,1,5,x\nu,b,2,5,"Hello, wo\nu,c,3,5,x\nv,a,1,5,x\n', 3, "unexpected end"),
        ('user,item,time,stars,name\nu,a,1,5,x\nu,b,2,5,"odd\nu,c,3,5,x\nu,d,4,5,"y"\n', 3, "must end with one"),
        (HEADER + GOOD + "u,d,4\n", 5, "3 fields; the header has 4"),
        (HEADER + GOOD + "\n\nu,d,4,5,6\n", 7, "5 fields; the header has 4"),
        (HEADER + GOOD + 'u,"d,4,5\nu,e,5,5\n', 5, "fields; the header has 4"),
        (HEADER + f"u,{'a' * 140_000},1,5\nu,d,4\n", 3, "3 fields; the header has 4"),
        ('"' + HEADER + "u,a,1,5\n" * 20_000, 1, "no column 'user'; columns are 'user,item,time,stars"),
        (HEADER + GOOD + "u,,4,5\n", 5, "item is missing"),
        (HEADER + GOOD + " ,d,4,5\n", 5, "user is missing"),
        (HEADER + GOOD + "u,d,,5\n", 5, "time is missing"),
        (HEADER + GOOD + "u,d,4,\n", 5, "stars is missing"),
        (HEADER + GOOD + "u,d,yesterday,5\n", 5, "time 'yesterday' cannot be read; allowed are seconds"),
        (HEADER + '"u\nv",a,1,5\n\nu,b,2,5\nu,c,soon,5\n', 6, "time 'soon' cannot be read"),
        (HEADER + GOOD + "u,d,2024-01-01,5\n", 5, "time '2024-01-01' cannot be read; .*one kind a column"),
        (HEADER + "u,a,2024-01-01,5\nu,b,2024-13-01,5\n", 3, "time '2024-13-01' cannot be read"),
        (
            HEADER + GOOD + "u,d,1700000000000,5\n",
            5,
            r"time 1700000000000 is out of range \(milliseconds\?\)",
        ),
        (HEADER + GOOD + "u,d,nan,5\n", 5, "time nan is out of range"),
        (HEADER + GOOD + "u,d,4,good\n", 5, "stars 'good' cannot be read; ratings are numbers"),
        (HEADER + GOOD + "u,d,4,inf\n", 5, "stars inf; ratings are numbers"),
        (HEADER + GOOD + "u,\xff,4,5\n", 5, "not UTF-8; save the file as UTF-8"),
        (
            HEADER + "u,a,1,5\nu,a,2,5\nu,b,2,5\nv,a,1,5\n",
            None,
            "no interactions are left, dropped 4 of 4 rows: 1 dup",
        ),
    ],
)
def test_csv_refuses(tmp_path, content, line, message):
    path = tmp_path / "shop.csv"
    path.write_bytes(content.encode("latin-1"))
    config = DataConfig(source="interactions", path=str(path), timestamp_column="time", rating_column="stars")
    text = refusal(config, tmp_path / "cache")
    assert text.startswith(f"{path}: " if line is None else f"{path}:{line}: ")
    assert re.search(message, text), text


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("\n", None, "is empty; one JSON object a line"),
        ('{"user": 1, "item": 2}\n\n{"user": 1,\n', 3, "no JSON object"),
        ('{"user": 1, "item": 2}\n[1, 2]\n', 2, "list instead of an object"),
        ('{"user": 1, "item": 2}\n\n{"user": "1", "item": 2}\n', 3, "user '1' is of another type than above"),
        ('{"user": 1, "item": 2}\n\n{"user": 1}\n', 3, "item is missing"),
        ('{"user": 1}\n', 1, "no column 'item'; columns are 'user'"),
        ('{"user": 1.5, "item": 2}\n', 1, "user 1.5 cannot be read; ids are text or whole numbers"),
        ('{"user": 1, "item": 2.0}\n{"user": 2, "item": 9007199254740993}\n', 2, "item 9007199254740992 was read as a"),
        ('{"user": 9223372036854775808, "item": 2}\n', 1, "below 9007199254740992 only; write ids as text"),
        ('{"user": [1], "item": 2}\n', 1, "user is list<item: int64>; ids are text or whole numbers"),
        ('{"user": 1, "item": 2}\n{"user": 1, "item": "\xff"}\n', 2, "not UTF-8"),
    ],
)
def test_json_lines_refuse(tmp_path, content, line, message):
    path = tmp_path / "shop.jsonl"
    path.write_bytes(content.encode("latin-1"))
    text = refusal(DataConfig(source="interactions", path=str(path)), tmp_path / "cache")
    assert text.startswith(f"{path}: " if line is None else f"{path}:{line}: ")
    assert message in text


@pytest.mark.parametrize(
    ("columns", "place", "message"),
    [
        ({"user": [1]}, "", "no column 'item'"),
        ({"user": [1, 2], "item": ["a", None], "time": [1, 2]}, " row 2:", "item is missing"),
        ({"user": np.float32([5, 1 << 24]), "item": ["a", "b"], "time": [1, 2]}, " row 2:", "read as a float32 number"),
        ({"user": [1, 2], "item": ["a", "b"], "time": [1.0, np.inf]}, " row 2:", "time inf is out of range"),
        (
            {"user": [1], "item": ["a"], "time": [datetime.timedelta(1)]},
            " row 1:",
            "time is duration[us]; allowed are seconds",
        ),
    ],
)
def test_parquet_refuses(tmp_path, columns, place, message):
    path = tmp_path / "shop.parquet"
    pyarrow.parquet.write_table(pa.table(columns), path)
    config = DataConfig(source="interactions", path=str(path), timestamp_column="time")
    text = refusal(config, tmp_path / "cache")
    assert text.startswith(f"{path}:{place}")
    assert message in text


def test_a_parquet_file_whose_values_are_no_text_is_refused(tmp_path):
    path = tmp_path / "shop.parquet"
    brand = pa.array([b"\xff", b"a", b"b"], pa.binary())
    pyarrow.parquet.write_table(pa.table({"user": ["u"] * 3, "item": ["a", "b", "c"], "brand": brand}), path)
    config = DataConfig(source="interactions", path=str(path), feature_columns=("brand",))
    assert "UTF8" in refusal(config, tmp_path / "cache")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "shop.xlsx").write_text("user,item\n")
    config = DataConfig(source="interactions", path=str(tmp_path / "shop.xlsx"))
    assert "unknown ending '.xlsx'; allowed are .csv, .tsv, .jsonl" in refusal(config, tmp_path / "cache")
    (tmp_path / "shop.parquet").write_text("user,item\n")
    config = DataConfig(source="interactions", path=str(tmp_path / "shop.parquet"))
    assert "not a Parquet file" in refusal(config, tmp_path / "cache")
    config = DataConfig(source="interactions", path=str(tmp_path / "absent.csv"))
    assert "absent.csv: no such file; an interactions file" in refusal(config, tmp_path / "cache")
    config = DataConfig(source="interactions", path=str(tmp_path))
    assert "is not a file; an interactions file" in refusal(config, tmp_path / "cache")


def test_options_that_do_not_fit_the_file_are_refused(tmp_path):
    (tmp_path / "shop.csv").write_text("user,item\nu,a\nu,b\nu,c\n")
    config = DataConfig(source="interactions", path=str(tmp_path / "shop.csv"), min_rating=4.0)
    assert "has no ratings; set data.rating_column" in refusal(config, tmp_path / "cache")
    config = DataConfig(source="interactions", path=str(tmp_path / "shop.csv"), item_column="user")
    assert "names must differ" in refusal(config, tmp_path / "cache")
    config = DataConfig(source="interactions", path=str(tmp_path / "shop.csv"), min_interactions=4)
    assert "lower data.min_rating or data.min_interactions" in refusal(config, tmp_path / "cache")


def test_the_line_of_bad_utf8_is_found_behind_a_split_character(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenrec_jax.data.files._BLOCK", 4)
    path = tmp_path / "shop.csv"
    # The two bytes of the accented letter lie in two blocks, and so does what follows.
    path.write_bytes("abc\u00e9\n\n\u00e9\n".encode() + b"\xc3\n")
    with pytest.raises(DataError, match=r"shop.csv:4: not UTF-8"):
        load_interactions(DataConfig(source="interactions", path=str(path), cache_dir=str(tmp_path / "cache")))
