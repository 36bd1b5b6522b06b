import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tokenrec_jax.baselines.semantic_ids import distinct
from tokenrec_jax.baselines.tiger import Tiger, TigerConfig
from tokenrec_jax.baselines.trie import Beam
from tokenrec_jax.evaluation.ranking import ranks
from tokenrec_jax.types import PADDING, ConfigError, EvaluationBatch

NUM_ITEMS = 40
HISTORIES = jnp.asarray([[1, 2, PADDING], [5, PADDING, PADDING], [PADDING] * 3, [7, 8, 9]], jnp.int32)


def model(*, beam: int, seed: int = 0) -> Tiger:
    ids = distinct(np.random.default_rng(0).integers(0, 3, (NUM_ITEMS, 2)), book_size=3)
    assert len(ids.sizes) == 3
    return Tiger(TigerConfig(size="tiny", beam=beam), ids, rngs=nnx.Rngs(seed))


@pytest.fixture(scope="module")
def wide() -> Tiger:
    return model(beam=NUM_ITEMS)


@pytest.fixture(scope="module")
def by_token(wide) -> np.ndarray:
    """Log-probability of each token of every item after every history: teacher forcing, the decoder without a cache."""
    rows = jnp.repeat(HISTORIES, NUM_ITEMS, axis=0)
    target = jnp.tile(wide.sequences[...], (len(HISTORIES), 1))
    found = jax.jit(functools.partial(wide.log_probabilities, key=None))(rows, target)
    return np.asarray(found).reshape(len(HISTORIES), NUM_ITEMS, -1)


@pytest.fixture(scope="module")
def brute_force(by_token) -> np.ndarray:
    return by_token.sum(axis=2)


@pytest.fixture(scope="module")
def narrow() -> Tiger:
    """The same weights with a beam of 4."""
    return model(beam=4)


@pytest.fixture(scope="module")
def found(narrow) -> Beam:
    return jax.jit(narrow.generate)(HISTORIES)


def evaluation_batch(seen) -> EvaluationBatch:
    zeros = jnp.zeros(len(HISTORIES), jnp.int32)
    return EvaluationBatch(user=zeros, history=HISTORIES, seen=jnp.asarray(seen, jnp.int32), target=zeros)


def test_probabilities_of_all_items_add_up_to_those_of_sequences_that_exist(brute_force):
    total = np.exp(brute_force).sum(axis=1)
    assert (total > 0).all()
    assert (total < 1).all()


def test_a_beam_as_wide_as_the_catalogue_scores_every_item_as_brute_force_does(wide, brute_force):
    beam = jax.jit(wide.generate)(HISTORIES)
    order = np.argsort(-brute_force, axis=1, kind="stable")
    np.testing.assert_array_equal(beam.prefix, order)
    np.testing.assert_allclose(beam.score, np.take_along_axis(brute_force, order, axis=1), atol=1e-5)


def test_a_narrow_beam_keeps_the_best_prefixes_at_each_place(narrow, found, by_token):
    sequences = [tuple(row) for row in np.asarray(narrow.sequences[...])]
    for row, token_scores in enumerate(by_token):
        kept = {()}
        for place in range(1, 4):
            scores = {
                sequence[:place]: token_scores[item, :place].sum()
                for item, sequence in enumerate(sequences)
                if sequence[: place - 1] in kept
            }
            kept = set(sorted(scores, key=scores.__getitem__, reverse=True)[:4])
        assert {sequences[item] for item in np.asarray(found.prefix[row])} == kept
        np.testing.assert_allclose(sorted(found.score[row]), sorted(scores[prefix] for prefix in kept), atol=1e-5)


def test_a_token_is_judged_without_itself_and_later_ones(wide, by_token):
    sequences = np.asarray(wide.sequences[...])
    # Another item that begins alike and ends otherwise.
    other = next(i for i, s in enumerate(sequences) if i != 3 and (s[:2] == sequences[3][:2]).all())
    np.testing.assert_allclose(by_token[:, 3, :2], by_token[:, other, :2], atol=1e-6)
    assert np.abs(by_token[:, 3, 2] - by_token[:, other, 2]).min() > 1e-4


def test_seen_items_and_items_outside_of_the_beam_score_minus_infinity(narrow, brute_force):
    score = jax.jit(narrow.scores)
    everything = np.asarray(score(evaluation_batch(np.full((len(HISTORIES), 2), PADDING))))
    best = everything.argmax(axis=1)
    np.testing.assert_array_equal((np.isfinite(everything)).sum(axis=1), 4)
    scores = np.asarray(score(evaluation_batch(np.stack([best, np.full(len(best), PADDING)], axis=1))))
    assert np.isneginf(scores[np.arange(len(best)), best]).all()
    finite = np.isfinite(scores)
    assert (finite.sum(axis=1) >= 3).all()
    np.testing.assert_allclose(scores[finite], brute_force[finite], atol=1e-5)
    # A target that the beam missed is tied with all others that it missed, and ties count against it.
    missed = np.isneginf(everything).argmax(axis=1).astype(np.int32)
    nothing = jnp.full((len(best), 1), PADDING, jnp.int32)
    rank = ranks(jnp.asarray(everything), jnp.asarray(missed), seen=nothing, num_items=NUM_ITEMS)
    np.testing.assert_array_equal(rank, NUM_ITEMS)


def test_padding_of_a_history_changes_nothing(narrow, found):
    short = jax.jit(narrow.generate)(HISTORIES[1:2, :1])
    np.testing.assert_array_equal(short.prefix[0], found.prefix[1])
    np.testing.assert_allclose(short.score[0], found.score[1], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam": 0}, "model.beam is 0; allowed is 1 or more"),
        ({"size": "llama-tiny"}, "model.size is 'llama-tiny'; allowed are the presets of T5"),
        ({"size": "huge"}, "no such preset"),
        ({"dropout": -0.1}, "model.dropout is -0.1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(TigerConfig(), **settings).validate()
