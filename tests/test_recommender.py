"""The recommender that grows, with the paper's recipe (learned users, prompts) and ours, on an untrained tiny model."""

import collections
import contextlib
import functools
import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import tiny
from tests.training.conftest import make_setup
from tokenrec_jax.config import MeshConfig
from tokenrec_jax.data.synthetic import synthetic_interactions
from tokenrec_jax.evaluation.evaluator import evaluate
from tokenrec_jax.evaluation.protocols import evaluation_batches
from tokenrec_jax.recommender import Recommender, Retriever
from tokenrec_jax.training.known import buffers_among
from tokenrec_jax.types import DataError, Split, Stage

RECIPES = ("paper", "ours")


class Maker:
    """Makes recommenders of one model; fresh ones share nothing but its weights and the programs of its queries."""

    def __init__(self, recipe: str, mesh: MeshConfig | None = None, devices: Sequence[Any] | None = None):
        config = tiny.get_config()
        config.mesh = mesh or MeshConfig()
        if recipe == "ours":
            config.llm.objective, config.llm.user_tokens, config.llm.item_positions = "dense", "none", "pooled"
            config.llm.item_residual = config.llm.item_vectors_at_input = config.llm.item_features = True
            config.llm.fold_in_residual = True
        self.setup = make_setup(config, devices=devices)
        self.state = self.setup.state(Stage.LLM)
        self.retriever = Retriever(self.setup.built, mesh=self.setup.mesh)
        self.data = synthetic_interactions(name="synthetic", num_users=60, num_items=40, seed=0)

    def __call__(self, headroom: float = 2.0) -> Recommender:
        return Recommender(
            self.data, config=self.setup.config, mesh=self.setup.mesh, retriever=self.retriever,
            params=self.state.params, buffers=self.state.buffers, headroom=headroom,
        )  # fmt: skip


maker = functools.cache(Maker)


@pytest.fixture(params=RECIPES)
def make(request) -> Maker:
    return maker(request.param)


@pytest.fixture
def make_paper() -> Maker:
    return maker("paper")


@contextlib.contextmanager
def compilations():
    """Counts programs that are lowered, whether or not a cache then has them compiled already."""
    counts = collections.Counter()

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs
        counts[event] += "active" in counts and event == "/jax/core/compile/jaxpr_to_mlir_module_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    counts["active"] = 1
    yield lambda: counts["/jax/core/compile/jaxpr_to_mlir_module_duration"]
    # Listeners cannot be taken away one by one.
    del counts["active"]


def tables(recommender: Recommender) -> dict[str, np.ndarray]:
    """Returns every table that queries read, without its padding, and the index."""
    state = recommender._state
    counts = {"user": state.catalogue.num_users, "item": state.catalogue.num_items}
    arrays = state.buffers["tables"]
    found = {name: np.asarray(arrays[name])[: counts[name[:4]]] for name in arrays if name[:4] in counts}
    found["inverse_sqrt_degree"] = np.asarray(arrays["inverse_sqrt_degree"])[: counts["item"]]
    vectors, *_ = recommender.retriever.look_up(state.buffers, state.index, np.arange(counts["item"], dtype=np.int32))
    return found | {"index": np.asarray(vectors)}


def ids(rows) -> list[list[str]]:
    return [[found.item for found in row] for row in rows]


