"""A recommender around a model that nobody trained: codes are there, weights are random."""

import pathlib

from experiments.configs import tiny
from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.data.sources import load_interactions
from tokenrec_jax.recommender import Recommender
from tokenrec_jax.retriever import Retriever
from tokenrec_jax.sharding import make_mesh
from tokenrec_jax.training.build import build_model, first_state
from tokenrec_jax.training.stages import begin_stage
from tokenrec_jax.types import Stage


def small_config(cache: pathlib.Path) -> Config:
    """Returns the tiny config on sixty users and forty items."""
    config = tiny.get_config()
    config.data.synthetic_users, config.data.synthetic_items = 60, 40
    config.data.cache_dir = str(cache)
    return config


def untrained_recommender(config: Config, interactions: Interactions | None = None) -> Recommender:
    """Returns a recommender at the start of stage LLM."""
    interactions = load_interactions(config.data) if interactions is None else interactions
    mesh = make_mesh(config.mesh)
    built = build_model(config, interactions.without_last(2), mesh=mesh)
    state = first_state(built, seed=config.seed, mesh=mesh)
    for stage in (Stage.TOKENIZER, Stage.LLM):
        state = begin_stage(state, built.graph, definition=built.definition, config=config, stage=stage, mesh=mesh)
    retriever = Retriever(built, mesh=mesh)
    return Recommender(
        interactions, config=config, mesh=mesh, retriever=retriever, params=state.params, buffers=state.buffers
    )
