"""Trains a baseline on the data, the split and the ranking of a config: SASRec, or a TIGER-style generator.

  python -m experiments.baseline --baseline=sasrec --config=experiments/configs/beauty.py:compact --workdir=runs/sasrec

A TokenRec's config names the data set, and the baseline has the settings that were chosen for it; the baseline's own
files, such as experiments/configs/baselines_sasrec.py:beauty, also take overrides: --config.model.dim=128. Run the same
command again to resume; on a finished run it prints the result again.
"""

from absl import flags, logging

from experiments import cli
from experiments.baseline_config import SYSTEMS, BaselineConfig, TigerRun, for_config
from experiments.baseline_models import make_baseline
from experiments.baseline_training import run
from experiments.printing import print_result
from tokenrec_jax.config import Config
from tokenrec_jax.data.sources import load_interactions
from tokenrec_jax.evaluation.comparability import protocol_interactions
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError

_CONFIG = cli.define_config(*SYSTEMS.values())
_BASELINE = flags.DEFINE_enum("baseline", None, sorted(SYSTEMS), "Which baseline.")
_CODES = flags.DEFINE_string("codes", "", "Working directory of a finished TokenRec run; sets config.codes of tiger.")


def main() -> None:
    """Trains what the flags say."""
    config = _config()
    # Refused before the directory is begun.
    config.loop_config()
    workdir = Workdir.start(cli.WORKDIR.value, config)
    if not workdir.finished:
        if workdir.begun:
            interactions = workdir.interactions()
        else:
            whole = load_interactions(config.data)
            interactions = protocol_interactions(whole, config.evaluation.protocol, config.seed)
        baseline = make_baseline(config, interactions)
        workdir.begin(config, interactions)
        with workdir.held():
            run(baseline, interactions, config=config, workdir=workdir)
    else:
        logging.info("%s: this run is finished", workdir.path)
    print_result(workdir)


def _config() -> BaselineConfig:
    """Returns the run that the flags describe."""
    if _BASELINE.value is None:
        raise ConfigError(f"--baseline: not given; allowed: {', '.join(sorted(SYSTEMS))}")
    config = _CONFIG()
    if isinstance(config, Config):
        config = for_config(_BASELINE.value, config)
    wanted = SYSTEMS[_BASELINE.value]
    if not isinstance(config, wanted):
        raise ConfigError(
            f"--config: got a {type(config).__name__}; allowed with --baseline={_BASELINE.value}: {wanted.__name__}"
        )
    if _CODES.value:
        if not isinstance(config, TigerRun):
            raise ConfigError(f"--codes={_CODES.value}: only tiger writes codes; leave it out")
        config.codes = _CODES.value
    return config


if __name__ == "__main__":
    cli.run(main)
