"""A whole run from config to result.json, for the mains that train. Read `run`."""

import pathlib
from typing import Any

from absl import logging
from jax.sharding import Mesh

from experiments.evaluation import (
    graph_scores,
    held_out_splits,
    make_evaluators,
    model_scores,
    rank_arrays,
    ranked_splits,
    say_protocol,
    split_values,
)
from experiments.printing import left_out_notice
from experiments.untrained import baselines
from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import Interactions, training_part
from tokenrec_jax.data.sources import load_interactions
from tokenrec_jax.evaluation.comparability import protocol_interactions
from tokenrec_jax.processes import main_first
from tokenrec_jax.recommender import Retriever
from tokenrec_jax.sharding import make_mesh
from tokenrec_jax.training.build import BuiltModel, build_model
from tokenrec_jax.training.run import train
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError, Stage

#: Name of the model's own ranks in ranks.safetensors, beside the baselines'.
SYSTEM = "tokenrec"

#: Reason in `Interactions.dropped` of rows of users and items that a run does without, to be measured with them later.
LEFT_OUT = "of users and items held out of all training"


def run(
    config: Config,
    workdir: Workdir,
    *,
    interactions: Interactions | None = None,
    donor: pathlib.Path | None = None,
    left_out: dict[str, Any] | None = None,
) -> None:
    """Trains and ranks what was held out; leaves result.json. Goes on where a stopped run of the same directory stands.

    Args:
      config: of the run.
      workdir: its directory.
      interactions: what a new run trains on, in the order of the protocol; None: what `config.data` says.
      donor: a run, whose first stages a new run takes over as far as it ended them and the two have them in common.
      left_out: for result.json, which users and items `interactions` lack on purpose: their "fraction", chosen "by".

    Raises:
      ConfigError: users and items are held out of the data, by `Interactions.dropped`, and `left_out` does not say so.
    """
    if donor is not None and not workdir.has_state:
        # What is wrong with it is said before anything is written.
        Workdir.open_begun(str(donor), flag="--reuse")
    mesh = make_mesh(config.mesh)
    # The first to read a data set also prepares it for the others.
    with main_first("read data"):
        if workdir.begun:
            interactions = workdir.interactions()
        elif interactions is None:
            whole = load_interactions(config.data)
            interactions = protocol_interactions(whole, config.evaluation.protocol, config.seed)
    if LEFT_OUT in interactions.dropped and left_out is None:
        raise ConfigError(
            f"--workdir={workdir.path}: its data are what experiments.holdout left of {interactions.name}; "
            "go on with that command, or give another --workdir"
        )
    training = training_part(interactions, config.evaluation)
    say_protocol(config)
    if left_out is not None:
        logging.info("%s", left_out_notice(left_out))
    # Pretrained weights are read only for the first state.
    saved = workdir.language_model if workdir.has_state else None
    built = build_model(config, training, mesh=mesh, saved=saved)
    workdir.begin(config, interactions, language_model=built.llm_config, tokenizer=built.tokenizer, text=built.text)
    with workdir.held():
        _train_and_rank(config, workdir, built, interactions, training, mesh=mesh, donor=donor, left_out=left_out)


def _train_and_rank(
    config: Config,
    workdir: Workdir,
    built: BuiltModel,
    interactions: Interactions,
    training: Interactions,
    *,
    mesh: Mesh,
    donor: pathlib.Path | None,
    left_out: dict[str, Any] | None,
) -> None:
    retriever = Retriever(built, mesh=mesh)
    trained = train(
        built,
        training,
        config=config,
        mesh=mesh,
        workdir=workdir,
        evaluators=make_evaluators(built, retriever, interactions, config=config),
        donor=donor,
    )
    result: dict = {"dataset": interactions.name, "seed": config.seed, "protocol": config.evaluation.protocol}
    result |= {"graph": config.evaluation.graph, "held_out": config.evaluation.held_out, "baselines": {}}
    result |= {"left_out": left_out} if left_out is not None else {}
    result |= {"steps": trained.chosen_steps, "seconds": trained.seconds}
    if not held_out_splits(config):
        workdir.save_result(result)
        return
    logging.info("ranking all users against all items, model and baselines")
    systems = {}
    if Stage(config.stages[-1]) in (Stage.LLM, Stage.JOINT):
        state = trained.state
        scores = model_scores(retriever, state.params, state.buffers, interactions, config=config)
        systems[SYSTEM] = ranked_splits(scores, interactions, config=config)
        result |= split_values(systems[SYSTEM])
    lightgcn = graph_scores(built, trained.state, interactions, config=config, mesh=mesh)
    rivals = baselines(lightgcn, interactions, config=config)
    result["baselines"] = {name: rival.values for name, rival in rivals.items()}
    systems |= {name: rival.outputs for name, rival in rivals.items()}
    workdir.save_result(result, ranks=rank_arrays(systems))
