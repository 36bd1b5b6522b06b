"""How much of a vector should the tokenizer not see in training? Mask ratios of 0 to 0.8.

Command: python -m experiments.ablate --grid=experiments/grids/mask_ratio.py:lastfm --workdir=runs/mask-ratio
Minutes: 51 for seed 0 on one core, beside other runs; the table is in experiments/README.md.
"""

from experiments.ablation.grid import Cell, Grid
from experiments.grids.datasets import choose

RATIOS = (0.0, 0.2, 0.4, 0.6, 0.8)


def get_grid(argument: str = "lastfm") -> Grid:
    """Returns the grid; `argument` is a data set of `datasets.py`."""
    dataset = choose(argument)
    cells = tuple(
        Cell(
            f"mask-{ratio}",
            {"mask ratio": ratio},
            config=dataset.config,
            overrides={"tokenizer.kind": "masked_vq", "tokenizer.mask_ratio": ratio},
        )
        for ratio in RATIOS
    )
    return Grid(f"Mask ratio, {dataset.name}", cells, reference="mask-0.2")
