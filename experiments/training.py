"""A whole run from config to result.json, for the mains that train. Read `run`."""

from absl import logging

from experiments.evaluation import baselines, make_evaluators, split_metrics
from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.data.sources import load_interactions
from tokenrec_jax.processes import main_first
from tokenrec_jax.recommender import Retriever
from tokenrec_jax.sharding import make_mesh
from tokenrec_jax.training.build import build_model
from tokenrec_jax.training.run import train
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import Split, Stage


def run(config: Config, workdir: Workdir, *, interactions: Interactions | None = None) -> None:
    """Trains and evaluates; leaves result.json. Goes on where a stopped run of the same directory stands.

    Args:
      config: of the run.
      workdir: its directory.
      interactions: what a new run trains on; None: what `config.data` says.
    """
    mesh = make_mesh(config.mesh)
    # The first to read a data set also prepares it for the others.
    with main_first("read data"):
        if workdir.begun:
            interactions = workdir.interactions()
        elif interactions is None:
            interactions = load_interactions(config.data)
    training = interactions.without_last(2)
    # Pretrained weights are read only for the first state.
    saved = workdir.language_model if workdir.has_state else None
    built = build_model(config, training, mesh=mesh, saved=saved)
    workdir.begin(config, interactions, language_model=built.llm_config, tokenizer=built.tokenizer)
    retriever = Retriever(built, mesh=mesh)
    trained = train(
        built,
        training,
        config=config,
        mesh=mesh,
        workdir=workdir,
        evaluators=make_evaluators(built, retriever, interactions, config=config),
    )
    logging.info("ranking all users against all items, model and baselines")
    result: dict = {"dataset": interactions.name, "seed": config.seed}
    if Stage(config.stages[-1]) in (Stage.LLM, Stage.JOINT):
        score = retriever.score_function(trained.state.params, trained.state.buffers)
        for split in Split:
            result[str(split)] = split_metrics(score, interactions, split, config=config)
    result["baselines"] = baselines(trained.state, interactions, config=config)
    result["seconds"] = trained.seconds
    workdir.save_result(result)
