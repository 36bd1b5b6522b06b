"""A run that begins where another one has been: stages that two runs have in common are trained once. Read `reuse`.

Runs that differ in a late stage only, as those of an ablation, share what comes before it.
"""

import dataclasses
import pathlib

from absl import logging
from jax.sharding import Mesh

from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import Interactions, training_part
from tokenrec_jax.training.build import build_model
from tokenrec_jax.training.checkpoint import FINAL, CheckpointStore
from tokenrec_jax.training.state import TRAINED, TrainState, abstract_model
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import Stage

#: Stages that can be shared: the later ones move what depends on everything.
SHARED = (Stage.COLLABORATIVE, Stage.TOKENIZER)


@dataclasses.dataclass(frozen=True)
class Reused:
    """What a run takes over.

    Attributes:
      state: its first state, parameters and buffers of the shared stages in it.
      seconds: what the other run spent in each of these stages, by name.
      chosen_steps: after how many steps each of them had the model that it handed on, by name; those of a run from
        before that was written down are missing.
    """

    state: TrainState
    seconds: dict[str, float]
    chosen_steps: dict[str, int]


def shared_stages(config: Config, other: Config) -> tuple[Stage, ...]:
    """Returns the first stages of a run that are also those of another run: same seed, same protocol, same settings.

    The protocol, and how much it holds out, decide what is trained on. The last stage of a run is never among them.
    Whether the data is the same, too, is for `reuse` to see.
    """
    ours, theirs = config.evaluation, other.evaluation
    alike = (config.seed, ours.protocol, ours.held_out) == (other.seed, theirs.protocol, theirs.held_out)
    if not alike or Stage.JOINT in map(Stage, other.stages):
        return ()
    shared = []
    for stage, name, other_name in zip(SHARED, config.stages[:-1], other.stages, strict=False):
        if not name == other_name == stage or _settings(config, stage) != _settings(other, stage):
            break
        shared.append(stage)
    return tuple(shared)


def _settings(config: Config, stage: Stage) -> tuple:
    """Returns what decides how a stage goes, given the stages before it."""
    if stage is Stage.COLLABORATIVE:
        return config.lightgcn, config.stage(stage)
    return config.tokenizer, config.stage(stage), config.llm.user_tokens == "folded"


def reuse(state: TrainState, donor: pathlib.Path, *, training: Interactions, config: Config, mesh: Mesh) -> Reused:
    """Returns a fresh state with the stages that a finished run has in common with this one.

    Args:
      state: before the first stage.
      donor: working directory of the finished run.
      training: training interactions of this run.
      config: of this run.
      mesh: devices.

    Raises:
      ConfigError: `donor` holds no finished run.
    """
    workdir = Workdir.open_finished(str(donor), flag="--reuse")
    other = workdir.config()
    stages = shared_stages(config, other)
    theirs = training_part(workdir.interactions(), other.evaluation)
    if not training.same_histories(theirs):
        stages = ()
    logging.info("from %s: %s", donor, ", ".join(stages) or "nothing, as data, seed or first stage differ")
    if not stages:
        return Reused(state=state, seconds={}, chosen_steps={})
    built = build_model(other, theirs, mesh=mesh, saved=workdir.language_model)
    store = CheckpointStore(donor)
    model = store.restore_model(FINAL, abstract_model(built.definition, mesh))
    store.close()
    groups = [group for stage in stages for group in TRAINED[stage]]
    result = workdir.result()
    spent, steps = result["seconds"], result.get("steps", {})
    return Reused(
        state=dataclasses.replace(
            state,
            params={**state.params, **{group: model["params"][group] for group in groups if group in model["params"]}},
            buffers={
                **state.buffers,
                **{group: model["buffers"][group] for group in groups if group in model["buffers"]},
            },
        ),
        seconds={str(stage): spent[stage] for stage in stages if stage in spent},
        chosen_steps={str(stage): steps[stage] for stage in stages if stage in steps},
    )
