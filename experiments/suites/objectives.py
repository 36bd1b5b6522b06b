"""Supervised targets a second of the two objectives: one query a prompt, or one after every item of a history."""

import copy
import statistics
import time
from typing import Any

import jax
import numpy as np
from absl import logging

from tokenrec_jax.config import Config
from tokenrec_jax.data.batches import train_batches
from tokenrec_jax.data.sources import load_interactions
from tokenrec_jax.sharding import make_mesh, put_batch
from tokenrec_jax.training.build import build_model, first_state
from tokenrec_jax.training.stages import begin_stage
from tokenrec_jax.training.step import make_train_step
from tokenrec_jax.types import PADDING, Stage

#: Timed steps of each objective, a step of one after a step of the other, so that both see the same machine.
STEPS = 15


def measure(config: Config) -> dict[str, Any]:
    """Returns step times and targets a second of stage LLM with each objective, everything else as in `config`."""
    interactions = load_interactions(config.data)
    runs = {objective: _Run(config, objective, interactions) for objective in ("prompt", "dense")}
    for run in runs.values():
        run.step()  # compiles
    seconds = {name: [] for name in runs}
    targets = dict.fromkeys(runs, 0)
    for step in range(STEPS):
        for name, run in runs.items():
            started = time.perf_counter()
            targets[name] += run.step()
            seconds[name].append(time.perf_counter() - started)
        logging.info("step %d of %d", step + 1, STEPS)
    rows = {
        name: {
            "step_seconds": statistics.median(seconds[name]),
            "targets_per_step": targets[name] / STEPS,
            "targets_per_second": targets[name] / STEPS / statistics.median(seconds[name]),
        }
        for name in runs
    }
    ratio = rows["dense"]["targets_per_second"] / rows["prompt"]["targets_per_second"]
    return {"objectives": rows, "ratio": ratio, "batch_size": config.stage(Stage.LLM).batch_size}


class _Run:
    """A model at the start of stage LLM, with its step and its batches."""

    def __init__(self, config: Config, objective: str, interactions):
        config = copy.deepcopy(config)
        config.llm.objective = objective
        config.data.history_buckets = ()
        self._mesh = make_mesh(config.mesh)
        training = interactions.without_last(2)
        built = build_model(config, training, mesh=self._mesh)
        state = first_state(built, seed=config.seed, mesh=self._mesh)
        options = {"definition": built.definition, "config": config, "mesh": self._mesh}
        for stage in (Stage.TOKENIZER, Stage.LLM):
            state = begin_stage(state, built.graph, stage=stage, **options)
        self._state, self._graph = state, built.graph
        self._step = make_train_step(built.definition, config=config, stage=Stage.LLM, state=state, mesh=self._mesh)
        self._batches = train_batches(training, config=config, stage=Stage.LLM)

    def step(self) -> int:
        """Trains one step to its end and returns the number of its targets."""
        batch = next(self._batches)
        self._state, metrics = self._step(self._state, put_batch(batch, self._mesh), self._graph)
        jax.block_until_ready(metrics)
        assert batch.histories is not None
        return int(np.sum(batch.histories.target != PADDING))
