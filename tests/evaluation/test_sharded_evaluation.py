"""Evaluation over four devices equals evaluation on one; in a process of its own, as devices are forced."""

from tests.subprocesses import run_python

SCRIPT = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from tests.evaluation.test_evaluator import NUM_ITEMS, make_batches
from tokenrec_jax.evaluation.evaluator import evaluate, score_with_index
from tokenrec_jax.retrieval.index import ItemIndex

rng = np.random.default_rng(3)
table = rng.normal(size=(128, 6)).astype(np.float32)
vectors = np.pad(rng.normal(size=(NUM_ITEMS, 6)).astype(np.float32), ((0, 8), (0, 0)), constant_values=50.0)
mesh = jax.make_mesh((2, 2), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)

def run(users, items, batch):
    with jax.transfer_guard("disallow"):
        users, items = jax.device_put(table, users), jax.device_put(vectors, items)
        index = ItemIndex.build(items, metric="cosine", num_items=NUM_ITEMS)
        query = jax.jit(lambda users, batch: users[batch.user])
        score = score_with_index(lambda batch: query(users, batch), index, sharding=batch)
        return evaluate(score, make_batches(), num_items=NUM_ITEMS, cutoffs=(3, 10))

rows, columns = NamedSharding(mesh, P("rows")), NamedSharding(mesh, P("columns"))
one, four = run(None, None, None), run(columns, columns, rows)
assert len(jax.devices()) == 4
assert one.ranks.tolist() == four.ranks.tolist() and one.users.tolist() == four.users.tolist()
assert one.metrics == four.metrics and 0 < one.metrics["hr@10"] < 1
"""


def test_four_devices_equal_one():
    run_python(SCRIPT, devices=4)