def test_vectors_follow_what_is_known_and_stay_in_step_with_additions(make):
    whole = make.data
    buffers = buffers_among(make.setup.built, make.state.params, make.state.buffers, whole, mesh=make.setup.mesh)

    def known() -> Recommender:
        return Recommender(
            whole, config=make.setup.config, mesh=make.setup.mesh, retriever=make.retriever,
            params=make.state.params, buffers=buffers, graph=whole,
        )  # fmt: skip

    plain, ready = known(), known()
    expected = tables(plain)
    assert not np.allclose(expected["item_vectors"], tables(make())["item_vectors"], atol=1e-3)
    # The grown graph begins with the same edges, so that nothing but what was added moves anything.
    ready.warm_up()
    for name, found in tables(ready).items():
        np.testing.assert_array_equal(found, expected[name], err_msg=name)
    ready.add_interactions([("ann", whole.item_ids[3]), ("ann", whole.item_ids[5])])
    counts = tables(ready)["inverse_sqrt_degree"]
    # What an item sends was learned with the counts of the training; without that, they follow the graph.
    follow = not make.setup.config.llm.fold_in_residual
    assert np.array_equal(counts, expected["inverse_sqrt_degree"]) != follow
    moved = np.linalg.norm(tables(ready)["item_vectors"] - expected["item_vectors"], axis=1)
    assert 0 < moved.max() < 0.2 * np.linalg.norm(expected["item_vectors"], axis=1).mean()


LOG = [
    ("user-3", "item-39"), ("ann", "item-1"), ("ann", "item-2"), ("bob", "novel"), ("user-5", "novel"),
    ("user-6", "novel", 1_900_000_000, "A new thing"), ("ann", "novel"), ("cid", "item-7", 5), ("cid", "item-9", 3),
    ("bob", "other"), ("user-3", "item-38"), ("ann", "item-30"), ("ann", "item-31"),
]  # fmt: skip


def test_before_any_addition_tables_are_the_runs_own(make):
    plain, ready = make(), make()
    ready.warm_up()
    before = plain.recommend(plain.user_ids, k=8)
    assert ids(ready.recommend(plain.user_ids, k=8)) == ids(before)
    known = [(user, item) for user in plain.user_ids[:9] for item in plain.history(user)]
    added = ready.add_interactions(known)
    assert (added.interactions, added.duplicates, added.users, added.items) == (0, len(known), (), ())
    assert ready.add_interactions([]).interactions == 0
    expected = tables(plain)
    for name, found in tables(ready).items():
        np.testing.assert_array_equal(found, expected[name], err_msg=name)


def test_a_log_gives_the_same_state_however_it_is_cut_and_the_second_time_changes_nothing(make):
    whole, cut = make(), make()
    added = whole.add_interactions(LOG)
    known = {(user, item) for user in cut.user_ids for item in cut.history(user)}
    new = {row[:2] for row in LOG} - known
    assert (added.interactions, added.duplicates) == (len(new), len(LOG) - len(new))
    assert (added.users, added.items) == (("ann", "bob", "cid"), ("novel", "other"))
    for start in range(0, len(LOG), 4):
        cut.add_interactions(LOG[start : start + 4])
    expected, state = tables(whole), whole._state
    for name, found in tables(cut).items():
        np.testing.assert_array_equal(found, expected[name], err_msg=name)
    everybody = whole.user_ids
    assert ids(cut.recommend(everybody)) == ids(whole.recommend(everybody))
    assert whole.add_interactions(LOG[3:9]).duplicates == 6
    assert whole._state is state
    assert whole.history("cid") == ["item-9", "item-7"]
    assert whole.title("novel") == "A new thing" and whole.title("other") == ""


def test_codes_follow_the_vectors_and_far_ones_stay(make):
    recommender, run = make(), make()
    recommender.add_interactions(LOG)
    model = recommender.model
    now, before = tables(recommender), tables(run)
    np.testing.assert_array_equal(now["item_codes"], model.item_tokenizer.encode(jnp.asarray(now["item_vectors"])))
    learned = recommender._searcher.reads_users
    assert learned == (recommender._state.user_codes is not None)
    if learned:
        np.testing.assert_array_equal(now["user_codes"], model.user_tokenizer.encode(jnp.asarray(now["user_vectors"])))
    users = np.asarray(model.tables.user_codes[...])[: len(now["user_vectors"])]
    assert len(np.unique(users, axis=0)) > 10 and users[60:].any()
    assert np.linalg.norm(now["item_vectors"][40:], axis=1).min() > 0
    assert (now["item_vectors"][:40] != before["item_vectors"]).any(axis=1).sum() > 5
    np.testing.assert_allclose(now["inverse_sqrt_degree"][40:], [4**-0.5, 1.0])


