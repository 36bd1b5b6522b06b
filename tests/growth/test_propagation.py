import jax.numpy as jnp
import numpy as np

from tokenrec_jax.data.graph import arrange_graph
from tokenrec_jax.growth.propagation import fit_start, moved, propagate_grown, session_vectors
from tokenrec_jax.types import PADDING

USERS, ITEMS, ROWS, LAYERS = 7, 9, 16, 3


def setup():
    """Returns a run of 7 users and 9 items in tables of 16 rows, and a dense reference of its grown graph."""
    rng = np.random.default_rng(0)
    linked = rng.random((USERS, ITEMS)) < 0.5
    linked[np.arange(USERS), np.arange(USERS)] = True
    grown = np.zeros((USERS + 1, ITEMS + 1))
    grown[:USERS, :ITEMS] = linked
    grown[USERS, [1, 4, 5, ITEMS]] = grown[[0, 2], ITEMS] = 1
    tables = [np.zeros((ROWS, 4), np.float32) for _ in range(4)]
    for table, rows in zip(tables, (USERS, ITEMS) * 2, strict=True):
        table[:rows] = rng.normal(size=(rows, 4))
    known = jnp.arange(ROWS) < USERS, jnp.arange(ROWS) < ITEMS
    return linked, grown, tables[:2], tables[2:], known


def graph_of(linked):
    return arrange_graph(*np.nonzero(linked), user_rows=ROWS, item_rows=ROWS, length=256)


def pair(tables):
    return jnp.asarray(tables[0]), jnp.asarray(tables[1])


def test_new_rows_start_from_their_neighbours_and_everything_is_propagated():
    linked, grown, embedding, vectors, known = setup()
    start = fit_start(pair(embedding), pair(vectors), known, graph_of(linked))
    found = propagate_grown(pair(embedding), pair(vectors), known, start, graph_of(grown), num_layers=LAYERS)

    users, items = (table[: rows + 1].astype(float) for table, rows in zip(embedding, (USERS, ITEMS), strict=True))
    # Item vectors, weighted by interactions, are what users lie among.
    pulls, centres = [], []
    for side, (matrix, others) in enumerate(((linked, vectors[1][:ITEMS]), (linked.T, vectors[0][:USERS]))):
        count = matrix.sum(axis=1, keepdims=True)
        centres.append((matrix @ others).sum(axis=0) / count.sum())
        pull = (matrix @ others - count * centres[side]) / np.sqrt(np.maximum(count, 1))
        own = embedding[side][: len(pull)]
        pulls.append((pull * own).sum() / (pull * pull).sum())
    np.testing.assert_allclose(start.scale, pulls, rtol=1e-4)
    users[USERS] = pulls[0] * (vectors[1][[1, 4, 5]].sum(axis=0) - 3 * centres[0]) / np.sqrt(3)
    items[ITEMS] = pulls[1] * (vectors[0][[0, 2]].sum(axis=0) - 2 * centres[1]) / np.sqrt(2)
    weights = grown / np.sqrt(np.maximum(grown.sum(axis=1, keepdims=True) * grown.sum(axis=0, keepdims=True), 1))
    totals, sent = [users, items], 0
    for _ in range(LAYERS):
        sent = sent + items
        users, items = weights @ items, weights.T @ users
        totals = [totals[0] + users, totals[1] + items]
    np.testing.assert_allclose(found.users[: USERS + 1], totals[0] / (LAYERS + 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.items[: ITEMS + 1], totals[1] / (LAYERS + 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.sent[: ITEMS + 1], sent, rtol=1e-4, atol=1e-5)
    assert not np.any(found.users[USERS + 1 :])

    # The new user's vector, had it only been a session.
    degree = np.maximum(np.pad(grown.sum(axis=0), (0, ROWS - ITEMS - 1)), 1)
    session = session_vectors(
        jnp.array([[1, 4, 5, ITEMS, PADDING]]), found.sent, vectors=jnp.asarray(vectors[1]), known=known[1],
        start=start, inverse_sqrt_degree=jnp.asarray(1 / np.sqrt(degree), jnp.float32), num_layers=LAYERS,
    )  # fmt: skip
    np.testing.assert_allclose(session[0], found.users[USERS], rtol=1e-4, atol=1e-5)


def test_without_additions_nothing_moves_and_far_changes_are_below_a_step():
    run = jnp.array([[0.3, -0.7], [1.0, 2.0], [0.0, 0.0]])
    before = jnp.array([[0.31, -0.72], [1.0, 2.0], [0.0, 0.0]])
    step = jnp.float32(0.125)
    np.testing.assert_array_equal(moved(run, before=before, after=before, step=step), run)
    after = before + jnp.array([[0.06, -0.06], [0.13, 0.0], [0.5, 0.25]])
    expected = run + jnp.array([[0.0, 0.0], [0.125, 0.0], [0.5, 0.25]])
    np.testing.assert_array_equal(moved(run, before=before, after=after, step=step), expected)
