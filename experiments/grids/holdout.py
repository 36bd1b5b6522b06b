"""How do users and items fare that no training has seen? 5 % of each are held out, then added to the finished run.

Users are drawn (`random`), or those with the fewest interactions are taken (`activity`); items are always drawn.

Command: python -m experiments.ablate --grid=experiments/grids/holdout.py:lastfm --workdir=runs/holdout
Minutes: 16 for seed 0 on one core, beside other runs; its figures are in README.md, under Recommend.
"""

from experiments.ablation.grid import Cell, Grid
from experiments.grids.datasets import choose

FRACTION = 0.05


def get_grid(argument: str = "lastfm") -> Grid:
    """Returns the grid; `argument` is a data set of `datasets.py`."""
    dataset = choose(argument)
    cells = tuple(
        Cell(by, {"users": by}, config=dataset.config, kind="holdout", flags={"fraction": FRACTION, "by": by})
        for by in ("random", "activity")
    )
    return Grid(f"Held out of training, {dataset.name}", cells)
