"""Tables that are cut over eight forced host devices give what whole ones give; in a process of its own."""

import json

import pytest

from tests.subprocesses import run_python

PROGRAM = """
import json, re, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding
from tokenrec_jax.config import MeshConfig
from tokenrec_jax.partitioned import BATCH, ROWS, map_rows, take_rows
from tokenrec_jax.retrieval import search
from tokenrec_jax.sharding import make_mesh, on_mesh
from tokenrec_jax.training.normaliser import cross_entropy

data, fsdp, tensor = map(int, sys.argv[1:4])
mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
rows, cuts = NamedSharding(mesh, ROWS), NamedSharding(mesh, BATCH)
rng = np.random.default_rng(0)
# 4,096 rows of which the last devices hold nothing but padding.
table = rng.normal(size=(4096, 8)).astype(np.float32)
num_items = 2000
queries = rng.normal(size=(16, 8)).astype(np.float32)
index = rng.integers(0, num_items, size=(16, 3)).astype(np.int32)
target = np.where(np.arange(16) % 5 == 1, -1, index[:, 0])  # some rows have none
exclude = np.concatenate([index, np.full((16, 1), -1)], axis=1).astype(np.int32)
table[1500] = table[3]  # a tie over the border of two devices

def loss(table, queries, index, target):
    taken = take_rows(table, index)
    entropy = cross_entropy(queries, table, target=target, num_items=num_items)
    return jnp.sum(jnp.sin(taken)) + jnp.sum(entropy * jnp.arange(1.0, 17.0))

def on(function):
    def traced(*arguments):
        with on_mesh(mesh):
            return function(*arguments)
    return traced

gradient = jax.value_and_grad(loss, argnums=(0, 1))
expected = jax.jit(gradient)(table, queries, index, target)
places = (rows, cuts, cuts, cuts)
placed = [jax.device_put(x, place) for x, place in zip((table, queries, index, target), places)]
compiled = jax.jit(on(gradient), out_shardings=(None, (rows, cuts))).lower(*placed).compile()
found = compiled(*placed)
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, expected)

# On one device and on eight there is a rest that does not fill the last part.
weights = rng.normal(size=(8, 3)).astype(np.float32)
product = jax.checkpoint(lambda each, weights: jnp.sin(each @ weights), prevent_cse=False)
parts = lambda table, weights: map_rows(product, table, weights, at_once=100)
cut = {"in_shardings": (rows, None)}
for each in (jax.jit(parts), jax.jit(on(parts), **cut, out_shardings=rows)):
    np.testing.assert_allclose(each(table, weights), np.sin(table @ weights), rtol=2e-5, atol=2e-5)
slope = jax.grad(lambda table, weights: jnp.sum(parts(table, weights) ** 2), argnums=1)
expected = jax.grad(lambda weights: jnp.sum(jnp.sin(table @ weights) ** 2))(weights)
for each in (jax.jit(slope), jax.jit(on(slope), **cut)):
    np.testing.assert_allclose(each(table, weights), expected, rtol=2e-4, atol=2e-4)

def top(table, queries, exclude):
    return search.top_k(queries, table, k=20, num_items=num_items, exclude=exclude)

best = jax.jit(top)(table, queries, exclude)
searched = jax.jit(on(top), out_shardings=cuts).lower(placed[0], placed[1], jax.device_put(exclude, cuts)).compile()
ours = searched(placed[0], placed[1], jax.device_put(exclude, cuts))
np.testing.assert_array_equal(ours.ids, best.ids)
np.testing.assert_allclose(ours.scores, best.scores, rtol=1e-6)
pattern = r"= \\(?(\\w+\\[[0-9,]*\\])[^=]* (?:all-gather|all-gather-start|all-reduce|collective-permute)\\("
moved = re.findall(pattern, compiled.as_text() + searched.as_text())
print(json.dumps(moved))
"""


@pytest.mark.parametrize("mesh", ["8 1 1", "2 4 1", "2 2 2"])
def test_lookups_softmax_and_search_agree_and_move_no_table(mesh):
    moved = json.loads(run_python(PROGRAM, *mesh.split()).splitlines()[-1])
    assert moved
    # No collective brings together a table of 4,096 rows, or the logits of a query against all of them.
    whole = [shape for shape in moved if "4096" in shape]
    assert not whole or mesh == "8 1 1", moved
