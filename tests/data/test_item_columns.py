"""Columns of an interactions file that say what its items are."""

import pytest

from tests.data.test_sources import write_rows
from tokenrec_jax.config import DataConfig
from tokenrec_jax.data.sources import load_interactions


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
