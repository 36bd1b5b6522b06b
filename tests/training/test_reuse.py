import dataclasses

import chex
import pytest

from experiments.configs import tiny
from experiments.training import run
from tests.killing import Killed, kill_after, let_live
from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import training_part
from tokenrec_jax.sharding import make_mesh
from tokenrec_jax.training.build import build_model, first_state
from tokenrec_jax.training.reuse import Reused, reuse, shared_stages
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError, Stage

BOTH = (Stage.COLLABORATIVE, Stage.TOKENIZER)


def changed(**fields) -> Config:
    config = tiny.get_config()
    for name, value in fields.items():
        *path, last = name.split("__")
        part = config
        for step in path:
            part = getattr(part, step)
        setattr(part, last, value)
    return config


def test_stages_are_shared_as_far_as_settings_agree():
    own = tiny.get_config()
    assert shared_stages(own, tiny.get_config()) == BOTH
    assert shared_stages(own, changed(llm__dropout=0.5, loss__temperature=0.5, train__llm__steps=7)) == BOTH
    assert shared_stages(own, changed(tokenizer__mask_ratio=0.5)) == BOTH[:1]
    assert shared_stages(own, changed(llm__user_tokens="folded")) == BOTH[:1]
    assert shared_stages(own, changed(lightgcn__num_layers=0)) == ()
    assert shared_stages(own, changed(train__collaborative__learning_rate=0.1)) == ()
    assert shared_stages(own, changed(seed=1)) == ()
    assert shared_stages(own, changed(evaluation__protocol="reference")) == ()
    assert shared_stages(own, changed(stages=("collaborative", "llm"))) == BOTH[:1]
    assert shared_stages(own, changed(evaluation__held_out=1)) == ()
    assert shared_stages(own, changed(train__tokenizer__stop_at=3)) == BOTH[:1]


def test_what_a_joint_stage_moved_is_not_shared_and_the_last_stage_never_is():
    joint = changed(stages=("collaborative", "tokenizer", "llm", "joint"))
    assert shared_stages(tiny.get_config(), joint) == ()
    # The other way round the first two stages are as good as the run's own.
    assert shared_stages(joint, tiny.get_config()) == BOTH
    alone = changed(stages=("collaborative",))
    assert shared_stages(alone, dataclasses.replace(alone)) == ()


def test_a_run_that_was_killed_gives_the_stages_it_has_ended(tmp_path, monkeypatch):
    made = changed(data__cache_dir=str(tmp_path / "cache"), evaluation__baselines=False)
    for stage in (made.train.collaborative, made.train.tokenizer, made.train.llm):
        stage.steps, stage.eval_every = 4, 2
    made.train.checkpoint_every = 1
    donor = Workdir.start(str(tmp_path / "donor"), made)

    def train_and_die_after(batches: int) -> None:
        kill_after(batches, monkeypatch)
        with pytest.raises(Killed):
            run(made, donor)

    def take_over() -> Reused:
        training = training_part(donor.interactions(), made.evaluation)
        built, mesh = build_model(made, training, mesh=make_mesh(made.mesh)), make_mesh(made.mesh)
        state = first_state(built, seed=made.seed, mesh=mesh)
        return reuse(state, donor.path, training=training, config=made, mesh=mesh)

    train_and_die_after(2)
    assert take_over().seconds == {}
    # Six steps are left of the first two stages.
    train_and_die_after(6 + 2)
    early = take_over()
    assert list(early.seconds) == ["collaborative", "tokenizer"] == list(early.chosen_steps)
    let_live(monkeypatch)
    run(made, donor)
    late = take_over()
    assert early.chosen_steps == late.chosen_steps
    chex.assert_trees_all_equal(early.state.params, late.state.params)
    with donor.held(), pytest.raises(ConfigError, match="another training works there"):
        (donor.path / "result.json").unlink()
        take_over()
