"""The directory of a grid: its record, and what is damaged there."""

import ast
import dataclasses
import json

import pytest

from experiments.ablation.grid import Cell, Grid
from experiments.ablation.plan import MEASURED_BY, Job, plan
from experiments.ablation.record import load_record, save_grid
from experiments.ablation.results import read_job
from experiments.ablation.runner import Outcome, run_jobs
from experiments.ablation.tables import report
from tests.commands import commands
from tests.conftest import REPOSITORY
from tests.grids import GRID, TINY, finish, write_config
from tokenrec_jax.training.workdir import BUILT_ON, Workdir
from tokenrec_jax.types import ConfigError


def leave(jobs: list[Job]) -> None:
    """Leaves all of them finished."""
    for job in jobs:
        finish(job.folder, {"tokenrec": [1, 2]})
        if job.config is not None:
            write_config(job)


def check(jobs: list[Job]) -> Outcome:
    """Runs jobs that have all finished."""

    def run(*_) -> int:
        raise AssertionError("nothing is left to run")

    return run_jobs(jobs, among=jobs, run=run, stopping=lambda: False, report=lambda: None)


def test_the_record_of_a_grid_keeps_seeds_of_earlier_commands(tmp_path):
    save_grid(GRID, tmp_path, seeds=[0])
    save_grid(GRID, tmp_path, seeds=[1, 0])
    grid, jobs = load_record(tmp_path)
    assert grid == dataclasses.replace(GRID, seeds=(0, 1))
    assert [job.folder for job in jobs] == [job.folder for job in plan(GRID, tmp_path)]


def test_a_damaged_cell_is_a_failure_of_its_own(tmp_path):
    config_cut, result_cut, whole, *_ = jobs = plan(GRID, tmp_path)
    leave(jobs)
    (config_cut.folder / "config.json").write_text("{")
    result_cut.result.write_text("[")
    outcome = check(jobs)
    assert outcome.failed == [config_cut, result_cut] and whole in outcome.finished
    assert "config.json: damaged" in config_cut.failure.read_text()
    assert "result.json: damaged" in read_job(result_cut).message
    result_cut.failure.unlink()
    assert "result.json: damaged" in report(GRID, [read_job(job) for job in jobs])


def test_what_rests_on_a_run_that_was_trained_anew_is_not_finished(tmp_path):
    seen = Cell("seen", {"prompt": "seen"}, config=TINY)
    unseen = Cell("unseen", {"prompt": "unseen"}, kind="evaluate", of="seen")
    jobs = plan(Grid("prompts", (seen, unseen), seeds=(0,)), tmp_path)
    leave(jobs)
    result = json.loads(jobs[1].result.read_text())
    jobs[1].result.write_text(json.dumps(result | {BUILT_ON: Workdir(jobs[0].folder).result_hash()}))

    assert check(jobs).finished == jobs
    finish(jobs[0].folder, {"tokenrec": [3, 4]})
    outcome = check(jobs)
    assert outcome.finished == jobs[:1] and outcome.failed == jobs[1:]
    assert "rests on an earlier run of seen; remove it to run it again" in jobs[1].failure.read_text()


def test_a_directory_is_one_grids_own(tmp_path):
    save_grid(GRID, tmp_path, seeds=[0])
    before = (tmp_path / "grid.json").read_text()
    with pytest.raises(ConfigError, match=f"holds the grid '{GRID.title}'; give 'Other' another one"):
        save_grid(dataclasses.replace(GRID, title="Other"), tmp_path, seeds=[0])
    assert (tmp_path / "grid.json").read_text() == before


