"""One device and meshes of eight forced host devices train and recommend alike; run in processes of their own."""

import json

import numpy as np
import pytest

from tests.subprocesses import run_python

PROGRAM = """
import json, sys
from tests.training.conftest import make_setup
from tests.training.test_step import run
from experiments.configs import tiny
from experiments.evaluation import split_metrics
from tokenrec_jax.config import MeshConfig
from tokenrec_jax.data.synthetic import synthetic_interactions
from tokenrec_jax.recommender import Recommender, Retriever
from tokenrec_jax.types import Split, Stage
import jax

interactions = synthetic_interactions(name="synthetic", num_users=60, num_items=40, seed=0)
for mesh in json.loads(sys.argv[2]):
    config = tiny.get_config(sys.argv[1])
    config.mesh = MeshConfig(*mesh)
    config.data.history_buckets, config.evaluation.batch_size = (), 16
    config.llm.item_residual = config.llm.item_vectors_at_input = True
    if sys.argv[1] != "tiny":
        config.llm.objective, config.llm.user_tokens, config.llm.tuning = "dense", "none", "lora"
        config.lightgcn.loss, config.loss.label_smoothing = "softmax", 0.1
        config.llm.item_features = config.llm.fold_in_residual = True
    setup = make_setup(config, devices=jax.devices()[: mesh[0] * mesh[1] * mesh[2]])
    found = {}
    for stage in Stage:
        _, state, metrics, _, _ = run(setup, stage, 3)
        found[stage] = [[float(m["loss"]), float(m["gradient_norm"])] for m in metrics]
    found["shards"] = len({str(s.index) for s in state.params["head"]["item_residual"].addressable_shards})
    # Ranks and recommendations of the last state.
    retriever = Retriever(setup.built, mesh=setup.mesh)
    score = retriever.score_function(state.params, state.buffers)
    found["metrics"] = list(split_metrics(score, interactions, Split.VALID, config=config).values())
    recommender = Recommender(
        interactions, config=config, mesh=setup.mesh, retriever=retriever, params=state.params, buffers=state.buffers
    )
    best = recommender.recommend(interactions.user_ids[:16], k=5)
    found["items"] = [[r.item for r in row] for row in best]
    print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "meshes"), [("tiny", ((2, 2, 2), (2, 4, 1))), ("llama-tiny", ((2, 2, 2), (8, 1, 1)))]
)
def test_nothing_depends_on_the_mesh(preset, meshes):
    done = run_python(PROGRAM, preset, json.dumps([(1, 1, 1), *meshes]))
    one, *others = [json.loads(line) for line in done.splitlines()]
    assert one.pop("shards") == 1
    for mesh, many in zip(meshes, others, strict=True):
        assert many.pop("shards") == mesh[1] * mesh[2]
        assert many.pop("items") == one["items"]
        np.testing.assert_allclose(many.pop("metrics"), one["metrics"], rtol=1e-6)
        for stage, found in many.items():
            # Float32 sums in another order; after three steps of Adam the difference has grown to this at most.
            np.testing.assert_allclose(found, one[stage], rtol=5e-4, err_msg=f"{mesh} {stage}")


COLLECTIVES = """
import json, re, sys
from experiments.configs import tiny
from tests.training.conftest import Setup
from tokenrec_jax.config import MeshConfig
from tokenrec_jax.data.batches import train_batches
from tokenrec_jax.data.synthetic import synthetic_interactions
from tokenrec_jax.evaluation import evaluator
from tokenrec_jax.models import item_features
from tokenrec_jax.recommender import Retriever
from tokenrec_jax.sharding import batch_sharding, make_mesh, put, put_batch, replicated
from tokenrec_jax.training.build import build_model
from tokenrec_jax.training.step import make_train_step
from tokenrec_jax.types import ConfigError, Stage
import jax, numpy as np

config = tiny.get_config()
config.mesh = MeshConfig(2, 2, 2)
config.data.history_buckets = ()
config.llm.item_residual = config.llm.item_vectors_at_input = config.llm.item_features = True
training = synthetic_interactions(name="synthetic", num_users=600, num_items=300, seed=0).without_last(2)
mesh = make_mesh(config.mesh)
setup = Setup(config, training, mesh, build_model(config, training, mesh=mesh))
# Content of the 96 items of a device in three parts.
item_features.COUNTS_AT_ONCE = 32 * len(setup.built.features.names)
# Tables have 640 and 384 rows; neither they nor their halves are sizes of other arrays.
assert (setup.built.shape.user_rows, setup.built.shape.item_rows) == (640, 384)
pattern = r"= \\(?((?:\\w+\\[[0-9,]*\\][^ ]*(?:, )?)+)\\)? (?:all-gather|all-reduce|collective-permute|all-to-all)\\("

def moved(compiled):
    shapes = re.findall(r"\\[([0-9,]*)\\]", " ".join(re.findall(pattern, compiled.as_text())))
    return [[int(size) for size in shape.split(",") if size] for shape in shapes]

found = {}
for stage in Stage:
    state = setup.state(stage)
    step = make_train_step(setup.built.definition, config=config, stage=stage, state=state, mesh=mesh)
    batch = put_batch(next(train_batches(training, config=config, stage=stage)), mesh)
    found[stage] = moved(step.lower(state, batch, setup.built.graph).compile())
config.train.llm.accumulate = 16
state = setup.state(Stage.LLM)
try:
    make_train_step(setup.built.definition, config=config, stage=Stage.LLM, state=state, mesh=mesh)
    raise SystemExit("parts of two rows were accepted on four devices")
except ConfigError as error:
    assert "train.llm.batch_size is 32, in 16 parts (train.llm.accumulate)" in str(error), error
retriever = Retriever(setup.built, mesh=mesh)
found["items"] = moved(retriever._item_vectors.lower(state.params, state.buffers).compile())
index = retriever.index(state.params, state.buffers)
queries = put_batch(np.zeros((32, 16), np.float32), mesh)
scores = jax.jit(lambda index, queries: index.score(queries))(index, queries)
target, seen = (put(np.zeros(shape, np.int32), replicated(mesh)) for shape in (32, (32, 4)))
arguments = (put(np.zeros(300, np.int32), replicated(mesh)), scores, target)
count = put(np.int32(300), replicated(mesh))
assert evaluator.mesh_of(scores) is not None
best = evaluator._best_positions.lower(*arguments, seen=seen, num_items=count, k=10, mesh=evaluator.mesh_of(scores))
found["positions"] = moved(best.compile())
# Of columns that the devices do not divide, too.
odd = put(np.random.default_rng(0).normal(size=(32, 301)).astype(np.float32), batch_sharding(mesh))
shown = [
    evaluator._best_positions(
        put(np.full(301, 99, np.int32), replicated(mesh)), odd, target,
        seen=seen, num_items=put(np.int32(301), replicated(mesh)), k=10, mesh=over,
    )
    for over in (evaluator.mesh_of(odd), None)
]
assert evaluator.mesh_of(odd) is not None and np.array_equal(*shown) and np.min(shown[0]) == 1
found["search"] = moved(type(index).search.lower(index, queries, k=10).compile())
print(json.dumps(found))
"""


@pytest.mark.slow
def test_no_step_brings_a_whole_table_or_whole_logits_together():
    done = run_python(COLLECTIVES)
    for part, shapes in json.loads(done.splitlines()[-1]).items():
        # Vectors of items are made where their rows are.
        assert bool(shapes) == (part != "items"), part
        # Nor a half of one: each device has a quarter.
        larger = [shape for shape in shapes if {384, 192, 640, 320} & set(shape)]
        assert not larger, (part, larger)