def test_within_the_headroom_nothing_is_compiled_and_beyond_it_everything_goes_on(make):
    recommender = make(headroom=0.5)
    for k in (10, 32):
        recommender.warm_up(batch_sizes=(1, 4, 5), k=k, longest=70)
    with compilations() as count:
        for number in range(3):
            new = [(f"new-{number}", item) for item in recommender.item_ids[number : number + 5]]
            recommender.add_interactions([*new, (f"new-{number}", f"novel-{number}")])
            recommender.recommend([f"new-{number}"])
            recommender.recommend(["user-0", "user-1", f"new-{number}"], k=3, filter=recommender.item_ids[7:])
            recommender.recommend(histories=[["item-3"], ["item-4", f"novel-{number}"], ["item-9"]], k=16)
            recommender.recommend(histories=[["item-3", "item-5"] * 35], k=9)
            recommender.recommend(histories=[["item-3"]] * 5, k=9)
            recommender.explain("user-0", "item-3")
            recommender.remove_items(["item-20"])
        assert count() == 0
        many = [(f"more-{number}", f"item-{number % 40}") for number in range(130)]
        recommender.add_interactions(many)
        assert count() > 0
        # Nobody who reads waits for a program, neither after more users nor after more items.
        for new in ([], [(f"more-{number}", f"unheard-{number}") for number in range(100)]):
            recommender.add_interactions(new)
            before = count()
            recommender.recommend(["more-1"])
            recommender.recommend([f"more-{number}" for number in range(5)], k=3)
            recommender.recommend(["more-1"], k=30)
            recommender.recommend(histories=[["item-3", "item-5"] * 35], k=9)
            recommender.explain("more-0", "item-3")
            assert count() == before
    rows = recommender._state.buffers["tables"]["user_vectors"].shape[0]
    assert rows == 384 and len(recommender.user_ids) == 60 + 3 + 130
    assert recommender.model.tables.user_codes.shape == (384, 3)
    replayed = make(headroom=0.5)
    replayed.add_interactions(
        [(user, item) for user in recommender.user_ids[60:] for item in recommender.history(user)]
    )
    assert ids(replayed.recommend(["more-129", "new-2"])) != [[], []]
    assert ids(recommender.recommend(["more-129"], k=40, exclude_seen=False))[0].count("item-20") == 0


def test_a_new_item_is_recommended_to_those_who_like_what_its_users_like(make):
    recommender = make()
    group = [user for user in recommender.user_ids if "item-0" in recommender.history(user)]
    recommender.add_interactions([(user, "novel") for user in group[::2]])
    for user in group[::2]:
        assert "novel" not in ids(recommender.recommend([user], k=40))[0]
    others = ids(recommender.recommend(group[1::2], k=41))
    assert all("novel" in row for row in others)


def test_removed_items_never_come_back_unless_restored(make_paper):
    recommender = make_paper()
    best = ids(recommender.recommend(["user-1"], k=3))[0]
    recommender.remove_items(best[:2])
    assert ids(recommender.recommend(["user-1"], k=1))[0] == best[2:]
    recommender.add_interactions([("user-2", best[0]), ("eve", best[0]), ("eve", best[1])])
    assert recommender.history("eve") == best[:2]
    everybody = ids(recommender.recommend(recommender.user_ids, k=40, exclude_seen=False))
    assert not any(set(best[:2]) & set(row) for row in everybody)
    assert ids(recommender.recommend(["user-1"], filter=best))[0] == best[2:]
    recommender.restore_items(best[:1])
    assert best[0] in ids(recommender.recommend(["user-1"], k=40))[0]
    with pytest.raises(DataError, match="item 'nothing': not among the 40 items"):
        recommender.remove_items(["item-1", "nothing"])
    assert "item-1" in ids(recommender.recommend(["user-9"], k=40, exclude_seen=False))[0]


