import dataclasses

from experiments.configs import tiny
from tokenrec_jax.config import Config
from tokenrec_jax.training.reuse import shared_stages
from tokenrec_jax.types import Stage

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
