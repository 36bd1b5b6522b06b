"""A run that begins where another one has been: stages that two runs have in common are trained once. Read `reuse`.

Runs that differ in a late stage only, as those of an ablation, share what comes before it.
"""

import contextlib
import dataclasses
import pathlib
from typing import Any

from absl import logging
from jax.sharding import Mesh

from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import Interactions, training_part
from tokenrec_jax.training.build import BuiltModel, build_model
from tokenrec_jax.training.checkpoint import FINAL, CheckpointStore
from tokenrec_jax.training.stages import abstract_stage
from tokenrec_jax.training.state import TRAINED, TrainState, abstract_model, abstract_state
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
    """Returns a fresh state with the stages that another run has ended and has in common with this one.

    Args:
      state: before the first stage.
      donor: working directory of the other run, which nobody trains at the moment.
      training: training interactions of this run.
      config: of this run.
      mesh: devices.

    Raises:
      ConfigError: `donor` holds no run of TokenRec, or is being trained.
    """
    workdir = Workdir.open_begun(str(donor), flag="--reuse")
    other = workdir.config()
    stages = shared_stages(config, other)
    theirs = training_part(workdir.interactions(), other.evaluation)
    if not training.same_histories(theirs):
        stages = ()
    ended = None
    if stages:
        built = build_model(other, theirs, mesh=mesh, saved=workdir.language_model)
        with contextlib.closing(CheckpointStore(donor)) as store:
            if workdir.finished:
                ended = _finished(workdir, store, built, mesh=mesh)
            else:
                with workdir.held():
                    ended = _unfinished(store, built, other, mesh=mesh)
    if ended is None:
        logging.info("from %s: nothing, as data, seed or first stage differ, or it has ended none", donor)
        return Reused(state=state, seconds={}, chosen_steps={})
    stages = tuple(stage for stage in stages if stage in ended.stages)
    logging.info("from %s: %s", donor, ", ".join(stages))
    groups = [group for stage in stages for group in TRAINED[stage]]
    return Reused(
        state=dataclasses.replace(
            state,
            params={**state.params, **{group: ended.params[group] for group in groups if group in ended.params}},
            buffers={**state.buffers, **{group: ended.buffers[group] for group in groups if group in ended.buffers}},
        ),
        seconds={str(stage): ended.seconds[stage] for stage in stages if stage in ended.seconds},
        chosen_steps={str(stage): ended.chosen_steps[stage] for stage in stages if stage in ended.chosen_steps},
    )


@dataclasses.dataclass(frozen=True)
class _Ended:
    """The stages that a run has ended, and what it has of them."""

    stages: tuple[str, ...]
    params: dict[str, Any]
    buffers: dict[str, Any]
    seconds: dict[str, float]
    chosen_steps: dict[str, int]


def _finished(workdir: Workdir, store: CheckpointStore, built: BuiltModel, *, mesh: Mesh) -> _Ended:
    model, result = store.restore_model(FINAL, abstract_model(built.definition, mesh)), workdir.result()
    stages = tuple(workdir.config().stages)
    return _Ended(stages, model["params"], model["buffers"], result["seconds"], result.get("steps", {}))


def _unfinished(store: CheckpointStore, built: BuiltModel, config: Config, *, mesh: Mesh) -> _Ended | None:
    """Returns what the newest state has; None if its stage is the first one, or there is no state."""
    position = store.restore_position()
    if position is None or position.stage == 0:
        return None
    stage = position.stage_among(config.stages)
    abstract = abstract_stage(
        abstract_state(built.definition),
        built.graph,
        definition=built.definition,
        config=config,
        stage=stage,
        mesh=mesh,
    )
    state, stages = store.restore_state(abstract), tuple(config.stages[: position.stage])
    return _Ended(stages, state.params, state.buffers, position.seconds, position.chosen_steps)
