"""The loop of one stage: steps, metrics, evaluations, checkpoints, stopping early or by signal. Read `run_stage`.

It is handed its evaluator as a callable and knows no metric but the one that chooses the best model.
"""

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator

import grain
import jax
import jraph
from absl import logging
from jax.sharding import Mesh
from tqdm import tqdm

from tokenrec_jax.config import Config
from tokenrec_jax.processes import is_main
from tokenrec_jax.sharding import put_batch
from tokenrec_jax.training.checkpoint import CheckpointStore, Position
from tokenrec_jax.training.metric_writer import MetricWriter
from tokenrec_jax.training.state import Evaluator, TrainState
from tokenrec_jax.training.step import TrainStep
from tokenrec_jax.training.stopping import StopSignals
from tokenrec_jax.training.trace import StepTrace
from tokenrec_jax.types import Stage, StoppedError, TokenRecError, TrainBatch

#: Validation metric that chooses the best model of a stage.
SELECTION_METRIC = "ndcg@10"


@dataclasses.dataclass(frozen=True)
class StageRun:
    """What the loop of one stage needs.

    Attributes:
      stage: the stage.
      step: its jitted train step.
      batches: its data pipeline; its position is saved with the state.
      graph: the training graph on the devices.
      evaluate: returns validation metrics of a state, or None where a stage has none.
      refresh: updates the code tables in stage JOINT, else None.
    """

    stage: Stage
    step: TrainStep
    batches: grain.DatasetIterator[TrainBatch]
    graph: jraph.GraphsTuple
    evaluate: Evaluator | None
    refresh: Callable[[TrainState, jraph.GraphsTuple], TrainState] | None = None


def run_stage(
    run: StageRun,
    state: TrainState,
    position: Position,
    *,
    config: Config,
    mesh: Mesh,
    store: CheckpointStore,
    writer: MetricWriter,
) -> TrainState:
    """Trains a stage from `position` to its end and returns its best state, or its last where nothing is evaluated.

    `position` is updated in place. Metrics of a step are read while the next one runs, so the devices never wait.

    Raises:
      TokenRecError: the loss or its gradient is not finite.
      StoppedError: SIGINT or SIGTERM came, to any process; the state of the last step is saved.
    """
    settings = config.stage(run.stage)
    num_steps = settings.stop_at or settings.steps
    if position.data:
        run.batches.set_state(position.data)
    started, before = time.monotonic(), position.seconds.get(run.stage, 0.0)
    pending: dict[str, jax.Array] | None = None

    def clock() -> None:
        position.seconds[run.stage] = before + time.monotonic() - started

    def settle() -> None:
        """Reads the metrics of the last step, once, writes them where they are due, and refuses what is no number."""
        nonlocal pending
        if pending is None:
            return
        values = {name: float(value) for name, value in jax.device_get(pending).items()}
        pending = None
        # A gradient of no number has spoilt the parameters already, before any loss shows it.
        for name, what in (("loss", "loss"), ("gradient_norm", "norm of the gradient")):
            if math.isfinite(values[name]):
                continue
            raise TokenRecError(
                f"stage {run.stage}, step {position.step}: the {what} is {values[name]}; last checkpoint: "
                f"{store.latest}; train in another --workdir with a lower train.{run.stage}.learning_rate, or with "
                f"train.{run.stage}.clip_norm"
            )
        if position.step % config.train.log_every == 0:
            writer.write(position.total_step, values, stage=run.stage, kind="train")
            progress.report(values)

    def checkpoint() -> None:
        settle()
        clock()
        position.data = run.batches.get_state()
        store.save(state, position)

    trace = StepTrace(config.train.profile, stage=run.stage, folder=writer.folder / "profile")
    with StopSignals(mesh) as stop, trace, _progress(run.stage, num_steps, position.step) as progress:
        while position.step < num_steps and not _exhausted(position, run.stage, config):
            # Nothing may be copied to the devices but the batch, and that explicitly.
            with jax.transfer_guard("disallow"), trace.step(position.step):
                batch = put_batch(next(run.batches), mesh)
                state, metrics = run.step(state, batch, run.graph)
            trace.done(position.step, metrics)
            settle()
            pending = metrics
            position.step += 1
            position.total_step += 1
            progress.advance()
            last = position.step == num_steps
            due = last or _due(position.step, settings.eval_every)
            evaluate = run.evaluate if due else None
            if run.refresh and (due or _due(position.step, config.train.refresh_codes_every)):
                state = run.refresh(state, run.graph)
            if evaluate:
                settle()
                scores = evaluate(state)
                writer.write(position.total_step, scores, stage=run.stage, kind="valid")
                progress.report(scores)
                _keep_best(state, scores[SELECTION_METRIC], position, run.stage, store)
                if _exhausted(position, run.stage, config):
                    logging.info(
                        "stage %s stops at step %d: no better since %d", run.stage, position.step, position.best_step
                    )
                    last = True
            if stop.due(position.step, last=last):
                checkpoint()
                raise StoppedError(
                    f"stopped at stage {run.stage}, step {position.step} of {num_steps}; saved in {store.latest}; "
                    "run the same command again to go on",
                    stop.number,
                )
            if _due(position.step, config.train.checkpoint_every):
                checkpoint()
        settle()
    clock()
    return state


def _keep_best(state: TrainState, score: float, position: Position, stage: Stage, store: CheckpointStore) -> None:
    if score > position.best_score:
        position.best_score, position.best_step, position.evaluations_since_best = score, position.step, 0
        store.save_model(f"best_{stage}", {"params": state.params, "buffers": state.buffers})
    else:
        position.evaluations_since_best += 1


def _exhausted(position: Position, stage: Stage, config: Config) -> bool:
    """Returns whether a stage that learns to rank histories has not become better for so long that it ends."""
    patient = config.train.patience > 0 and stage in (Stage.LLM, Stage.JOINT)
    return patient and position.evaluations_since_best >= config.train.patience


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


class _Progress:
    """A bar with time left and current metrics on a terminal, plain lines elsewhere."""

    def __init__(self, stage: Stage, num_steps: int, step: int):
        self._stage, self._num_steps, self._step = stage, num_steps, step
        self._bar = None
        self._started, self._first = time.monotonic(), step
        if sys.stderr.isatty() and is_main():
            self._bar = tqdm(total=num_steps, initial=step, desc=str(stage), unit="step", dynamic_ncols=True)

    def advance(self) -> None:
        self._step += 1
        if self._bar:
            self._bar.update()

    def report(self, values: dict[str, float]) -> None:
        shown = {name: f"{value:.4g}" for name, value in values.items() if name in _SHOWN}
        if self._bar:
            self._bar.set_postfix(shown)
            return
        done = max(self._step - self._first, 1)
        left = (time.monotonic() - self._started) / done * (self._num_steps - self._step)
        text = " ".join(f"{name}={value}" for name, value in shown.items())
        logging.info("%s %d/%d %s (%.0f s left)", self._stage, self._step, self._num_steps, text, left)

    def close(self) -> None:
        if self._bar:
            self._bar.close()


_SHOWN = ("loss", "retrieval", "bpr", "softmax", "hr@10", "ndcg@10")


@contextlib.contextmanager
def _progress(stage: Stage, num_steps: int, step: int) -> Iterator[_Progress]:
    progress = _Progress(stage, num_steps, step)
    try:
        yield progress
    finally:
        progress.close()
