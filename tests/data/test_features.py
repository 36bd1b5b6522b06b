import numpy as np
import pytest

from tokenrec_jax.data import features
from tokenrec_jax.types import PADDING

ATTRIBUTES = (("a", "b"), ("b", "rare"), (), ("b", "a", "c"), ("c",))


def test_frequent_values_have_numbers_and_others_are_left_out():
    table = features.feature_table(ATTRIBUTES, min_items=2)
    assert table.names[0] == "b" and set(table.names) == {"a", "b", "c"} and table.width == 3
    encoded = table.encode(ATTRIBUTES)
    assert encoded.shape == (5, 3) and encoded.dtype == np.int32
    assert encoded[1].tolist() == [0, PADDING, PADDING] and (encoded[2] == PADDING).all()
    more = table.encode((("a", "b", "c", "a", "unheard"),))
    assert [table.names[number] for number in more[0]] == ["a", "b", "c"]


@pytest.mark.parametrize("attributes", [(), ((), ()), (("x",), ("y",))])
def test_a_set_without_frequent_values_has_no_features(attributes):
    assert features.feature_table(attributes, min_items=2) is None


def test_the_most_frequent_values_are_kept(monkeypatch):
    monkeypatch.setattr(features, "MOST_VALUES", 2)
    table = features.feature_table(ATTRIBUTES, min_items=1)
    assert table is not None and table.names[0] == "b" and len(table.names) == 2 and table.width == 2


def test_ties_go_to_the_value_that_comes_first():
    values = tuple(f"value {number}" for number in range(30, 0, -1))
    table = features.feature_table((values, values), min_items=2)
    assert table is not None and table.names == values
