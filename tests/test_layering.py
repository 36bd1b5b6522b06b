"""Imports point down only, files stay short, and nothing of this machine is in the repository."""

import ast
import pathlib

import pytest

from tests.conftest import REPOSITORY

# Lower layers come first. A module may import its own layer group only within its own package, and anything lower.
LAYERS = (
    ("types", "numerics", "processes", "array_files"),
    ("config",),
    ("config_checks",),
    ("sharding",),
    ("partitioned",),
    ("data", "models", "retrieval"),
    ("training", "evaluation", "baselines"),
    ("retriever", "growth", "answers"),
    ("requests", "explaining"),
    ("newcomers",),
    ("recommender",),
    ("export", "bulk", "portable", "serving", "ahead_of_time"),
)
# Said aloud: evaluation and training build on the layer below, and baselines score for the evaluator.
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MAX_LINES = 400

PACKAGE_FILES = sorted((REPOSITORY / "tokenrec_jax").rglob("*.py"))
PYTHON_FILES = sorted(
    path for folder in ("tokenrec_jax", "experiments", "tests") for path in (REPOSITORY / folder).rglob("*.py")
)


def imported_modules(path: pathlib.Path) -> set[str]:
    """Returns the second part of every `tokenrec_jax.x...` that a file imports, at any depth of the code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "experiments":
                found.add("experiments")
            if parts[0] == "tokenrec_jax" and len(parts) > 1:
                found.add(parts[1])
    return found


def test_imports_point_down():
    wrong = []
    for path in PACKAGE_FILES:
        own = path.relative_to(REPOSITORY / "tokenrec_jax").parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for other in imported_modules(path) - {own}:
            if other not in LEVEL or LEVEL[other] > LEVEL[own] or (LEVEL[other] == LEVEL[own] and LEVEL[own] > 2):
                wrong.append(f"{path.relative_to(REPOSITORY)} imports {other}")
    assert not wrong, wrong


def test_every_top_level_module_has_a_layer():
    names = {p.name.removesuffix(".py") for p in (REPOSITORY / "tokenrec_jax").iterdir() if not p.name.startswith("_")}
    assert names == set(LEVEL)


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_files_are_one_idea(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_detects_an_upward_import(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from tokenrec_jax.training.step import make_train_step\n")
    assert imported_modules(file) == {"training"}
