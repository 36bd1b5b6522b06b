"""A whole training run: its stages one after another, each resumable. Read `train`.

It is handed the evaluators of its stages; `experiments/train.py` wires them.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping

from absl import logging
from jax.sharding import Mesh

from tokenrec_jax.config import Config
from tokenrec_jax.data.batches import train_batches
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.models.quantization import measure_usage
from tokenrec_jax.sharding import fetch
from tokenrec_jax.training.build import BuiltModel, first_state
from tokenrec_jax.training.checkpoint import FINAL, CheckpointStore, Position
from tokenrec_jax.training.loop import StageRun, run_stage
from tokenrec_jax.training.metric_writer import MetricWriter
from tokenrec_jax.training.reuse import reuse
from tokenrec_jax.training.stages import abstract_stage, begin_stage, make_table_refresh
from tokenrec_jax.training.state import Evaluator, TrainState, abstract_model, abstract_state, trained
from tokenrec_jax.training.step import check_batches, make_train_step
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import Stage


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """Result of a run.

    Attributes:
      state: parameters and buffers after the last stage; its optimizer moments mean nothing.
      seconds: time spent in each stage, by name.
      chosen_steps: after how many steps each stage had the model that it handed on, by name: the best on validation, or
        the last where nothing is evaluated. Stages that ended before runs wrote this down are missing.
    """

    state: TrainState
    seconds: dict[str, float]
    chosen_steps: dict[str, int]


def train(
    built: BuiltModel,
    training: Interactions,
    *,
    config: Config,
    mesh: Mesh,
    workdir: Workdir,
    evaluators: Mapping[Stage, Evaluator],
    donor: pathlib.Path | None = None,
) -> TrainedModel:
    """Runs all stages from where the working directory stands and leaves the `final` checkpoint there.

    With several processes all of them call it, with the same arguments.

    Args:
      built: model definition, graph and vocabulary.
      training: training interactions only.
      config: of the run.
      mesh: devices.
      workdir: of the run.
      evaluators: validation metrics of a state, for the stages that choose their best step by them.
      donor: working directory of a run, whose first stages are taken over by a run that has not begun, as far as it
        ended them and the two have them in common.

    Raises:
      ConfigError: see `check_batches`.
      TokenRecError: see `run_stage`.
    """
    stages = [Stage(name) for name in config.stages]
    for stage in stages:
        check_batches(config, stage, mesh)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(CheckpointStore(workdir.path)))
        position = store.restore_position() or Position()
        writer = stack.enter_context(contextlib.closing(MetricWriter(workdir.path, resume_step=position.total_step)))
        if store.latest is None:
            state = first_state(built, seed=config.seed, mesh=mesh)
            if donor is not None:
                reused = reuse(state, donor, training=training, config=config, mesh=mesh)
                state, position.seconds = reused.state, reused.seconds
                position.chosen_steps = reused.chosen_steps
                position.stage = len(reused.seconds)
            state = _begin(built, state, config=config, mesh=mesh, stage=stages[position.stage])
        else:
            state = _resume(built, position, config=config, mesh=mesh, store=store)
        for index in range(position.stage, len(stages)):
            stage = stages[index]
            state = _train_stage(
                built, state, position, stage, training,
                config=config, mesh=mesh, store=store, writer=writer, evaluate=evaluators.get(stage),
            )  # fmt: skip
            _advance(position, index + 1)
            if index + 1 < len(stages):
                state = _begin(built, state, config=config, mesh=mesh, stage=stages[index + 1])
            # A run that is killed early in what follows need not repeat the end of this stage.
            store.save(state, position)
        store.save_model(FINAL, {"params": state.params, "buffers": state.buffers})
        return TrainedModel(state=state, seconds=position.seconds, chosen_steps=position.chosen_steps)


def _resume(built: BuiltModel, position: Position, *, config: Config, mesh: Mesh, store: CheckpointStore) -> TrainState:
    """Returns the state of the newest checkpoint."""
    stage = position.stage_among(config.stages)
    if position.stage == len(config.stages):
        logging.info("all stages have ended, going on from %s", store.latest)
    else:
        logging.info("resuming at stage %s, step %d, from %s", stage, position.step, store.latest)
    fresh = abstract_state(built.definition)
    return store.restore_state(
        abstract_stage(fresh, built.graph, definition=built.definition, config=config, stage=stage, mesh=mesh)
    )


def _begin(built: BuiltModel, state: TrainState, *, config: Config, mesh: Mesh, stage: Stage) -> TrainState:
    return begin_stage(state, built.graph, definition=built.definition, config=config, stage=stage, mesh=mesh)


def _advance(position: Position, stage: int) -> None:
    """Moves a position to the start of a stage."""
    position.stage, position.step, position.data = stage, 0, {}
    position.best_score, position.best_step, position.evaluations_since_best = -1.0, 0, 0


def _train_stage(
    built: BuiltModel,
    state: TrainState,
    position: Position,
    stage: Stage,
    training: Interactions,
    *,
    config: Config,
    mesh: Mesh,
    store: CheckpointStore,
    writer: MetricWriter,
    evaluate: Evaluator | None,
) -> TrainState:
    """Returns the best state of a stage, or its last where nothing is evaluated."""
    refresh = make_table_refresh(built.definition, stage=stage, state=state, graph=built.graph, mesh=mesh)
    run = StageRun(
        stage=stage,
        step=make_train_step(built.definition, config=config, stage=stage, state=state, mesh=mesh),
        batches=train_batches(training, config=config, stage=stage),
        graph=built.graph,
        evaluate=evaluate,
        refresh=refresh if stage is Stage.JOINT else None,
    )
    if trained(state.params, stage, tuning=config.llm.tuning):
        state = run_stage(run, state, position, config=config, mesh=mesh, store=store, writer=writer)
    else:
        logging.info("stage %s: nothing to train with tokenizer.kind=%s", stage, config.tokenizer.kind)
    position.chosen_steps[stage] = position.step if evaluate is None else position.best_step
    if evaluate is not None:
        logging.info("stage %s: best at step %d of %d", stage, position.best_step, position.step)
        best = store.restore_model(f"best_{stage}", abstract_model(built.definition, mesh))
        state = dataclasses.replace(state, params=best["params"], buffers=best["buffers"])
    if stage is Stage.TOKENIZER:
        state = refresh(state, built.graph)
        _report_codes(built, state, writer, position, book_size=config.tokenizer.book_size)
    return state


def _report_codes(
    built: BuiltModel, state: TrainState, writer: MetricWriter, position: Position, *, book_size: int
) -> None:
    """Logs and writes how well the codebooks are used and how many users or items share a full code."""
    tables = fetch({side: state.buffers["tables"][f"{side}_codes"] for side in ("user", "item")})
    values: dict[str, float] = {}
    for side, rows in (("user", built.shape.num_users), ("item", built.shape.num_items)):
        usage = measure_usage(tables[side][:rows], book_size=book_size)
        for book, (used, perplexity) in enumerate(zip(usage.used, usage.perplexity, strict=True)):
            values |= {f"{side}_used_{book}": float(used), f"{side}_perplexity_{book}": float(perplexity)}
        values[f"{side}_sharing"] = usage.sharing_ratio
        logging.info(
            "%s codes: %s of %d used a book, perplexity %s, %d of %d share a full code",
            side, usage.used.tolist(), book_size, usage.perplexity.round(1).tolist(), usage.sharing_rows, rows,
        )  # fmt: skip
    writer.write(position.total_step, values, stage=Stage.TOKENIZER, kind="diagnostics")
