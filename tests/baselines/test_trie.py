import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenrec_jax.baselines.semantic_ids import distinct, spectral_codes
from tokenrec_jax.baselines.trie import advance, build_trie, start
from tokenrec_jax.types import PADDING, ConfigError, DataError

from .conftest import make_interactions


def random_sequences(num_items: int, *, width: int, tokens: int, seed: int = 0) -> np.ndarray:
    every = np.array(list(itertools.product(range(tokens), repeat=width)))
    return np.random.default_rng(seed).permutation(every)[:num_items]


def walk(levels, sequence) -> int:
    row = 0
    for level, token in zip(levels, sequence, strict=True):
        row = int(level.child[row][list(level.token[row]).index(token)])
    return row


def test_every_item_is_at_the_end_of_its_own_path():
    sequences = random_sequences(40, width=3, tokens=5)
    levels = build_trie(sequences)
    assert [walk(levels, sequence) for sequence in sequences] == list(range(40))


def test_prefixes_have_exactly_the_continuations_of_their_items():
    sequences = random_sequences(40, width=3, tokens=5)
    levels = build_trie(sequences)
    for first in range(5):
        expected = sorted({row[1] for row in sequences if row[0] == first})
        row = int(levels[0].child[0][list(levels[0].token[0]).index(first)])
        assert [token for token in levels[1].token[row] if token != PADDING] == expected
    assert sum(int((level.child != PADDING).sum()) for level in levels[-1:]) == 40


def test_two_items_with_one_sequence_are_refused():
    with pytest.raises(DataError, match=r"items 1 and 3 have the same tokens \[2, 2\]"):
        build_trie(np.array([[1, 2], [2, 2], [2, 1], [2, 2]]))


def beam_by_hand(sequences, scores, *, width: int, allowed) -> list[tuple[float, int]]:
    """Scores depend on the place and the tokens before, as those of a model do."""
    beam = [(0.0, ())]
    for place in range(sequences.shape[1]):
        last = place == sequences.shape[1] - 1
        prefixes = {tuple(row[: place + 1]) for item, row in enumerate(sequences) if allowed[item] or not last}
        longer = [
            (score + scores(tokens)[token], (*tokens, token))
            for score, tokens in beam
            for token in range(scores(tokens).shape[0])
            if (*tokens, token) in prefixes
        ]
        beam = sorted(longer, reverse=True)[:width]
    index = {tuple(row): item for item, row in enumerate(sequences)}
    return [(score, index[tokens]) for score, tokens in beam]


@pytest.mark.parametrize("width", [1, 10, 60])
def test_a_beam_is_that_of_the_definition(width):
    sequences = random_sequences(50, width=3, tokens=5)
    levels = jax.tree.map(jnp.asarray, build_trie(sequences))
    allowed = np.random.default_rng(1).random((2, 50)) < 0.7

    def scores(row: int, tokens: tuple) -> np.ndarray:
        return np.random.default_rng((row, *tokens)).normal(size=5).astype(np.float32)

    step = jax.jit(advance, static_argnames="width")
    beam = start(2)
    written = [[()], [()]]
    for place, level in enumerate(levels):
        table = np.stack([np.stack([scores(row, tokens) for tokens in written[row]]) for row in range(2)])
        last = place == 2
        allow = jnp.asarray(allowed) if last else None
        beam = step(beam, level, jnp.asarray(table), width=width, allowed=allow)
        written = [
            [
                (*written[row][parent], int(token))
                for parent, token in zip(beam.parent[row], beam.token[row], strict=True)
            ]
            for row in range(2)
        ]
    for row in range(2):
        expected = beam_by_hand(
            sequences, lambda tokens, row=row: scores(row, tokens), width=width, allowed=allowed[row]
        )
        found = [(float(s), int(i)) for s, i in zip(beam.score[row], beam.prefix[row], strict=True) if i != PADDING]
        assert [item for _, item in found] == [item for _, item in expected]
        np.testing.assert_allclose([s for s, _ in found], [s for s, _ in expected], atol=1e-5)
        assert np.isneginf(np.asarray(beam.score[row])[len(found) :]).all()


def test_items_that_share_their_codes_are_told_apart_by_one_more():
    ids = distinct(np.array([[1, 2], [0, 0], [1, 2], [1, 1], [1, 2]]), book_size=3)
    assert ids.codes.tolist() == [[1, 2, 0], [0, 0, 0], [1, 2, 1], [1, 1, 0], [1, 2, 2]]
    assert ids.sizes == (3, 3, 3)


def test_codes_that_differ_stay_as_they_are():
    ids = distinct(np.array([[1, 2], [0, 0], [2, 1]]), book_size=3)
    assert ids.codes.tolist() == [[1, 2], [0, 0], [2, 1]]
    assert ids.sizes == (3, 3)


def test_spectral_codes_put_items_of_the_same_users_together():
    # Two groups of users, each with items of its own.
    rng = np.random.default_rng(0)
    histories = [rng.permutation(10)[:6] + 10 * (user % 2) for user in range(80)]
    data = make_interactions(histories, num_items=20)
    codes = spectral_codes(data, dim=4, num_books=2, book_size=2, iterations=10, seed=0)
    assert codes.shape == (20, 2)
    first = codes[:, 0]
    assert len(set(first[:10])) == len(set(first[10:])) == 1
    assert first[0] != first[10]
    again = spectral_codes(data, dim=4, num_books=2, book_size=2, iterations=10, seed=0)
    np.testing.assert_array_equal(codes, again)


def test_too_many_dimensions_are_refused():
    data = make_interactions([[0, 1], [1, 2]], num_items=3)
    with pytest.raises(ConfigError, match=r"model\.vector_dim is 2; allowed is 1 or more and below 2"):
        spectral_codes(data, dim=2, num_books=1, book_size=2, iterations=1, seed=0)
