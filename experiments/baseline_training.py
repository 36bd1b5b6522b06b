"""A whole run of a trained baseline from its config to result.json. Read `run`, then `Baseline`.

The loop, its checkpoints and its data pipeline are those of TokenRec's stages, so a baseline that was killed goes on as
a TokenRec does. Everything of it is one replicated state: these models are small. What the models are is in
`tokenrec_jax/baselines/`, how each is wired to its loss in `baseline_models.py`.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import optax
from absl import logging
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from experiments.baseline_config import BaselineConfig
from experiments.evaluation import (
    held_out_splits,
    rank_arrays,
    ranked_splits,
    say_protocol,
    split_metrics,
    split_values,
)
from tokenrec_jax.config import Config
from tokenrec_jax.data.batches import train_batches
from tokenrec_jax.data.interactions import Interactions, training_part
from tokenrec_jax.evaluation.evaluator import ScoreFunction
from tokenrec_jax.sharding import batch_sharding, make_mesh, put, replicated
from tokenrec_jax.training.checkpoint import FINAL, CheckpointStore, Position
from tokenrec_jax.training.loop import StageRun, run_stage
from tokenrec_jax.training.metric_writer import MetricWriter
from tokenrec_jax.training.optimizer import make_optimizer
from tokenrec_jax.training.state import TrainState, abstract_like
from tokenrec_jax.training.step import TrainStep, check_batches
from tokenrec_jax.training.workdir import BUILT_ON, Workdir
from tokenrec_jax.types import EvaluationBatch, HistoryBatch, Split, Stage, TrainBatch

#: The loop knows stages; a baseline has one, which is the one that learns from histories.
_STAGE = Stage.LLM


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A model as the loop wants it.

    Attributes:
      name: of the system, in result.json.
      build: makes the module from a key.
      loss: (module, batch, dropout key) -> scalar.
      scores: (module, batch) -> scores [batch, items]; jitted by the caller.
    """

    name: str
    build: Callable[[jax.Array], Any]
    loss: Callable[[Any, HistoryBatch, jax.Array], Array]
    scores: Callable[[Any, EvaluationBatch], Array]


def run(baseline: Baseline, interactions: Interactions, *, config: BaselineConfig, workdir: Workdir) -> dict[str, Any]:
    """Trains a baseline from where its directory stands, ranks what was held out with its best and leaves result.json.

    Args:
      baseline: the model.
      interactions: whole histories, held-out items included, in the order of the protocol.
      config: of the run.
      workdir: of the run, begun.

    Returns:
      What result.json holds.

    Raises:
      ConfigError: settings that cannot be.
      TokenRecError: see `run_stage`.
    """
    loop_config = config.loop_config()
    say_protocol(loop_config)
    mesh = make_mesh(loop_config.mesh)
    check_batches(loop_config, _STAGE, mesh)
    model = _Model(baseline, loop_config, mesh)

    def validation(state: TrainState) -> dict[str, float]:
        score = model.score_function(state.params, state.buffers)
        return split_metrics(score, interactions, Split.VALID, config=loop_config)

    training = training_part(interactions, config.evaluation)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(CheckpointStore(workdir.path)))
        position = store.restore_position() or Position()
        writer = stack.enter_context(contextlib.closing(MetricWriter(workdir.path, resume_step=position.total_step)))
        abstract = model.abstract_state()
        if store.latest is None:
            state = model.fresh_state()
        else:
            logging.info("resuming at step %d from %s", position.step, store.latest)
            state = store.restore_state(abstract)
        stage = StageRun(
            stage=_STAGE,
            step=model.train_step(),
            batches=train_batches(training, config=loop_config, stage=_STAGE),
            graph=_NO_GRAPH,
            evaluate=validation if Split.VALID in held_out_splits(loop_config) else None,
        )
        state = run_stage(stage, state, position, config=loop_config, mesh=mesh, store=store, writer=writer)
        best, best_step = {"params": state.params, "buffers": state.buffers}, position.step
        if stage.evaluate is not None:
            best_step = position.best_step
            best = store.restore_model(f"best_{_STAGE}", {"params": abstract.params, "buffers": abstract.buffers})
        logging.info("best at step %d of %d; ranking all users against all items", best_step, position.step)
        store.save_model(FINAL, best)
    score = model.score_function(best["params"], best["buffers"])
    outputs = ranked_splits(dict.fromkeys(Split, score), interactions, config=loop_config)
    result = {
        "system": baseline.name,
        "dataset": interactions.name,
        "seed": config.seed,
        "protocol": config.evaluation.protocol,
        **split_values(outputs),
        "held_out": config.evaluation.held_out,
        "baselines": {},
        "best_step": best_step,
        **({BUILT_ON: Workdir(pathlib.Path(config.built_on)).result_hash()} if config.built_on else {}),
        "seconds": {"training": position.seconds[_STAGE]},
    }
    workdir.save_result(result, ranks=rank_arrays({baseline.name: outputs}))
    return result


