"""Does the order of the systems depend on which item is the target? As if the data had ended earlier.

Each cell leaves out the newest interactions of every user, trains on what is older and ranks other targets. Leaving out
one makes targets of those by which recipes were chosen, so that is no cell.

Command: python -m experiments.ablate --grid=experiments/grids/backtest.py:lastfm --workdir=runs/backtest
Minutes: 33 for three seeds of the two cells that leave something out, one core beside another run; the table is in
experiments/README.md.
"""

from experiments.ablation.grid import Cell, Grid
from experiments.grids.datasets import choose


def get_grid(argument: str = "lastfm") -> Grid:
    """Returns the grid; `argument` is a data set of `datasets.py`."""
    dataset = choose(argument)
    cells = tuple(
        Cell(f"drop-{count}", {"newest left out": count}, dataset.config, {"data.drop_newest": count})
        for count in (0, 2, 3)
    )
    # Users and targets are those of a cell, so nothing is compared between cells.
    return Grid(f"Backtest, {dataset.name}", cells, beside=("ease", "item_knn", "lightgcn"))
