"""Items that come with nothing but what is said of them."""

import numpy as np
import pytest

from tests.test_recommender import Maker, maker
from tokenrec_jax.data.features import FeatureTable
from tokenrec_jax.types import DataError


@pytest.fixture
def make_paper() -> Maker:
    return maker("paper")


def test_content_stands_for_an_item_that_nobody_has_touched(caplog):
    recommender = maker("ours")()
    group = recommender.interactions.item_attributes[0]
    known = recommender.interactions.num_items
    assert recommender.add_items(
        ["new", recommender.item_ids[0], "odd"], titles=["N", "", ""], attributes=[group, (), ("unheard",)]
    ) == (
        "new",
        "odd",
    )
    (told,) = (record.message for record in caplog.records if "new items" in record.message)
    assert told.startswith("1 of 2 new items say nothing that the run understands, 'odd' is the first; it reads values")
    assert recommender.title("new") == "N" and recommender.interactions.item_attributes[known] == group
    model = recommender.model
    space = np.asarray(model.item_space(model.tables.item_vectors[...]))
    content = np.asarray(model.content_vectors())
    cosine = space[known] @ content[known] / np.linalg.norm(content[known])
    assert cosine == pytest.approx(1.0, abs=1e-5)
    # As long as the run's own vectors are, so that its codes are chosen as theirs.
    lengths = np.linalg.norm(np.asarray(model.tables.item_vectors[...]), axis=1)
    assert lengths[known] == pytest.approx(np.sqrt(np.mean(lengths[:known] ** 2)), rel=1e-3)
    encoded = model.item_tokenizer.encode(model.tables.item_vectors[...][known : known + 1])
    np.testing.assert_array_equal(model.tables.item_codes[...][known], encoded[0])
    # What the model knows nothing of stands nowhere.
    assert np.all(space[known + 1] == 0)
    found = recommender.recommend([recommender.user_ids[0]], k=known + 2, exclude_seen=False)[0]
    assert {"new", "odd"} <= {one.item for one in found}
    # Once touched, the graph speaks.
    recommender.add_interactions([(recommender.user_ids[0], "new")])
    assert not np.allclose(np.asarray(recommender.model.tables.item_vectors[...])[known], 0)


def test_content_is_read_again_only_when_there_is_more_of_it(monkeypatch):
    recommender, read = maker("ours")(), []
    encode = FeatureTable.encode
    monkeypatch.setattr(FeatureTable, "encode", lambda self, values: read.append(len(values)) or encode(self, values))
    group = recommender.interactions.item_attributes[0]
    recommender.add_items(["one"], attributes=[group])
    # The second time for the warning that it says nothing.
    assert read == [1, 1]
    user, *others = recommender.user_ids
    space = np.asarray(recommender.model.content_vectors())
    recommender.add_interactions([(user, "one"), (others[0], "one")])
    assert read == [1, 1]
    np.testing.assert_array_equal(np.asarray(recommender.model.content_vectors()), space)
    recommender.add_items(["two", "three"], attributes=[group, group])
    assert read == [1, 1, 3, 2]
    known = recommender.interactions.num_items
    after = np.asarray(recommender.model.content_vectors())[: known + 1]
    np.testing.assert_array_equal(after[known - 3 : known], np.repeat(after[:1], 3, axis=0))
    assert np.any(after[0] != after[known])


def test_a_title_that_comes_later_for_an_item_of_the_run_leaves_its_content(monkeypatch):
    recommender = maker("ours")()
    monkeypatch.setattr(FeatureTable, "encode", None)
    content = np.asarray(recommender.model.content_vectors())
    titles = recommender._state.catalogue.titles
    item = recommender.item_ids[3]
    titles[3] = ""
    recommender.add_interactions([("ann", item, None, "Late")])
    assert recommender.title(item) == "Late"
    np.testing.assert_array_equal(np.asarray(recommender.model.content_vectors()), content)


def test_items_cannot_be_added_to_a_run_without_content(make_paper):
    with pytest.raises(DataError, match=r"llm\.item_features"):
        make_paper().add_items(["new"])
