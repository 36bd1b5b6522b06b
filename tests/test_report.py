"""Pages of runs and grids: whole HTML, everything in it, nothing from elsewhere."""

import html.parser
import json
import pathlib
import re
import sys

import pytest

from experiments.ablation.plan import plan
from experiments.ablation.record import save_grid
from experiments.reporting import plots
from experiments.reporting.grid_page import grid_page
from experiments.reporting.run_page import run_page
from tests.grids import GRID, finish, write_config, write_metrics
from tokenrec_jax.types import ConfigError

pytest.importorskip("matplotlib")

_VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(html.parser.HTMLParser):
    """Checks that elements are closed in order and collects what is asked about."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.figures = 0
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag not in _VOID:
            self.open.append(tag)
        self.figures += tag == "svg"
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[name] for name in ("href", "src") if name in values]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def check(text: str) -> Reader:
    """Returns what a page holds; it must be whole, refer to itself only and show every figure with a title."""
    page = Reader(text)
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)
    assert "://" not in text and "<script" not in text and "@import" not in text
    assert text.count("<svg") == text.count('role="img"')
    return page


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    jobs = plan(GRID, tmp_path)
    for job in jobs[:3]:
        finish(job.folder, {"tokenrec": [1, 2, 30], "popularity": [5, 50, 50]})
        write_config(job)
        write_metrics(job.folder)
    jobs[3].failure.write_text("loss is <nan>")
    save_grid(GRID, tmp_path, seeds=GRID.seeds)
    return tmp_path


def test_page_of_a_grid(folder):
    text = grid_page(folder)
    page = check(text)
    assert page.figures == 4
    for words in ("Masks <&>", "Does <masking> help?", "mask-0.4, seed 1", "loss is <nan>", "popularity", "mask ratio"):
        assert words in page.words
    assert "<masking>" not in text and "currentColor" in text
    assert grid_page(folder) == text


def test_page_of_a_grid_names_cells_of_several_configs(folder):
    assert "different configs" not in grid_page(folder)
    file = folder / "mask-0.2" / "seed1" / "config.json"
    config = json.loads(file.read_text())
    # What one does not know is no difference.
    del config["llm"]["dropout"]
    file.write_text(json.dumps(config))
    assert "different configs" not in grid_page(folder)
    config["train"]["steps"] = 7
    file.write_text(json.dumps(config))
    words = check(grid_page(folder)).words
    assert "The seeds of mask-0.2 were run with different configs (train.steps): their mean is of no one" in words
    assert "The seeds of mask-0.4" not in words


def test_page_of_a_run(folder):
    run = folder / "mask-0.2" / "seed0"
    page = check(run_page(run))
    assert page.figures == 4
    assert "tokenrec on LastFM" in page.words and "Test split" in page.words
    assert "12.5% of the items" in page.words
    (run / "result.json").unlink()
    page = check(run_page(run))
    assert "has not finished" in page.words and page.figures == 3


def test_two_axes_of_numbers_are_a_heat_map_with_its_values():
    found = plots.heat_map(
        {(64, 1): 0.01, (128, 1): 0.02, (64, 2): 0.03},
        x_label="codes", y_label="books", label="NDCG@10", prefix="p", title="a & b",
    )  # fmt: skip
    check(found)
    assert all(text in found for text in ("0.0100", "0.0200", "0.0300", "codes", "books", "a &amp; b"))
    assert "nan" not in found


def test_without_matplotlib_one_line_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=re.escape("pip install -e '.[report]'")):
        grid_page(folder)
