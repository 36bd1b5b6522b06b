"""What the host does for one train step: flattening the state, checking it, handing it to the devices.

The devices' own work is taken out: the measured function has the arguments, results, layouts and donation of the real
step, and moves its step counter alone.
"""

import dataclasses
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from tokenrec_jax.config import Config
from tokenrec_jax.data.batches import train_batches
from tokenrec_jax.data.graph import graph_shardings
from tokenrec_jax.data.sources import load_interactions
from tokenrec_jax.sharding import batch_sharding, make_mesh, put_batch, replicated, state_shardings
from tokenrec_jax.training.build import build_model, first_state
from tokenrec_jax.training.stages import begin_stage
from tokenrec_jax.types import Stage

#: Timed calls.
CALLS = 200


def measure(config: Config) -> dict[str, Any]:
    """Returns the seconds of host work a step of stage LLM, and how many arrays a state has."""
    mesh = make_mesh(config.mesh)
    training = load_interactions(config.data).without_last(2)
    built = build_model(config, training, mesh=mesh)
    state = first_state(built, seed=config.seed, mesh=mesh)
    state = begin_stage(state, built.graph, definition=built.definition, config=config, stage=Stage.LLM, mesh=mesh)
    batch = put_batch(next(train_batches(training, config=config, stage=Stage.LLM)), mesh)
    shardings = state_shardings(jax.eval_shape(lambda tree: tree, state), mesh)

    def step(state, batch, graph):
        return dataclasses.replace(state, step=state.step + 1), {"loss": jnp.zeros(()), "gradient_norm": jnp.zeros(())}

    call = jax.jit(
        step,
        donate_argnums=(0,),
        in_shardings=(shardings, batch_sharding(mesh), graph_shardings(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )
    seconds = []
    for _ in range(CALLS):
        started = time.perf_counter()
        state, _ = call(state, batch, built.graph)
        seconds.append(time.perf_counter() - started)
        jax.block_until_ready(state.step)
    return {"host_seconds_per_call": statistics.median(seconds), "arrays_in_state": len(jax.tree.leaves(state))}
