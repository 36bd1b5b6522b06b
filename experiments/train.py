"""Trains a TokenRec: all stages of a config, resumable, then reports it beside baselines.

  python -m experiments.train --config=experiments/configs/quickstart.py --workdir=runs/quickstart [--config.a.b=value]

Run the same command again to resume; on a finished run it prints the result again.
"""

from absl import logging

from experiments import cli
from experiments.evaluation import baselines, make_evaluators, split_metrics
from experiments.report import print_result
from tokenrec_jax.config import Config
from tokenrec_jax.data.sources import load_interactions
from tokenrec_jax.processes import main_first
from tokenrec_jax.recommender import Retriever
from tokenrec_jax.sharding import make_mesh
from tokenrec_jax.training.build import build_model
from tokenrec_jax.training.run import train
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import Split, Stage

_CONFIG = cli.define_config()


def main() -> None:
    """Trains what the flags say."""
    config = _CONFIG()
    workdir = Workdir.start(cli.WORKDIR.value, config)
    if not workdir.finished:
        run(config, workdir)
    else:
        logging.info("%s: this run is finished", workdir.path)
    print_result(workdir)


def run(config: Config, workdir: Workdir) -> None:
    """Trains and evaluates; leaves result.json."""
    mesh = make_mesh(config.mesh)
    # The first to read a data set also prepares it for the others.
    with main_first("read data"):
        interactions = workdir.interactions() if workdir.begun else load_interactions(config.data)
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


if __name__ == "__main__":
    cli.run(main)
