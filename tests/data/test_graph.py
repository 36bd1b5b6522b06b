import numpy as np

from tokenrec_jax.data.graph import ROW_MULTIPLE, build_graph, inverse_sqrt_degree, padded_rows
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.data.synthetic import synthetic_interactions


def small() -> Interactions:
    return Interactions(
        name="small",
        indptr=np.array([0, 2, 5], np.int64),
        items=np.array([1, 0, 0, 2, 1], np.int32),
        user_ids=("a", "b"),
        item_ids=("x", "y", "z"),
    )


def test_tables_always_have_a_free_row():
    assert padded_rows(ROW_MULTIPLE - 1) == ROW_MULTIPLE
    assert padded_rows(ROW_MULTIPLE) == 2 * ROW_MULTIPLE


def test_graph_is_the_normalised_symmetric_adjacency():
    graph = build_graph(small())
    first_item = padded_rows(2)
    nodes = first_item + padded_rows(3)
    dense = np.zeros((nodes, nodes))
    np.add.at(dense, (graph.receivers, graph.senders), graph.edges)
    expected = np.zeros((nodes, nodes))
    degree_user, degree_item = [2, 3], [2, 2, 1]
    for user, item in [(0, 1), (0, 0), (1, 0), (1, 2), (1, 1)]:
        weight = 1 / np.sqrt(degree_user[user] * degree_item[item])
        expected[user, first_item + item] = expected[first_item + item, user] = weight
    np.testing.assert_allclose(dense, expected, atol=1e-6)


def test_edges_are_sorted_and_padded():
    graph = build_graph(small())
    assert (np.diff(graph.receivers) >= 0).all()
    assert len(graph.senders) == ROW_MULTIPLE == graph.n_edge[0]
    assert graph.receivers[-1] == graph.n_node[0] - 1
    assert graph.edges[10:].sum() == 0


def test_edges_of_shards_are_those_of_the_whole_graph():
    """Each edge once, with its receiver's shard, in the group of its sender's distance, numbered within shards."""
    data = synthetic_interactions(name="synthetic", num_users=150, num_items=140, seed=0)
    whole, shards = build_graph(data), 4
    cut = build_graph(data, shards=shards)
    users, items = padded_rows(150), padded_rows(140)

    def node(shard, local):
        """Returns the node of the whole graph."""
        each = users // shards
        return np.where(local < each, shard * each + local, users + shard * (items // shards) + local - each)

    groups = [part.reshape(shards, shards, -1) for part in (cut.senders, cut.receivers, cut.edges)]
    shard, turn = np.arange(shards)[:, None, None], np.arange(shards)[None, :, None]
    assert (np.diff(groups[1], axis=2) >= 0).all()
    found = np.stack([node((shard + turn) % shards, groups[0]), node(shard + 0 * turn, groups[1]), groups[2]], axis=-1)
    expected = np.stack([whole.senders, whole.receivers, whole.edges], axis=-1)
    kept = [edges[edges[..., 2] > 0].reshape(-1, 3) for edges in (found, expected)]
    ordered = [edges[np.lexsort(edges[:, :2].T)] for edges in kept]
    np.testing.assert_array_equal(*ordered)
    assert len(ordered[0]) == 2 * len(data.items)


def test_degrees_count_users_and_untouched_items_count_one():
    table = inverse_sqrt_degree(small())
    np.testing.assert_allclose(table[:4], [2**-0.5, 2**-0.5, 1, 1])