def test_requests_of_any_size_say_what_single_ones_say(make):
    recommender = make()
    users = list(recommender.user_ids)
    assert ids(recommender.recommend(users[:2], k=10**12)) == ids(recommender.recommend(users[:2], k=40))
    single = [ids(recommender.recommend([user], k=5))[0] for user in users[:21]]
    for size in (2, 3, 7, 21):
        assert ids(recommender.recommend(users[:size], k=5)) == single[:size]
    assert len(recommender.recommend(users * 5, k=5)) == 300
    chosen = ["item-5", "item-8", "item-30"]
    allowed = ids(recommender.recommend(users[:4], filter=chosen, exclude_seen=False))
    assert all(sorted(row) == sorted(chosen) for row in allowed)
    histories = [recommender.history(user) for user in users[:9]]
    found = recommender.recommend(histories=histories, k=5)
    assert not any({r.item for r in row} & set(history) for row, history in zip(found, histories, strict=True))
    if not recommender._searcher.reads_users:
        assert ids(found) == single[:9]
    assert recommender.recommend([]) == recommender.recommend(histories=[]) == []


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 33, 64, 100, 255, 256, 257, 700])
def test_parts_cover_a_request_with_little_padding(make_paper, count):
    recommender = make_paper()
    parts = recommender._searcher.parts(count)
    assert [start for start, _ in parts] == np.cumsum([0, *(size for _, size in parts[:-1])]).tolist()
    assert count <= sum(size for _, size in parts) < 2 * count
    assert {size for _, size in parts} <= set(recommender.batch_sizes)


def test_explain_shows_the_nearest_of_the_history(make):
    recommender = make()
    recommender.add_interactions([("ann", "item-1"), ("ann", "item-2"), ("ann", "item-3")])
    best = recommender.recommend(["ann"])[0][0]
    found = recommender.explain("ann", best.item)
    assert (found.user, found.item, found.title) == ("ann", best.item, best.title)
    np.testing.assert_allclose(found.score, best.score, rtol=1e-5)
    assert {each.item for each in found.nearest} == {"item-1", "item-2", "item-3"}
    cosines = [each.cosine for each in found.nearest]
    assert cosines == sorted(cosines, reverse=True) and cosines[-1] >= -1 and cosines[0] <= 1 + 1e-6
    codes = tables(recommender)["item_codes"]
    row = {item: row for row, item in enumerate(recommender.item_ids)}
    for each in found.nearest:
        assert each.shared == tuple(codes[row[each.item]] == codes[row[best.item]])
        assert each.title == recommender.title(each.item)
    assert {each.item for each in recommender.explain("ann", "item-2").nearest} == {"item-1", "item-3"}


