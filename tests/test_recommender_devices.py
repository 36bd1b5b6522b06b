"""A recommender on several devices, in processes of their own."""

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
