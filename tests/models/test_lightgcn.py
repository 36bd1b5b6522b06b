import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest
from flax import nnx

from tests.data.test_graph import small
from tokenrec_jax.baselines.dot_product import dot_product
from tokenrec_jax.config import LightGCNConfig
from tokenrec_jax.data.graph import build_graph, padded_rows
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.evaluation.evaluator import evaluate
from tokenrec_jax.evaluation.protocols import evaluation_batches
from tokenrec_jax.models.lightgcn import LightGCN, propagate
from tokenrec_jax.types import Split


def model(num_layers: int) -> tuple[LightGCN, jraph.GraphsTuple]:
    graph = jax.device_put(build_graph(small()))
    config = LightGCNConfig(embedding_dim=8, num_layers=num_layers)
    return (
        LightGCN(config, num_users=padded_rows(2), num_items=padded_rows(3), rngs=nnx.Rngs(0)),
        graph,
    )


def propagated(nodes: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    users = padded_rows(2)
    return jnp.concatenate(propagate(nodes[:users], nodes[users:], graph))


def test_zero_layers_are_matrix_factorisation():
    module, graph = model(0)
    np.testing.assert_array_equal(module(graph).users, module.user_embedding[...])
    np.testing.assert_array_equal(module(graph).items, module.item_embedding[...])


def test_layers_are_averaged():
    module, graph = model(2)
    nodes = jnp.concatenate([module.user_embedding[...], module.item_embedding[...]])
    dense = np.zeros((len(nodes), len(nodes)))
    np.add.at(dense, (np.asarray(graph.receivers), np.asarray(graph.senders)), np.asarray(graph.edges))
    expected = (nodes + dense @ nodes + dense @ dense @ nodes) / 3
    out = module(graph)
    np.testing.assert_allclose(jnp.concatenate([out.users, out.items]), expected, atol=1e-5)


def test_propagation_is_jraphs_symmetric_convolution():
    _, graph = model(1)
    nodes = jax.random.normal(jax.random.key(0), (int(graph.n_node[0]), 4))
    convolution = jraph.GraphConvolution(update_node_fn=lambda x: x, add_self_edges=False, symmetric_normalization=True)
    # jraph counts degrees itself; padded edges have their own node, whose row is left out.
    expected = convolution(graph._replace(nodes=nodes, edges=None)).nodes
    np.testing.assert_allclose(propagated(nodes, graph)[:-1], expected[:-1], atol=1e-5)


def test_the_gradient_of_the_symmetric_rule_is_the_automatic_one():
    _, graph = model(1)
    nodes = jax.random.normal(jax.random.key(0), (int(graph.n_node[0]), 4))
    seed = jax.random.normal(jax.random.key(1), nodes.shape)

    def plain(x):
        return jraph.segment_sum(x[graph.senders] * graph.edges[:, None], graph.receivers, len(x))

    ours = jax.grad(lambda x: jnp.sum(propagated(x, graph) * seed))(nodes)
    expected = jax.grad(lambda x: jnp.sum(plain(x) * seed))(nodes)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize(("layers", "hr", "ndcg"), [(3, 0.1009, 0.0532), (0, 0.0385, None)])
def test_released_lastfm_vectors_reach_their_known_accuracy(shared_data, layers, hr, ndcg):
    """The released layer-0 vectors, propagated over all but the last item; figures of an independent program."""
    whole = lastfm(shared_data)
    graph = jax.device_put(build_graph(whole.without_last(1)))
    released = np.load(shared_data / "LastFM" / "lgn_official_64.npz", allow_pickle=False)
    rows = padded_rows(whole.num_users), padded_rows(whole.num_items)
    module = LightGCN(LightGCNConfig(num_layers=layers), num_users=rows[0], num_items=rows[1], rngs=nnx.Rngs(0))
    for name, count in (("user", rows[0]), ("item", rows[1])):
        padded = np.pad(released[name], ((0, count - len(released[name])), (0, 0)))
        getattr(module, f"{name}_embedding")[...] = jnp.asarray(padded)
    out = module(graph)
    metrics = evaluate(
        dot_product(out.users, out.items),
        evaluation_batches(whole, Split.TEST, max_history=1, batch_size=256),
        num_items=whole.num_items,
        cutoffs=(10,),
    ).metrics
    assert round(metrics["hr@10"], 4) == hr
    if ndcg is not None:
        assert round(metrics["ndcg@10"], 4) == ndcg


def lastfm(shared_data) -> Interactions:
    lines = (shared_data / "LastFM" / "test.txt").read_text(encoding="utf-8").splitlines()
    histories = [np.array(line.split()[1:], np.int32) for line in lines]
    items = np.concatenate(histories)
    return Interactions(
        name="LastFM",
        indptr=np.concatenate([[0], np.cumsum([len(h) for h in histories])]),
        items=items,
        user_ids=tuple(str(u) for u in range(len(histories))),
        item_ids=tuple(str(i) for i in range(items.max() + 1)),
    )
