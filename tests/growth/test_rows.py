import numpy as np
import pytest

from tokenrec_jax.growth.rows import read_ids, read_items, read_rows
from tokenrec_jax.types import DataError


def test_rows_and_columns_say_the_same():
    rows = read_rows([("a", 1), ("b", "2", 30.9), ["c", np.int64(3), None, "Three"]])
    columns = read_rows(
        {"user": np.array(["a", "b", "c"]), "item": [1, 2, 3], "timestamp": [None, 30, float("nan")],
         "title": [None, "", "Three"]}
    )  # fmt: skip
    for found in (rows, columns):
        assert (found.users, found.items, found.titles) == (["a", "b", "c"], ["1", "2", "3"], ["", "", "Three"])
        np.testing.assert_array_equal(found.timestamps, [np.nan, 30, np.nan])
    assert read_rows([]).users == read_rows({"user": [], "item": []}).users == []


BAD = {
    "one value": ([("a", "b"), ("a",)], "row 1: has 1 values; allowed are rows"),
    "text": (["ab"], "row 0: has 0 values"),
    "no table": (7, "interactions: got a int"),
    "empty id": ([("", "b")], "row 0: user is ''; ids are text or whole numbers"),
    "float id": ([("a", 1.5)], "row 0: item is 1.5"),
    "bool id": ([(True, "b")], "row 0: user is True"),
    "text time": ([("a", "b", "now")], "row 0: timestamp is 'now'; allowed are seconds since 1970"),
    "milliseconds": ([("a", "b", 1_600_000_000_000)], "row 0: timestamp is 1600000000000"),
    "negative time": ([("a", "b", -1)], "row 0: timestamp is -1"),
    "mappings": ([{"user": "a", "item": "b"}], "row 0: has 0 values"),
    "bytes": ([b"ab"], "row 0: has 0 values"),
    "sets": ([{"a", "b"}], "row 0: has 0 values"),
    "number as title": ([("a", "b", None, 3)], "row 0: title is 3; titles are text"),
    "unknown column": ({"user": ["a"], "item": ["b"], "stars": [5]}, "columns are ['user', 'item', 'stars']"),
    "missing column": ({"user": ["a"]}, "columns are ['user']"),
    "lengths": ({"user": ["a"], "item": ["b", "c"]}, "columns have lengths"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_table_is_one_line(name):
    table, message = BAD[name]
    with pytest.raises(DataError) as error:
        read_rows(table)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"items": "sku10"}, "items is 'sku10'; allowed is a list of ids"),
        ({"items": ["a", ""]}, "item is ''; ids are text or whole numbers"),
        ({"items": ["a"], "titles": ["A", "B"]}, "columns have lengths {'items': 1, 'titles': 2"),
        ({"items": ["a"], "titles": [5]}, "row 0: title is 5"),
        ({"items": ["a"], "titles": "A"}, "titles is 'A'; allowed is a list with one for each item"),
        ({"items": ["a"], "texts": {"a": "soft"}}, "texts is {'a': 'soft'}; allowed is a list"),
        ({"items": ["a"], "texts": [5]}, "row 0: text is 5; texts are text"),
        ({"items": [], "titles": []} | {"texts": ["a"]}, "columns have lengths"),
        ({"items": ["a"], "attributes": ["red"]}, "row 0: attributes are 'red'; allowed are lists of texts"),
        ({"items": ["a"], "attributes": [{"red": 1}]}, "row 0: attributes are {'red': 1}; allowed are lists"),
        ({"items": ["a", "b"], "attributes": [None, "red"]}, "row 1: attributes are 'red'"),
    ],
)
def test_what_is_no_list_of_items_is_one_line(given, message):
    with pytest.raises(DataError) as error:
        read_items(**given)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_items_may_lack_titles_and_attributes_and_texts():
    items = read_items(("a", 2), attributes=[None, ("red",)], texts=np.array(["soft", None]))
    assert (items.items, items.titles, items.attributes) == (["a", "2"], ["", ""], [(), ("red",)])
    assert read_items(["a", "b"], attributes=[float("nan"), ["x", "y", "x"]]).attributes == [(), ("x", "y")]
    assert items.texts == ["soft", ""] and read_items(["a"]).texts == [""]
    assert read_ids((name for name in "ab"), "items", each="item") == ["a", "b"]
