import dataclasses

import numpy as np
import pytest

from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.growth.catalogue import Catalogue
from tokenrec_jax.growth.rows import read_items, read_rows
from tokenrec_jax.types import DataError

RUN = Interactions(
    name="shop",
    indptr=np.array([0, 3, 7]),
    items=np.array([0, 1, 2, 3, 2, 1, 0], np.int32),
    user_ids=("u", "v"),
    item_ids=("a", "b", "c", "d"),
    timestamps=np.array([10, 20, 30, 5, 6, 7, 8]),
)


def history(catalogue: Catalogue, user: str) -> str:
    return "".join(catalogue.item_map.ids[row] for row in catalogue.history(catalogue.user_row(user)))


def of_run() -> Catalogue:
    return Catalogue.of_run(RUN, graph=RUN.without_last(2))


def add(catalogue: Catalogue, *rows: tuple) -> Catalogue:
    return catalogue.with_rows(read_rows(list(rows)))


def test_a_history_stays_in_the_order_of_time():
    grown = add(of_run(), ("u", "d", 20), ("u", "e", 1), ("u", "f"), ("u", "g", 25), ("u", "h"))
    # The rows without a time are as new as the newest of their user, and come after it.
    assert history(grown, "u") == "eabdgcfh"
    assert grown.times[: grown.indptr[1]].tolist() == [1, 10, 20, 20, 25, 30, 30, 30]
    assert history(grown, "v") == "dcba"
    assert np.all(np.diff(grown.indptr) == [8, 4])


def test_rows_that_are_known_change_nothing_and_the_first_of_new_ones_counts():
    catalogue = of_run()
    assert add(catalogue) is catalogue
    # The last two of a user are no edges, but they are in the history.
    assert add(catalogue, ("u", "a", 99), ("u", "c"), ("v", "a", 1)) is catalogue
    grown = add(catalogue, ("w", "a", 9), ("w", "a", 3), ("w", "x", 5))
    assert history(grown, "w") == "xa"
    assert add(grown, ("w", "a", 3), ("w", "x")) is grown


def test_the_graph_is_that_of_the_training_and_what_was_added():
    catalogue = of_run()
    assert list(zip(catalogue.edge_users, catalogue.edge_items, strict=True)) == [(0, 0), (1, 3), (1, 2)]
    grown = add(catalogue, ("w", "b"), ("u", "z"))
    assert list(zip(grown.edge_users, grown.edge_items, strict=True))[3:] == [(2, 1), (0, 4)]


def test_a_log_may_be_cut_anywhere():
    rng = np.random.default_rng(0)
    times = [None if rng.random() < 0.3 else int(rng.integers(0, 40)) for _ in range(80)]
    rows = [
        (
            f"u{rng.integers(6)}" if rng.random() < 0.7 else "v",
            f"i{rng.integers(25)}",
            time,
            rng.choice([None, "one", "two"]),
        )
        for time in times
    ]
    whole = add(of_run(), *rows)
    for size in (1, 7, 40):
        cut = of_run()
        for start in range(0, len(rows), size):
            cut = add(cut, *rows[start : start + size])
        for name in ("indptr", "items", "times", "edge_users", "edge_items", "removed"):
            np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name), err_msg=name)
        assert cut.interactions.user_ids == whole.interactions.user_ids
        assert cut.interactions.item_ids == whole.interactions.item_ids
        assert cut.interactions.item_titles == whole.interactions.item_titles
    falls = (np.diff(whole.times) < 0).nonzero()[0] + 1
    assert set(falls) <= set(whole.indptr)


def test_a_title_that_comes_later_is_news_and_the_first_one_stays():
    untitled = add(of_run(), ("w", "x"))
    assert untitled.interactions.item_titles is None
    named = add(untitled, ("w", "x", 5, "Ex"))
    assert named is not untitled and named.interactions.item_titles == ("", "", "", "", "Ex")
    assert len(named.items) == len(untitled.items)
    assert add(named, ("w", "x", 5, "Why")) is named


