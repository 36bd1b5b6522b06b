"""Does a model depend on the words of its prompts? The finished run is evaluated with a template it never saw.

Command: python -m experiments.ablate --grid=experiments/grids/unseen_prompt.py:lastfm --workdir=runs/unseen-prompt
Minutes: 13 for seed 0 on one core, beside other runs; the table is in experiments/README.md.
"""

from experiments.ablation.grid import Cell, Grid
from experiments.grids.datasets import choose


def get_grid(argument: str = "lastfm") -> Grid:
    """Returns the grid; `argument` is a data set of `datasets.py`."""
    dataset = choose(argument)
    cells = (
        Cell("seen", {"prompt": "seen"}, config=dataset.config),
        Cell("unseen", {"prompt": "unseen"}, kind="evaluate", flags={"prompt": "unseen"}, of="seen"),
    )
    return Grid(f"Unseen prompt, {dataset.name}", cells, reference="seen")
