import jax
import jax.numpy as jnp
import numpy as np

from tests.baselines.conftest import make_interactions
from tokenrec_jax.baselines.dot_product import dot_product
from tokenrec_jax.evaluation.evaluator import evaluate
from tokenrec_jax.evaluation.protocols import evaluation_batches
from tokenrec_jax.types import Split


def test_scores_are_dot_products_of_padded_tables():
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(8, 5)).astype(np.float32), rng.normal(size=(12, 5)).astype(np.float32)
    data = make_interactions([[0, 1, 2], [3, 4, 5], [6, 7, 8]], num_items=9)
    (batch,) = evaluation_batches(data, Split.TEST, max_history=2, batch_size=4)
    scores = dot_product(jnp.asarray(users), jnp.asarray(items))(batch)
    np.testing.assert_allclose(scores[:3], users[:3] @ items.T, rtol=1e-5, atol=1e-6)


def test_finds_the_target_that_the_vectors_point_at_without_implicit_copies():
    data = make_interactions([[0, 1, 2], [3, 4, 5], [6, 7, 8]], num_items=9)
    targets = np.eye(9, dtype=np.float32)[[2, 5, 8]]
    with jax.transfer_guard("disallow"):
        score = dot_product(jax.device_put(targets), jax.device_put(np.eye(9, dtype=np.float32)))
        batches = evaluation_batches(data, Split.TEST, max_history=2, batch_size=2)
        assert evaluate(score, batches, num_items=9, cutoffs=(1,)).metrics["hr@1"] == 1.0
