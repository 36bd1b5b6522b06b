"""Does the graph matter? LightGCN against matrix factorisation, each below TokenRec and alone.

Command: python -m experiments.ablate --grid=experiments/grids/encoder.py:lastfm --workdir=runs/encoder
Minutes: 26 for seed 0 on one core, compiled anew in each cell; the table is in experiments/README.md.
"""

from experiments.ablation.grid import Cell, Grid
from experiments.grids.datasets import choose


def get_grid(argument: str = "lastfm") -> Grid:
    """Returns the grid; `argument` is a data set of `datasets.py`."""
    dataset = choose(argument)
    cells = (
        Cell("lightgcn", {"encoder": "LightGCN"}, config=dataset.config),
        Cell(
            "mf",
            {"encoder": "matrix factorisation"},
            config=dataset.config,
            overrides={"lightgcn.num_layers": 0},
        ),
    )
    # `lightgcn` is the system that ranks by dot product of the encoder's vectors, whichever encoder that is.
    return Grid(f"Encoder, {dataset.name}", cells, reference="lightgcn", beside=("lightgcn",))
