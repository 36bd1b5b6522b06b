"""The loop of a stage: where it ends, and what it does there."""

import json
import signal

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
from tokenrec_jax.types import Stage, StoppedError, TrainBatch


def run_stub(folder, config, stage, position, *, evaluate, refresh=None):
    """Runs a stage whose steps do nothing."""
    # Made here, as nothing may be copied to a device within a step.
    loss = jnp.zeros(())
    run = StageRun(
        stage=stage,
        step=lambda state, batch, graph: (state, {"loss": loss, "gradient_norm": loss}),
        batches=grain.MapDataset.source([TrainBatch()] * 9).repeat().to_iter_dataset().__iter__(),
        graph=jraph.GraphsTuple(*(None,) * len(jraph.GraphsTuple._fields)),
        evaluate=evaluate,
        refresh=refresh,
    )
    key = jax.random.key_data(jax.random.key(0))
    state = TrainState(step=jnp.zeros((), jnp.int32), params={}, buffers={"x": jnp.zeros(3)}, optimizer=(), key=key)
    store, writer = CheckpointStore(folder), MetricWriter(folder, resume_step=0)
    try:
        run_stage(run, state, position, config=config, mesh=make_mesh(MeshConfig()), store=store, writer=writer)
    finally:
        store.close()
        writer.close()


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

    run_stub(tmp_path, config, Stage.JOINT, position, evaluate=evaluate if held_out == 2 else None, refresh=refresh)
    assert position.step == 7
    # Every four steps, where a score is due, and at the end: no matter whether somebody looks at the score.
    assert refreshed == [3, 4, 6, 7]
    assert scored == ([3, 6, 7] if held_out == 2 else [])


def test_every_step_that_is_due_is_logged_once_the_last_and_a_saved_one_too(tmp_path):
    config = tiny.get_config()
    config.train.log_every, config.train.checkpoint_every = 3, 6
    config.train.llm.steps, config.train.llm.eval_every = 9, 0
    run_stub(tmp_path, config, Stage.LLM, Position(), evaluate=None)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["kind"], line["loss"]) for line in lines] == [(n, "train", 0.0) for n in (3, 6, 9)]


@pytest.mark.parametrize(("stage", "steps"), [(Stage.LLM, 6), (Stage.COLLABORATIVE, 9)])
def test_patience_is_for_stages_that_read_histories(tmp_path, stage, steps):
    config = tiny.get_config()
    config.train.patience = 2
    settings = getattr(config.train, stage)
    settings.steps, settings.eval_every = 9, 2
    position = Position()
    run_stub(tmp_path, config, stage, position, evaluate=lambda _: {"ndcg@10": 0.0})
    assert (position.step, position.best_step) == (steps, 2)


def test_a_signal_at_the_end_of_patience_stops_the_run_and_the_stage_stays_ended(tmp_path):
    config = tiny.get_config()
    config.train.patience = 1
    config.train.llm.steps, config.train.llm.eval_every = 9, 2
    position = Position()

    def evaluate(_):
        if position.step == 4:
            signal.raise_signal(signal.SIGINT)
        return {"ndcg@10": 0.0}

    with pytest.raises(StoppedError, match="step 4 of 9") as stopped:
        run_stub(tmp_path, config, Stage.LLM, position, evaluate=evaluate)
    assert stopped.value.number == signal.SIGINT
    store = CheckpointStore(tmp_path)
    resumed = store.restore_position()
    store.close()
    assert resumed == position and resumed.step == 4
    run_stub(tmp_path, config, Stage.LLM, resumed, evaluate=lambda _: pytest.fail("evaluated again"))
    assert resumed.step == 4
