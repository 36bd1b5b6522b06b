"""Writes a page about a run, or about a grid of them: tables, curves, codebooks, accuracy against coverage.

  python -m experiments.report --workdir=DIR

DIR/report.html is one file that needs nothing else, no network either. It tells as much as there is: a run or a grid
that has not finished has a page too. Needs the extra `report`.
"""

import pathlib

from experiments import cli
from experiments.ablation.record import is_grid
from experiments.reporting.grid_page import grid_page
from experiments.reporting.run_page import run_page
from tokenrec_jax.data.files import write_whole
from tokenrec_jax.types import ConfigError


def write_report(folder: pathlib.Path) -> pathlib.Path:
    """Writes the page of a directory and returns its path.

    Raises:
      ConfigError: the directory holds neither a run nor a grid, or cannot be written, or matplotlib is not installed.
    """
    if is_grid(folder):
        text = grid_page(folder)
    elif (folder / "config.json").is_file():
        text = run_page(folder)
    else:
        raise ConfigError(f"--workdir={folder}: holds neither a run nor a grid of runs")
    target = folder / "report.html"
    try:
        write_whole(target, text)
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror}; make the directory one that can be written") from None
    return target


def main() -> None:
    """Writes the page and prints where it is."""
    if not cli.WORKDIR.value:
        raise ConfigError("--workdir: not given; name the directory of a run or of a grid")
    print(write_report(pathlib.Path(cli.WORKDIR.value)))


if __name__ == "__main__":
    cli.run(main)