def test_runs_of_another_config_are_in_no_mean(tmp_path):
    """The runs of seed 0 are older than a change of the grid; the command asks for seed 1 of one cell only."""
    cell = dataclasses.replace(GRID.cells[1], overrides={"tokenizer.mask_ratio": 0.6})
    changed = dataclasses.replace(GRID, cells=(GRID.cells[0], cell))
    save_grid(GRID, tmp_path, seeds=[0])
    leave(plan(GRID, tmp_path, seeds=[0]))
    leave(plan(changed, tmp_path, seeds=[1]))
    file = tmp_path / "grid.py"
    file.write_text(
        "import dataclasses\nfrom tests.grids import GRID\ndef get_grid():\n"
        f"    cell = dataclasses.replace(GRID.cells[1], overrides={cell.overrides})\n"
        "    return dataclasses.replace(GRID, cells=(GRID.cells[0], cell))\n"
    )
    (done,) = commands([("ablate", [f"--grid={file}", f"--workdir={tmp_path}", "--seeds=1", "--only=0.2"])])
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: 1 failed: mask-0.4, seed 0; run")
    table = (tmp_path / "table.md").read_text()
    assert "| mask-0.2 | 0.2 | 0, 1 |" in table and "| mask-0.4 | 0.4 | 1; 1 failed |" in table
    assert "another config (tokenizer.mask_ratio: 0.4 there, 0.6 here)" in table
    # A page has the record alone, a table that is written before the runner has come so far the configs alone.
    stale = plan(changed, tmp_path, seeds=[0], only="0.4")[0]
    assert [read_job(job).status for job in load_record(tmp_path)[1]] == ["finished", "failed", "finished", "finished"]
    stale.failure.unlink()
    assert read_job(stale).status == "failed"


def kinds(*, seen: float = 0.2, fraction: float = 0.05, prompt: str = "seen") -> Grid:
    flags = {"fraction": fraction, "by": "random"}
    cells = (
        Cell("seen", {}, config=TINY, overrides={"tokenizer.mask_ratio": seen}),
        Cell("unseen", {}, kind="evaluate", of="seen", flags={"prompt": prompt}),
        Cell("plain", {}, kind="evaluate", of="seen"),
        Cell("out", {}, config=TINY, kind="holdout", flags=flags),
    )
    return Grid("kinds", cells, seeds=(0,))


@pytest.mark.parametrize(
    ("changed", "failed", "reason"),
    [
        ({}, "", ""),
        ({"seen": 0.4}, "seen unseen plain", "seen/seed0: holds a run with another config (tokenizer.mask_"),
        ({"fraction": 0.2}, "out", "out/seed0: holds a run with other flags (fraction: 0.05 there, 0.2 here)"),
        ({"prompt": "unseen"}, "unseen", "holds a run with other flags (prompt: seen there, unseen here); remove it"),
    ],
)
def test_flags_and_the_config_of_what_a_cell_builds_on_are_compared_too(tmp_path, changed, failed, reason):
    def written(job: Job, values: dict) -> None:
        job.result.write_text(json.dumps(json.loads((job.folder / "result.json").read_text()) | values))

    _, unseen, plain, out = jobs = plan(kinds(), tmp_path)
    leave(jobs)
    for job in (unseen, plain):
        written(job, {"prompt": "seen"})
    written(out, {"fraction": 0.05, "by": "random"})
    jobs = plan(kinds(**changed), tmp_path)
    outcome = check(jobs)
    assert [job.cell.name for job in outcome.failed] == failed.split()
    for job in outcome.failed:
        assert reason in read_job(job).message


def test_flags_that_the_grid_no_longer_has_are_at_their_defaults_and_older_results_hold_none(tmp_path):
    grid = kinds()
    bare = dataclasses.replace(grid, cells=tuple(dataclasses.replace(cell, flags={}) for cell in grid.cells))
    _, _, plain, out = jobs = plan(bare, tmp_path)
    leave(jobs)
    out.result.write_text("{}")
    assert check(jobs).finished == jobs
    for job, values in ((plain, {"prompt": "unseen"}), (out, {"fraction": 0.05, "by": "activity"})):
        job.result.write_text(json.dumps(values))
    assert check(jobs).failed == [plain, out]
    assert "(by: activity there, random here)" in read_job(out).message


def test_defaults_of_flags_are_those_of_the_mains():
    for kind, defaults in MEASURED_BY.items():
        source = (REPOSITORY / "experiments" / f"{kind}.py").read_text(encoding="utf-8")
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
        defined = [call.args[:2] for call in calls if ast.unparse(call.func).startswith("flags.DEFINE_")]
        assert defaults.items() <= {ast.literal_eval(name): ast.literal_eval(value) for name, value in defined}.items()
