"""Trains the cells of a grid with every seed, one after another, and writes their table.

  python -m experiments.ablate --grid=experiments/grids/mask_ratio.py --workdir=runs/mask_ratio
      [--seeds=0,1,2] [--only=REGEX] [--dry_run]

Run the same command again to go on after a stop, or to try again what failed; what has finished is skipped. Every cell
and seed is a process of its own with its run in DIR/<cell>/seed<k> and its output in DIR/<cell>/seed<k>.log. After each
of them DIR/table.csv and DIR/table.md are written anew; `python -m experiments.report --workdir=DIR` makes a page. What
was run with another config or other flags than the grid has now counts as failed, and no table averages it.
"""

import pathlib
import shlex
import tempfile

from absl import flags, logging

from experiments import cli
from experiments.ablation.child import Children, only_runner
from experiments.ablation.grid import load_grid
from experiments.ablation.plan import plan
from experiments.ablation.record import save_grid
from experiments.ablation.results import read_job
from experiments.ablation.runner import run_jobs
from experiments.ablation.tables import report, write_tables
from tokenrec_jax.types import ConfigError, StoppedError, TokenRecError

_GRID = flags.DEFINE_string("grid", "", "FILE[:ARGUMENT] of the grid.")
_SEEDS = flags.DEFINE_list("seeds", [], "Seeds instead of those of the grid.")
_ONLY = flags.DEFINE_string("only", "", "Regular expression: run only cells whose names hold it.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the commands instead; stages to share are not in them.")


def main() -> None:
    """Runs what the flags say. Never asks JAX for devices: they belong to the cells."""
    for flag in (_GRID, cli.WORKDIR):
        if not flag.value:
            raise ConfigError(f"--{flag.name}: not given; see python -m experiments.ablate --help")
    grid = load_grid(_GRID.value)
    workdir = pathlib.Path(cli.WORKDIR.value)
    jobs = plan(grid, workdir, seeds=_seeds(), only=_ONLY.value)
    if _DRY_RUN.value:
        print("\n".join(shlex.join(job.command()) for job in jobs))
        return
    with only_runner(workdir) as lock, tempfile.TemporaryDirectory(prefix="tokenrec-programs-") as programs:
        # With the seeds of earlier commands.
        grid = save_grid(grid, workdir, seeds=_seeds() or grid.seeds)
        everything = plan(grid, workdir)

        def write() -> None:
            write_tables(grid, [read_job(job) for job in everything], workdir)

        children = Children(lock, programs=programs)
        with children.catching_signals():
            outcome = run_jobs(
                jobs, among=everything, run=children.run, stopping=lambda: bool(children.signals), report=write
            )
        write()
    print(report(grid, [read_job(job) for job in everything]))
    logging.info("tables in %s and table.csv", workdir / "table.md")
    if outcome.stopped:
        line = f"stopped at {outcome.stopped.name}; run the same command again to go on"
        raise StoppedError(line, children.signals[0])
    if outcome.failed:
        names = "; ".join(job.name for job in outcome.failed)
        raise TokenRecError(f"{len(outcome.failed)} failed: {names}; run the same command again to try them again")


def _seeds() -> list[int]:
    try:
        return [int(seed) for seed in _SEEDS.value]
    except ValueError:
        raise ConfigError(f"--seeds={','.join(_SEEDS.value)}: allowed are whole numbers, such as 0,1,2") from None


if __name__ == "__main__":
    cli.run(main)
