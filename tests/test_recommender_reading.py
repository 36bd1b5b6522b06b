"""What requests and the model of a recommender read: nothing twice, and codes of all who are there."""

import copy

import numpy as np

from tests.test_recommender import maker
from tests.untrained import small_config, untrained_recommender
from tokenrec_jax.models.tokenrec import TokenRec
from tokenrec_jax.retriever import Retriever


def test_requests_take_item_vectors_from_the_index(monkeypatch):
    made = copy.copy(maker("ours"))
    expected = made().recommend(["user-1"])
    made.retriever = Retriever(made.setup.built, mesh=made.setup.mesh)
    recommender = made()

    def again(*_):
        raise AssertionError("the whole catalogue for one request")

    monkeypatch.setattr(TokenRec, "item_space", again)
    assert recommender.recommend(["user-1"]) == expected


def test_the_model_has_codes_of_new_users_where_users_are_folded_in(tmp_path):
    config = small_config(tmp_path)
    config.llm.user_tokens = "folded"
    recommender = untrained_recommender(config)
    before = np.asarray(recommender.model.tables.user_codes[...])
    first, second = recommender.item_ids[:2]
    recommender.add_interactions([(f"new-{number}", item) for number in range(80) for item in (first, second)])
    after = np.asarray(recommender.model.tables.user_codes[...])
    assert after.shape[0] > before.shape[0]
    # All of them have done the same.
    assert np.all(after[60:140] == after[60]) and np.any(after[60] != after[140])
