"""An index cut over eight forced host devices finds, grows and is saved like a whole one; in a process of its own."""

import pytest

from tests.subprocesses import run_python

PROGRAM = """
import re, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding
from tokenrec_jax.config import MeshConfig
from tokenrec_jax.partitioned import BATCH, ROWS
from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.sharding import make_mesh

storage, path = sys.argv[1:]
mesh = make_mesh(MeshConfig(2, 2, 2))
rows, cut = NamedSharding(mesh, ROWS), NamedSharding(mesh, BATCH)
rng = np.random.default_rng(0)
table, queries, new = (rng.normal(size=(n, 8)).astype(np.float32) for n in (4096, 16, 3000))
table[1500] = table[3]  # a tie over the border of two devices
cut_queries = jax.device_put(queries, cut)
exclude = rng.integers(0, 2000, (16, 5)).astype(np.int32)
allow, each = rng.random(4096) < 0.5, rng.random((16, 4096)) < 0.5

def same(many, one, **masks):
    a = one.search(queries, k=20, **masks)
    b = many.search(cut_queries, k=20, **masks)
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_allclose(a.scores, b.scores, rtol=1e-5)

build = lambda vectors: ItemIndex.build(vectors, metric="cosine", storage=storage, num_items=2000)
one, many = build(table), build(jax.device_put(table, rows))
same(many, one)
same(many, one, exclude=exclude, allow=jnp.asarray(each))
same(many, one, allow=jnp.asarray(allow))
text = ItemIndex.search.lower(many, cut_queries, k=20).compile().as_text()
moved = re.findall(r"= \\(?(\\w+\\[[0-9,]*\\])[^=]* (?:all-gather|all-reduce|collective-permute|all-to-all)\\(", text)
assert moved
assert not [shape for shape in moved if "4096" in shape or "1024" in shape], moved
one, many = one.update([5, 1999, 2001], new[:3]), many.update([5, 1999, 2001], new[:3])
same(many, one)
many.save(path)
same(ItemIndex.load(path, mesh=mesh), one)
one, many = one.grow(new), many.grow(new)
assert many.capacity == 8192 and len({str(s.index) for s in many.vectors.addressable_shards}) == 4
same(many, one)
"""


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_cut_and_whole_agree_and_no_item_travels(storage, tmp_path):
    run_python(PROGRAM, storage, str(tmp_path / "index.safetensors"))
