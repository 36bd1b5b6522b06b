"""A recommender on several devices, in processes of their own."""

import numpy as np
import pytest

from tests.subprocesses import run_python

SCRIPT = """
import jax
from tests.test_recommender import Maker

recommender = Maker("ours", devices=jax.devices())()
assert recommender._mesh.size == 3
recommender.warm_up()
recommender.add_interactions([("ann", "item-1"), ("ann", "item-2"), ("ann", "new")])
(best, *_), = recommender.recommend(["ann"], k=3)
found = recommender.explain("ann", best.item)
assert abs(found.score - best.score) < 1e-5, (found, best)
assert {each.item for each in found.nearest} == {"item-1", "item-2", "new"}
"""


def test_recommends_and_explains_on_three_devices():
    run_python(SCRIPT, devices=3)


CUT_TABLES = """
import jax
from tests.test_recommender import Maker
from tokenrec_jax.config import MeshConfig

whole, cut = (Maker("paper", MeshConfig(tensor=cuts), jax.devices())() for cuts in (1, 2))
added = [("ann", "item-1"), ("ann", "item-2"), ("ann", "new")]
for each in (whole, cut):
    each.add_interactions(added)
found, expected = ([row.item for row in each.recommend(["ann"], k=40)[0]] for each in (cut, whole))
assert found == expected, (found, expected)
codes, expected = (each.model.tables.user_codes[...][:61] for each in (cut, whole))
assert (codes == expected).all()
"""


def test_recommends_to_learned_users_where_tables_are_cut_and_batches_are_not():
    run_python(CUT_TABLES, devices=2)


REOPENED = """
import pathlib, sys
import jax
from experiments.configs import tiny
from experiments.train import run
from tokenrec_jax.config import MeshConfig
from tokenrec_jax.export import export
from tokenrec_jax.portable.artefact import export_portable
from tokenrec_jax.recommender import Recommender
from tokenrec_jax.sharding import reopened_mesh
from tokenrec_jax.training.workdir import Workdir

config, folder = tiny.get_config(), pathlib.Path(sys.argv[1])
config.mesh, config.train.steps, config.evaluation.baselines = MeshConfig(fsdp=2, tensor=2), 4, False
config.data.history_buckets, config.data.cache_dir = (), str(folder / "cache")
workdir = Workdir.start(str(folder / "run"), config)
run(config, workdir)
cut, whole = (Recommender.load(str(workdir.path), mesh=mesh) for mesh in (None, MeshConfig()))
for each, sizes in ((cut, (1, 2, 2)), (whole, (4, 1, 1))):
    assert tuple(each.retriever.mesh.shape.values()) == sizes
    embedding = each.model.llm.token_embedding[...]
    assert embedding.sharding.shard_shape(embedding.shape) == tuple(n // sizes[1] for n in embedding.shape)
    each.add_interactions([("ann", each.item_ids[0]), ("ann", "new")])
users = [*cut.user_ids[:5], "ann"]
histories = [cut.item_ids[:3], ["new"]]
found, expected = (
    [[row.item for row in rows] for rows in (*each.recommend(users), *each.recommend(histories=histories))]
    for each in (cut, whole)
)
assert found == expected, (found, expected)
for each, name in ((cut, "cut"), (whole, "whole")):
    export(each, str(folder / name))
    export_portable(each, str(folder / f"portable-{name}"))
sizes = {
    count: tuple(reopened_mesh(MeshConfig(fsdp=4, tensor=2), jax.devices()[:count]).shape.values())
    for count in (1, 2, 3, 4)
}
assert sizes == {1: (1, 1, 1), 2: (1, 1, 2), 3: (3, 1, 1), 4: (1, 2, 2)}, sizes
"""


@pytest.mark.slow
def test_a_run_is_opened_as_it_was_cut(tmp_path):
    pytest.importorskip("flatbuffers")
    run_python(REOPENED, str(tmp_path), devices=4)
    cut, whole = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("cut", "whole"))
    assert cut == whole
    # Vectors follow the addition; their sums come in another order.
    cut, whole = (np.load(tmp_path / f"portable-{name}" / "weights.npz") for name in ("cut", "whole"))
    assert cut.files == whole.files
    for name in cut.files:
        np.testing.assert_allclose(cut[name], whole[name], atol=1e-5, err_msg=name)
