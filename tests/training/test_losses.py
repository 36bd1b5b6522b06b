import jax
import jax.numpy as jnp
import numpy as np

from tokenrec_jax.training import losses
from tokenrec_jax.types import PADDING

QUERIES = jax.random.normal(jax.random.key(0), (2, 3, 4))
ITEMS = jax.random.normal(jax.random.key(1), (8, 4))
TARGET = jnp.array([[1, PADDING, 4], [0, 2, PADDING]])


def test_softmax_is_cross_entropy_over_real_items_at_positions_with_a_target():
    loss = losses.softmax_retrieval(QUERIES, ITEMS, target=TARGET, num_items=5)
    logits = np.einsum("bpd,nd->bpn", QUERIES, ITEMS)[..., :5]
    log_probability = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = [
        log_probability[0, 0, 1],
        log_probability[0, 2, 4],
        log_probability[1, 0, 0],
        log_probability[1, 1, 2],
    ]
    np.testing.assert_allclose(loss, -np.mean(picked), rtol=1e-5)


def test_padded_items_get_no_gradient():
    def loss(items):
        return losses.softmax_retrieval(QUERIES, items, target=TARGET, num_items=5)

    gradient = jax.grad(loss)(ITEMS)
    assert (gradient[5:] == 0).all() and (jnp.abs(gradient[:5]).sum(-1) > 0).all()


def test_pairwise_is_a_hinge_on_cosines():
    items = ITEMS / jnp.linalg.norm(ITEMS, axis=-1, keepdims=True)
    negative = jnp.array([[[2, 3], [0, 0], [5, 6]], [[7, 1], [1, 3], [0, 0]]])
    loss = losses.pairwise_retrieval(QUERIES, items, target=TARGET, negative=negative, margin=0.3)
    unit = np.asarray(QUERIES) / np.linalg.norm(QUERIES, axis=-1, keepdims=True)
    values = []
    for b, p in ((0, 0), (0, 2), (1, 0), (1, 1)):
        positive = unit[b, p] @ items[TARGET[b, p]]
        values.append(np.mean([max(0, unit[b, p] @ items[n] - positive + 0.3) for n in negative[b, p]]))
    np.testing.assert_allclose(loss, np.mean(values), rtol=1e-4)


def test_bpr_prefers_the_positive():
    users, items = jnp.eye(3), jnp.eye(3)
    good = losses.bayesian_personalized_ranking(users, items, jnp.roll(items, 1, axis=0))
    bad = losses.bayesian_personalized_ranking(users, jnp.roll(items, 1, axis=0), items)
    np.testing.assert_allclose(good, np.log1p(np.exp(-1.0)), rtol=1e-5)
    assert good < bad


def test_no_target_at_all_is_zero():
    nothing = jnp.full((2, 3), PADDING)
    assert losses.softmax_retrieval(QUERIES, ITEMS, target=nothing, num_items=5) == 0
