"""A recommender on several devices, in a process of its own; three, as requests are padded to their number."""

from tests.subprocesses import run_python

SCRIPT = """
import jax
from tests.test_recommender import maker

assert len(jax.devices()) == 3
recommender = maker("ours")()
recommender.warm_up()
recommender.add_interactions([("ann", "item-1"), ("ann", "item-2"), ("ann", "new")])
(best, *_), = recommender.recommend(["ann"], k=3)
found = recommender.explain("ann", best.item)
assert abs(found.score - best.score) < 1e-5, (found, best)
assert {each.item for each in found.nearest} == {"item-1", "item-2", "new"}
"""


def test_recommends_and_explains_on_three_devices():
    run_python(SCRIPT, devices=3)
