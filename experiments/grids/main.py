"""Which system ranks best? TokenRec and the trained baselines; those that need no training come along in its runs.

Command: python -m experiments.ablate --grid=experiments/grids/main.py:lastfm --workdir=runs/main-lastfm
Minutes: 59 for seed 0 on one core beside other work, 46 of them TIGER's; the table is in experiments/README.md.
"""

from experiments.ablation.grid import Cell, Grid
from experiments.grids.datasets import choose


def get_grid(argument: str = "lastfm") -> Grid:
    """Returns the grid; `argument` is a data set of `datasets.py`."""
    dataset = choose(argument)
    name = argument.partition(":")[0]
    rivals = tuple(
        Cell(
            system,
            {"system": system},
            config=f"experiments/configs/baselines_{system}.py:{name}",
            kind="baseline",
            flags={"baseline": system},
        )
        for system in ("sasrec", "tiger")
    )
    cells = (Cell("tokenrec", {"system": "tokenrec"}, config=dataset.config), *rivals)
    return Grid(f"All systems, {dataset.name}", cells, reference="tokenrec")
