import pytest

from tests.serving.fake import FakeRecommender
from tokenrec_jax.serving.catalogue import Catalogue, Named
from tokenrec_jax.serving.log import Add, Remove, Restore


@pytest.fixture
def recommender():
    return FakeRecommender(num_users=12, num_items=12)


def found(rows):
    return [row.id for row in rows]


def test_finds_in_titles_and_ids_whatever_the_case(recommender):
    catalogue = Catalogue(recommender)
    assert found(catalogue.find_items("thing 1", limit=9)) == ["i1", "i10", "i11"]
    assert found(catalogue.find_items("I11", limit=9)) == ["i11"]
    assert found(catalogue.find_items("åNGSTRÖM", limit=2, offset=10)) == ["i10", "i11"]
    assert found(catalogue.find_items("", limit=3, offset=11)) == ["i11"]
    assert catalogue.find_items("i1", limit=1)[0].title == "Thing 1 of Ångström"
    # Not across the end of one and the start of the next.
    assert not catalogue.find_items("ångström\ni2", limit=9)
    assert found(catalogue.find_users("u1", limit=9)) == ["u1", "u10", "u11"]


def test_follows_events(recommender):
    catalogue = Catalogue(recommender)
    recommender.add_interactions({"user": ["new"], "item": ["n1"], "title": ["Newest thing"]})
    catalogue.update([Add("new", "n1", None, "Newest thing")])
    assert catalogue.has_user("new") and catalogue.has_item("n1")
    assert found(catalogue.find_items("thing", limit=99))[-1] == "n1"
    assert found(catalogue.find_users("new", limit=9)) == ["new"]
    # A title may come later.
    for title in ("", "Later thing"):
        recommender.add_interactions({"user": ["new"], "item": ["n2"], "title": [title]})
        catalogue.update([Add("new", "n2", None, title)])
    assert catalogue.find_items("later", limit=9) == catalogue.find_items("n2", limit=9) != []
    catalogue.update([Remove("n2"), Remove("i3"), Remove("n1")])
    assert catalogue.has_item("i3") and catalogue.num_items == 11
    assert not catalogue.find_items("n1", limit=9)
    assert "i3" not in found(catalogue.find_items("thing", limit=99))
    # An interaction does not bring it back.
    catalogue.update([Add("new", "i3"), Restore("n1")])
    assert "i3" not in found(catalogue.find_items("thing", limit=99))
    assert found(catalogue.find_items("n1", limit=9)) == ["n1"]


def test_a_late_title_is_found_and_lists_its_item_once(recommender):
    recommender._titles["i3"] = ""
    catalogue = Catalogue(recommender)
    assert catalogue.find_items("i3", limit=9) == [Named("i3", "")]
    recommender._titles["i3"] = "Late i3"
    catalogue.update([Add("u1", "i3", None, "Late i3")])
    for text in ("late", "LATE I3", "i3"):
        assert catalogue.find_items(text, limit=9) == [Named("i3", "Late i3")]
    assert found(catalogue.find_items("", limit=99)) == [f"i{number}" for number in range(12)]
    assert found(catalogue.find_users("", limit=2, offset=10)) == ["u10", "u11"]


def test_of_nothing():
    catalogue = Catalogue(FakeRecommender(num_users=0, num_items=0))
    assert catalogue.find_items("", limit=9) == catalogue.find_users("a", limit=9) == []
