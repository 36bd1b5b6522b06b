"""Which system ranks best where interactions of one moment are in random order? For Beauty, whose raw order leaks.

Command: python -m experiments.ablate --grid=experiments/grids/ties_shuffled.py:beauty --workdir=runs/ties-shuffled
Minutes on two cores: not run.
"""

import dataclasses

from experiments.ablation.grid import Grid
from experiments.grids import main


def get_grid(argument: str = "beauty") -> Grid:
    """Returns the grid; `argument` is a data set of `datasets.py`."""
    grid = main.get_grid(argument)
    shuffled = {"evaluation.protocol": "ties_shuffled"}
    cells = tuple(dataclasses.replace(cell, overrides={**cell.overrides, **shuffled}) for cell in grid.cells)
    return dataclasses.replace(grid, title=f"{grid.title}, ties shuffled", cells=cells)
