"""Columns of an interactions file that say what its items are."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.data.test_sources import write_rows
from tokenrec_jax.config import DataConfig
from tokenrec_jax.data.sources import load_interactions, read_source
from tokenrec_jax.types import DataError


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_columns_say_what_items_are(tmp_path, ending):
    rows = [
        ("al", "x", "red|blue", "2", "A shoe", ""),
        ("al", "y", "", "3", "", "Old"),
        ("al", "z", "red", "", "", ""),
        ("bo", "x", "green", "2", "Another text", "New"),
        ("bo", "y", "blue", "3", "", ""),
        ("bo", "z", "red", "", "", ""),
    ]
    path = write_rows(tmp_path / f"shop{ending}", rows, ("user", "item", "colour", "size", "about", "more"))
    config = DataConfig(source="interactions", path=str(path), cache_dir=str(tmp_path / "cache"))
    config.feature_columns, config.text_columns = ("colour", "size"), ("about", "more")
    data = load_interactions(config)
    assert data.item_attributes == (("colour=red", "colour=blue", "size=2"), ("size=3",), ("colour=red",))
    assert data.item_texts == ("A shoe", "Old", "")
    assert data.texts() == ["colour=red, colour=blue, size=2. A shoe", "size=3. Old", "colour=red"]
    # The prepared form and that of a run say the same.
    assert load_interactions(config).item_texts == data.item_texts
    data.save(tmp_path / "run")
    assert type(data).load(tmp_path / "run").item_texts == data.item_texts


def test_a_number_that_is_none_says_nothing(tmp_path):
    columns = {"user": ["u"] * 3, "item": ["x", "y", "z"], "size": [1.5, float("nan"), None]}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "shop.parquet")
    config = DataConfig(source="interactions", path=str(tmp_path / "shop.parquet"), feature_columns=("size",))
    assert read_source(config).item_attributes == (("size=1.5",), (), ())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        # As spreadsheets write them; a value of two lines, quoted as it should be.
        ("shop.csv", 'user,item,about,,\nu,x,"two\nlines",,\nu,y,,,\nu,z,,1,2\n'),
        (
            "shop.jsonl",
            '{"user": "u", "item": "x", "about": "two\\nlines", "price": 1.5}\n'
            '{"user": "u", "item": "y", "price": "$3"}\n\n{"user": "u", "item": "z", "price": [1]}\n',
        ),
    ],
)
def test_columns_that_nobody_names_may_hold_anything(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    config = DataConfig(source="interactions", path=str(tmp_path / name), text_columns=("about",))
    data = read_source(config)
    assert data.item_ids == ("x", "y", "z") and data.item_texts == ("two\nlines", "", "")


def test_a_bad_value_on_a_line_of_several_objects_is_named_by_its_row(tmp_path):
    objects = [{"user": "u", "item": str(number)} for number in range(5)] + [{"user": "u", "item": ""}]
    (tmp_path / "shop.jsonl").write_text(" ".join(map(json.dumps, objects)))
    with pytest.raises(DataError, match=r"shop.jsonl: row 6: item is missing"):
        read_source(DataConfig(source="interactions", path=str(tmp_path / "shop.jsonl")))


def test_half_a_character_is_one_line(tmp_path):
    (tmp_path / "shop.jsonl").write_text('{"user": "u", "item": "a\\ud800"}\n')
    with pytest.raises(DataError, match=r"shop.jsonl: item: .*surrogates not allowed; text and numbers"):
        read_source(DataConfig(source="interactions", path=str(tmp_path / "shop.jsonl")))