#: What the loop hands to a step beside its batch.
_NOTHING: Any = None
_NO_GRAPH = jraph.GraphsTuple(*(_NOTHING,) * len(jraph.GraphsTuple._fields))


class _Model:
    """A baseline's functions of arrays: its module stays inside of what is jitted."""

    def __init__(self, baseline: Baseline, config: Config, mesh: Mesh):
        self._baseline = baseline
        self._seed = config.seed
        self._mesh = mesh
        self._optimizer = make_optimizer(config.stage(_STAGE))
        abstract = nnx.eval_shape(baseline.build, jax.random.key(0))
        self._graphdef, _, _ = nnx.split(abstract, nnx.Param, ...)
        self._score = jax.jit(lambda params, buffers, batch: baseline.scores(self._merge(params, buffers), batch))

    def _merge(self, params: Any, buffers: Any) -> Any:
        return nnx.merge(self._graphdef, params, buffers)

    def _fresh(self, key: jax.Array) -> TrainState:
        init_key, step_key = jax.random.split(key)
        _, params, buffers = nnx.split(self._baseline.build(init_key), nnx.Param, ...)
        params = nnx.to_pure_dict(params)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            buffers=nnx.to_pure_dict(buffers),
            optimizer=self._optimizer.init(params),
            key=jax.random.key_data(step_key),
        )

    def fresh_state(self) -> TrainState:
        """Returns the first state of the seed."""
        return jax.jit(self._fresh, out_shardings=replicated(self._mesh))(jax.random.key(self._seed))

    def abstract_state(self) -> TrainState:
        """Returns shapes with shardings of a state, the target of a restore."""
        shapes = jax.eval_shape(self._fresh, jax.random.key(0))
        return abstract_like(shapes, jax.tree.map(lambda _: replicated(self._mesh), shapes))

    def train_step(self) -> TrainStep:
        """Returns the jitted step; it donates its state and compiles once for each length of histories."""

        def step(state: TrainState, batch: TrainBatch, _: Any) -> tuple[TrainState, dict[str, jax.Array]]:
            key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

            histories: Any = batch.histories

            def loss_of(params: Any) -> Array:
                return self._baseline.loss(self._merge(params, state.buffers), histories, key)

            loss, gradients = jax.value_and_grad(loss_of)(state.params)
            updates, moments = self._optimizer.update(gradients, state.optimizer, state.params)
            params: Any = optax.apply_updates(state.params, updates)
            new = dataclasses.replace(state, step=state.step + 1, params=params, optimizer=moments)
            return new, {"loss": loss, "gradient_norm": optax.global_norm(gradients)}

        everywhere = replicated(self._mesh)
        return jax.jit(
            step,
            donate_argnums=(0,),
            in_shardings=(everywhere, batch_sharding(self._mesh), everywhere),
            out_shardings=(everywhere, everywhere),
        )

    def score_function(self, params: Any, buffers: Any) -> ScoreFunction:
        """Returns the scores of all items for a batch of users."""
        return lambda batch: self._score(params, buffers, put(batch, batch_sharding(self._mesh)))