def test_items_that_are_known_keep_what_is_said_of_them():
    items = read_items(["x", "a"], titles=["Ex", "A"], attributes=[("new",), ("red",)], texts=["of x", "of a"])
    grown = of_run().with_items(items)
    assert grown.titles == ["", "", "", "", "Ex"] and grown.attributes == [(), (), (), (), ("new",)]
    assert grown.interactions.item_texts == ("", "", "", "", "of x")
    grown.forget_later()
    again = grown.with_items(read_items(["y"], texts=["of y"]))
    assert again.texts == ["", "", "", "", "of x", "of y"]


def test_texts_of_new_items_are_those_that_came_with_them():
    run = dataclasses.replace(of_run().run, item_texts=("soft", "", "", "red"))
    grown = add(Catalogue.of_run(run, graph=run), ("w", "x", 1, "Ex"))
    grown = grown.with_items(read_items(["y"], titles=["Why"], texts=["hard"]))
    assert grown.interactions.item_texts == ("soft", "", "", "red", "", "hard")
    assert grown.interactions.texts()[-2:] == grown.in_words(4)
    first, second = grown.in_words(4)
    assert first == "Ex" and "Why" in second and "hard" in second


def test_what_is_said_of_items_does_not_depend_on_how_calls_are_cut():
    columns = {"titles": [None, "Ex", "A"], "attributes": [(), ("red",), ("red",)], "texts": [None, "of x", "of a"]}
    at_once = of_run().with_items(read_items(["x", "x", "a"], **columns))
    one_by_one = of_run()
    for at, item in enumerate(["x", "x", "a"]):
        given = read_items([item], **{name: [column[at]] for name, column in columns.items()})
        one_by_one = one_by_one.with_items(given)
    assert at_once.said == one_by_one.said
    assert (at_once.titles[4], at_once.attributes[4], at_once.texts[4]) == ("", (), "")
    # A name that comes with an interaction is news to both.
    named = [add(each, ("w", "x", 5, "Why")) for each in (at_once, one_by_one)]
    assert [each.titles[4] for each in named] == ["Why", "Why"] and at_once.titles[4] == ""


def test_a_title_that_came_with_a_failed_addition_is_forgotten():
    before = add(of_run(), ("w", "x"))
    after = add(before, ("w", "x", 5, "Ex"), ("w", "y", 6, "Why"))
    assert after.titles[4:] == ["Ex", "Why"]
    before.forget_later()
    assert before.titles == [""] * 5
    # It is news again, not taken for what is known.
    assert add(before, ("w", "x", 5, "Ex")).titles[4] == "Ex" != before.titles[4]


def test_older_catalogues_do_not_see_what_came_later():
    before = of_run()
    after = add(before, ("w", "x", 1, "Ex"))
    assert after.user_row("w") == 2 and after.titles[4] == "Ex"
    with pytest.raises(DataError, match="user 'w': not among the 2 users of shop; ids look like 'u'"):
        before.user_row("w")
    with pytest.raises(DataError, match="item 'x': not among the 4 items"):
        before.item_rows(["a", "x"])
    assert before.interactions.item_titles is None
    assert after.interactions.item_titles == ("", "", "", "", "Ex")
    before.forget_later()
    assert add(before, ("y", "y")).interactions.user_ids == ("u", "v", "y")


def test_marks_of_removal():
    catalogue = of_run()
    removed = catalogue.with_removed(catalogue.item_rows(["b", "d"]), removed=True)
    assert removed.removed.tolist() == [False, True, False, True] and not catalogue.removed.any()
    grown = add(removed, ("w", "b"), ("w", "x"))
    assert grown.removed.tolist() == [False, True, False, True, False]
    assert grown.with_removed(grown.item_rows(["b"]), removed=False).removed.tolist() == [False] * 3 + [True, False]