ERRORS = {
    "user": (lambda r: r.recommend(["nobody"]), "user 'nobody': not among the 60 users of synthetic; ids look like"),
    "no id": (lambda r: r.recommend([""]), "user is ''; ids are text or whole numbers"),
    "item": (lambda r: r.recommend(histories=[["item-1"], ["x"]]), "item 'x': not among the 40 items"),
    "empty history": (lambda r: r.recommend(histories=[["item-1"], []]), "history 1: is empty"),
    "filter": (lambda r: r.recommend(["user-1"], filter=["x"]), "item 'x': not among the 40 items"),
    "k": (lambda r: r.recommend(["user-1"], k=0), "k is 0; allowed is 1 or more"),
    "one user": (lambda r: r.recommend("user-1"), "users is 'user-1'; allowed is a list of ids"),
    "one item": (lambda r: r.recommend(histories=["item-1"]), "history 0 is 'item-1'; allowed is a list of ids"),
    "one history": (lambda r: r.recommend(histories="item-1"), "histories is 'item-1'; allowed is a list of lists"),
    "one allowed": (lambda r: r.recommend(["user-1"], filter="item-1"), "filter is 'item-1'; allowed is a list of ids"),
    "one removed": (lambda r: r.remove_items("item-12"), "items is 'item-12'; allowed is a list of ids"),
    "both": (lambda r: r.recommend(["user-1"], histories=[["item-1"]]), "users or histories, exactly one"),
    "neither": (lambda r: r.recommend(), "users or histories, exactly one"),
    "explain": (lambda r: r.explain("user-1", "x"), "item 'x'"),
    "history": (lambda r: r.history("x"), "user 'x'"),
    "title": (lambda r: r.title("x"), "item 'x'"),
    "table": (lambda r: r.add_interactions([("user-1", "item-1"), ("ann",)]), "row 1: has 1 values"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_mistakes_are_one_line(make_paper, name):
    recommender = make_paper()
    call, message = ERRORS[name]
    with pytest.raises(DataError) as error:
        call(recommender)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert len(recommender.user_ids) == 60


def test_an_addition_that_fails_leaves_nothing_behind(make_paper, monkeypatch):
    recommender, other = make_paper(), make_paper()
    grow = recommender._grower.grow
    monkeypatch.setattr(recommender._grower, "grow", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        recommender.add_interactions([("zoe", "item-1"), ("zoe", "zebra")])
    monkeypatch.setattr(recommender._grower, "grow", grow)
    for each in (recommender, other):
        assert each.add_interactions(LOG).users == ("ann", "bob", "cid")
    expected = tables(other)
    for name, found in tables(recommender).items():
        np.testing.assert_array_equal(found, expected[name], err_msg=name)


def test_the_evaluator_ranks_a_grown_state(make):
    recommender = make()
    recommender.add_interactions([*LOG, ("bob", "item-4")])
    data = recommender.interactions
    batches = evaluation_batches(data, Split.TEST, max_history=12, batch_size=32)
    output = evaluate(recommender.score_function(), batches, num_items=data.num_items, cutoffs=(10,))
    # Ann has five interactions, Bob three, Cid two.
    assert output.users.tolist() == list(range(62))


def test_readers_see_whole_states_while_others_are_made(make_paper):
    recommender = make_paper()
    recommender.warm_up()
    failures, done = [], threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                user = recommender.user_ids[-1]
                seen = set(recommender.history(user))
                found = ids(recommender.recommend([user], k=10))[0]
                if len(found) != 10 or len(set(found)) != 10 or seen & set(found):
                    failures.append((user, found))
            except Exception as error:
                failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    writers = [
        threading.Thread(target=lambda n=n: [recommender.add_interactions(new_user(f"{n}-{i}")) for i in range(8)])
        for n in range(2)
    ]

    def new_user(name: str) -> list[tuple[str, str]]:
        return [(name, f"item-{len(name) + 3 * i}") for i in range(5)] + [(name, f"of-{name}")]

    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert not failures, failures[:3]
    assert len(recommender.user_ids) == 60 + 16 and len(recommender.item_ids) == 40 + 16


def test_a_vector_of_zero_has_its_code_too(make):
    recommender = make(headroom=0.0)
    # Nobody else knows them, so they stand nowhere; of the others some make the tables grow.
    recommender.add_interactions([("lonely", "alone"), *((f"more-{number}", f"only-{number}") for number in range(90))])
    now, model = tables(recommender), recommender.model
    assert not now["item_vectors"][-1].any()
    np.testing.assert_array_equal(now["item_codes"], model.item_tokenizer.encode(jnp.asarray(now["item_vectors"])))
    if recommender._searcher.reads_users:
        np.testing.assert_array_equal(now["user_codes"], model.user_tokenizer.encode(jnp.asarray(now["user_vectors"])))
