"""What is known when the test split is ranked: vectors and codes follow it, weights do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import tiny
from experiments.evaluation import graph_scores, model_scores
from experiments.untrained import baselines
from tests.training.conftest import make_setup
from tokenrec_jax.baselines.ease import ease
from tokenrec_jax.data.graph import inverse_sqrt_degree
from tokenrec_jax.data.synthetic import synthetic_interactions
from tokenrec_jax.evaluation.evaluator import evaluate
from tokenrec_jax.evaluation.protocols import evaluation_batches
from tokenrec_jax.retriever import Retriever
from tokenrec_jax.training.build import place_graph
from tokenrec_jax.training.known import buffers_among
from tokenrec_jax.types import Split, Stage

DATA = synthetic_interactions(name="synthetic", num_users=60, num_items=40, seed=0)


@pytest.fixture(scope="module")
def config():
    made = tiny.get_config()
    made.evaluation.graph = "known"
    return made


@pytest.fixture(scope="module")
def state(setup):
    return setup.state(Stage.LLM)


def test_among_its_training_a_model_stays_what_it_is(setup, state):
    found = buffers_among(setup.built, state.params, state.buffers, setup.training, mesh=setup.mesh)
    assert jax.tree.structure(found) == jax.tree.structure(state.buffers)
    for new, old in zip(jax.tree.leaves(found), jax.tree.leaves(state.buffers), strict=True):
        assert new.sharding == old.sharding
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)


def test_among_other_interactions_vectors_and_codes_follow(setup, state):
    # Another world, so that codes move too.
    known = synthetic_interactions(name="synthetic", num_users=60, num_items=40, seed=1)
    tables = buffers_among(setup.built, state.params, state.buffers, known, mesh=setup.mesh)["tables"]
    model = setup.built.definition.merge(state.params, state.buffers)
    vectors = model.collaborative(place_graph(known, setup.mesh))
    np.testing.assert_allclose(tables["item_vectors"], vectors.items, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(tables["item_codes"], model.item_tokenizer.encode(vectors.items))
    assert np.mean(np.any(tables["item_codes"] != state.buffers["tables"]["item_codes"], axis=1)) > 0.01
    np.testing.assert_allclose(tables["inverse_sqrt_degree"], inverse_sqrt_degree(known))
    # What was handed in is as it was.
    np.testing.assert_array_equal(state.buffers["tables"]["inverse_sqrt_degree"], inverse_sqrt_degree(setup.training))


def test_counts_stay_where_what_an_item_sends_was_learned_with_them():
    config = tiny.get_config()
    config.llm.fold_in_residual = True
    setup = make_setup(config)
    state = setup.state(Stage.LLM)
    known = DATA.without_last(1)
    tables = buffers_among(setup.built, state.params, state.buffers, known, mesh=setup.mesh)["tables"]
    np.testing.assert_array_equal(tables["inverse_sqrt_degree"], inverse_sqrt_degree(setup.training))
    assert not np.array_equal(tables["item_vectors"], state.buffers["tables"]["item_vectors"])


def test_codes_that_mean_nothing_stay_what_the_model_learned():
    config = tiny.get_config()
    config.tokenizer.kind = "random"
    setup = make_setup(config)
    state = setup.state(Stage.LLM)
    tables = buffers_among(setup.built, state.params, state.buffers, DATA.without_last(1), mesh=setup.mesh)["tables"]
    before = state.buffers["tables"]
    assert not np.array_equal(tables["item_vectors"], before["item_vectors"])
    for side in ("user", "item"):
        np.testing.assert_array_equal(tables[f"{side}_codes"], before[f"{side}_codes"])
        assert len(np.unique(before[f"{side}_codes"], axis=0)) > 10


def test_only_the_test_split_sees_what_is_known(setup, state, config):
    retriever = Retriever(setup.built, mesh=setup.mesh)
    batch = evaluation_batches(DATA, Split.TEST, max_history=12, batch_size=8)[0]
    ours = model_scores(retriever, state.params, state.buffers, DATA, config=config)
    trained = retriever.score_function(state.params, state.buffers)
    graph = graph_scores(setup.built, state, DATA, config=config, mesh=setup.mesh)
    np.testing.assert_array_equal(ours[Split.VALID](batch), trained(batch))
    assert not np.allclose(ours[Split.TEST](batch), trained(batch), atol=1e-3)
    assert not np.allclose(graph[Split.TEST](batch), graph[Split.VALID](batch), atol=1e-3)
    # With the graph of the training nothing changes.
    plain = tiny.get_config()
    for split, score in model_scores(retriever, state.params, state.buffers, DATA, config=plain).items():
        np.testing.assert_array_equal(score(batch), trained(batch), err_msg=split)


def test_closed_forms_are_made_again_with_the_settings_that_validation_chose(config):
    lightgcn = dict.fromkeys(Split, lambda batch: jnp.ones((len(batch.user), DATA.num_items)))
    found = baselines(lightgcn, DATA, config=config)["ease"]
    parts = {Split.VALID: DATA.without_last(2), Split.TEST: DATA.without_last(1)}
    for split, part in parts.items():
        batches = evaluation_batches(DATA, split, max_history=12, batch_size=64)
        expected = evaluate(ease(part, **found.settings), batches, num_items=DATA.num_items, cutoffs=(10,))
        np.testing.assert_array_equal(found.outputs[split].ranks, expected.ranks)
