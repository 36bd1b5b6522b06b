import dataclasses
import gc
import json

import jax
import numpy as np
import pytest

from tokenrec_jax.training.checkpoint import CheckpointStore, Position
from tokenrec_jax.training.metric_writer import MetricWriter
from tokenrec_jax.training.stages import abstract_stage
from tokenrec_jax.training.state import abstract_model, abstract_state
from tokenrec_jax.types import ConfigError, Stage


def test_state_and_position_come_back_as_they_went(setup, tmp_path, caplog):
    state = setup.state(Stage.LLM)
    position = Position(
        stage=2, step=7, total_step=127, data={"next_index": 7}, best_score=0.25, chosen_steps={"llm": 5}
    )
    store = CheckpointStore(tmp_path)
    assert store.latest is None and store.restore_position() is None
    store.save(state, position)
    store.close()
    store = CheckpointStore(tmp_path)
    assert store.latest == tmp_path / "checkpoints" / "state" / "129"
    assert store.restore_position() == position
    abstract = abstract_stage(
        abstract_state(setup.built.definition), setup.built.graph, definition=setup.built.definition,
        config=setup.config, stage=Stage.LLM, mesh=setup.mesh,
    )  # fmt: skip
    restored = store.restore_state(abstract)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert not [record.message for record in caplog.records if record.levelname != "INFO"]
    store.close()


def test_models_are_replaced_by_name(setup, tmp_path):
    store = CheckpointStore(tmp_path)
    state = setup.state(Stage.LLM)
    model = {"params": state.params, "buffers": state.buffers}
    store.save_model("best_llm", model)
    zeros = jax.tree.map(lambda x: x * 0, model)
    store.save_model("best_llm", zeros)
    restored = store.restore_model("best_llm", abstract_model(setup.built.definition, setup.mesh))
    jax.tree.map(np.testing.assert_array_equal, restored, zeros)
    with pytest.raises(ConfigError, match="best_joint: no such checkpoint"):
        store.restore_model("best_joint", model)
    store.close()
    # Who only reads models leaves no trace.
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["best_llm"]


def test_a_model_stays_until_the_next_one_is_whole(setup, tmp_path, monkeypatch):
    store, folder = CheckpointStore(tmp_path), tmp_path / "checkpoints"
    state = setup.state(Stage.LLM)
    model = {"params": state.params, "buffers": state.buffers}
    abstract = abstract_model(setup.built.definition, setup.mesh)
    store.save_model("best_llm", model)
    save = store._models.save

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(store._models, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        store.save_model("best_llm", model)
    jax.tree.map(np.testing.assert_array_equal, store.restore_model("best_llm", abstract), model)
    # Killed between two names: the new one is whole and the old one is gone.
    (folder / "best_llm").rename(folder / "best_llm.new")
    assert store.has_model("best_llm")
    jax.tree.map(np.testing.assert_array_equal, store.restore_model("best_llm", abstract), model)
    monkeypatch.setattr(store._models, "save", save)
    store.save_model("best_llm", jax.tree.map(lambda x: x * 0, model))
    assert [path.name for path in folder.iterdir()] == ["best_llm"]
    assert not np.any(jax.tree.leaves(store.restore_model("best_llm", abstract))[0])
    store.close()


def test_the_end_of_a_stage_and_the_start_of_the_next_are_two_states(setup, tmp_path):
    store, state = CheckpointStore(tmp_path), setup.state(Stage.LLM)
    store.save(state, Position(stage=1, step=40, total_step=80))
    store.save(state, Position(stage=2, total_step=80))
    assert store.restore_position() == Position(stage=2, total_step=80)
    store.close()


@dataclasses.dataclass
class Older(Position):
    kept: int = 0


def test_what_a_kill_left_half_written_goes_without_a_word(setup, tmp_path, caplog):
    state = setup.state(Stage.LLM)
    folder = tmp_path / "checkpoints"
    for left in ("best_llm.new", "state/4"):
        (folder / f"{left}.orbax-checkpoint-tmp" / "part").mkdir(parents=True)
    store = CheckpointStore(tmp_path)
    assert store.restore_position() is None and not store.has_model("best_llm")
    store.save_model("best_llm", {"params": state.params})
    store.save(state, Position(total_step=4))
    store.close()
    assert sorted(str(path.relative_to(folder)) for path in folder.glob("**/*orbax*")) == []
    assert not [record.message for record in caplog.records if record.levelname != "INFO"]


def test_what_another_version_wrote_is_one_line(setup, tmp_path):
    state = setup.state(Stage.LLM)
    store = CheckpointStore(tmp_path)
    store.save_model("best_llm", {"params": state.params, "buffers": state.buffers})
    model = abstract_model(setup.built.definition, setup.mesh)
    wider = {**model, "params": {**model["params"], "adapter": jax.ShapeDtypeStruct((3,), np.float32)}}
    longer = jax.tree.map(lambda x: jax.ShapeDtypeStruct(tuple(n + 1 for n in x.shape), x.dtype), model)
    for other, said in ((wider, "adapter"), (longer, "there, .* here")):
        with pytest.raises(ConfigError, match=rf"best_llm: holds other arrays.*{said}.*another version") as raised:
            store.restore_model("best_llm", other)
        assert "\n" not in str(raised.value)
    abstract = abstract_stage(
        abstract_state(setup.built.definition), setup.built.graph, definition=setup.built.definition,
        config=setup.config, stage=Stage.LLM, mesh=setup.mesh,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"no state was saved; the run has not got that far"):
        store.restore_state(abstract)
    store.save(state, Older(stage=2, total_step=5))
    store.close()
    store = CheckpointStore(tmp_path)
    with pytest.raises(ConfigError, match=r"state.7: its position has kept; .*another version"):
        store.restore_position()
    moments = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*x.shape, 2), x.dtype) if x.ndim else x, abstract.optimizer)
    for other in (
        dataclasses.replace(abstract, params=wider["params"]),
        dataclasses.replace(abstract, params=longer["params"]),
        dataclasses.replace(abstract, optimizer=moments),
    ):
        with pytest.raises(ConfigError, match=r"state.7.state: holds other arrays.*another version") as raised:
            store.restore_state(other)
        assert len(str(raised.value)) < 500
    # Nothing that Orbax began to read is left to be collected during another test.
    gc.collect()
    store.close()


def test_metrics_after_the_resumed_step_and_cut_lines_go(tmp_path):
    writer = MetricWriter(tmp_path, resume_step=0)
    for step in (10, 20, 30):
        writer.write(step, {"loss": 1.0}, stage="llm", kind="train")
    writer.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 40, "lo')
    writer = MetricWriter(tmp_path, resume_step=20)
    writer.write(21, {"loss": 0.5}, stage="llm", kind="train")
    writer.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 21]
