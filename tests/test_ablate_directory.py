"""The directory of a grid: its record, and what is damaged there."""

import dataclasses
import json

import pytest

from experiments.ablation.grid import Cell, Grid
from experiments.ablation.plan import plan
from experiments.ablation.record import load_record, save_grid
from experiments.ablation.results import read_job
from experiments.ablation.runner import Outcome, run_jobs
from experiments.ablation.tables import report
from tests.grids import GRID, TINY, finish, write_config
from tokenrec_jax.training.workdir import BUILT_ON, Workdir
from tokenrec_jax.types import ConfigError


def test_the_record_of_a_grid_keeps_seeds_of_earlier_commands(tmp_path):
    save_grid(GRID, tmp_path, seeds=[0])
    save_grid(GRID, tmp_path, seeds=[1, 0])
    grid, jobs = load_record(tmp_path)
    assert grid == dataclasses.replace(GRID, seeds=(0, 1))
    assert [job.folder for job in jobs] == [job.folder for job in plan(GRID, tmp_path)]


def test_a_damaged_cell_is_a_failure_of_its_own(tmp_path):
    config_cut, result_cut, whole, *_ = jobs = plan(GRID, tmp_path)
    for job in jobs:
        finish(job.folder, {"tokenrec": [1, 2]})
        write_config(job)
    (config_cut.folder / "config.json").write_text("{")
    result_cut.result.write_text("[")

    def run(*_) -> int:
        raise AssertionError("nothing is left to run")

    outcome = run_jobs(jobs, among=jobs, run=run, stopping=lambda: False, report=lambda: None)
    assert outcome.failed == [config_cut, result_cut] and whole in outcome.finished
    assert "config.json: damaged" in config_cut.failure.read_text()
    assert "result.json: damaged" in read_job(result_cut).message
    result_cut.failure.unlink()
    assert "result.json: damaged" in report(GRID, [read_job(job) for job in jobs])


def test_what_rests_on_a_run_that_was_trained_anew_is_not_finished(tmp_path):
    seen = Cell("seen", {"prompt": "seen"}, config=TINY)
    unseen = Cell("unseen", {"prompt": "unseen"}, kind="evaluate", of="seen")
    jobs = plan(Grid("prompts", (seen, unseen), seeds=(0,)), tmp_path)
    for job in jobs:
        finish(job.folder, {"tokenrec": [1, 2]})
    write_config(jobs[0])
    result = json.loads(jobs[1].result.read_text())
    jobs[1].result.write_text(json.dumps(result | {BUILT_ON: Workdir(jobs[0].folder).result_hash()}))

    def run(*_) -> int:
        raise AssertionError("nothing is left to run")

    def go() -> Outcome:
        return run_jobs(jobs, among=jobs, run=run, stopping=lambda: False, report=lambda: None)

    assert go().finished == jobs
    finish(jobs[0].folder, {"tokenrec": [3, 4]})
    outcome = go()
    assert outcome.finished == jobs[:1] and outcome.failed == jobs[1:]
    assert "rests on an earlier run of seen; remove it to run it again" in jobs[1].failure.read_text()


def test_a_directory_is_one_grids_own(tmp_path):
    save_grid(GRID, tmp_path, seeds=[0])
    before = (tmp_path / "grid.json").read_text()
    with pytest.raises(ConfigError, match=f"holds the grid '{GRID.title}'; give 'Other' another one"):
        save_grid(dataclasses.replace(GRID, title="Other"), tmp_path, seeds=[0])
    assert (tmp_path / "grid.json").read_text() == before
