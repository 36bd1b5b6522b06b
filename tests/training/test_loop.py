"""The loop of a stage: where it ends, and what it does there."""

import grain
import jax
import jax.numpy as jnp
import jraph
import pytest

from experiments.configs import tiny
from tokenrec_jax.config import MeshConfig
from tokenrec_jax.sharding import make_mesh
from tokenrec_jax.training.checkpoint import CheckpointStore, Position
from tokenrec_jax.training.loop import StageRun, run_stage
from tokenrec_jax.training.metric_writer import MetricWriter
from tokenrec_jax.training.state import TrainState
from tokenrec_jax.types import Stage, TrainBatch


@pytest.mark.parametrize("held_out", [2, 1])
def test_the_last_step_refreshes_the_tables_with_or_without_validation(tmp_path, held_out):
    config = tiny.get_config()
    config.train.refresh_codes_every = 4
    config.train.joint.steps, config.train.joint.stop_at, config.train.joint.eval_every = 9, 7, 3
    refreshed, scored = [], []
    position = Position()

    def refresh(state, graph):
        refreshed.append(position.step)
        return state

    def evaluate(state):
        scored.append(position.step)
        return {"ndcg@10": 0.0}

    # Made here, as nothing may be copied to a device within a step.
    loss = jnp.zeros(())
    run = StageRun(
        stage=Stage.JOINT,
        step=lambda state, batch, graph: (state, {"loss": loss}),
        batches=iter(grain.MapDataset.source([TrainBatch()] * 9).to_iter_dataset()),
        graph=jraph.GraphsTuple(*(None,) * len(jraph.GraphsTuple._fields)),
        evaluate=evaluate if held_out == 2 else None,
        refresh=refresh,
    )
    key = jax.random.key_data(jax.random.key(0))
    state = TrainState(step=jnp.zeros((), jnp.int32), params={}, buffers={"x": jnp.zeros(3)}, optimizer=(), key=key)
    store, writer = CheckpointStore(tmp_path), MetricWriter(tmp_path, resume_step=0)
    run_stage(run, state, position, config=config, mesh=make_mesh(MeshConfig()), store=store, writer=writer)
    store.close()
    writer.close()
    assert position.step == 7
    # Every four steps, where a score is due, and at the end: no matter whether somebody looks at the score.
    assert refreshed == [3, 4, 6, 7]
    assert scored == ([3, 6, 7] if held_out == 2 else [])
