"""Every name that code reads is defined. Linters are told not to look: to them, shapes of jaxtyping are names."""

import builtins
import pathlib
import symtable

import pytest

from tests.conftest import REPOSITORY

FILES = sorted(path for folder in ("tokenrec_jax", "experiments") for path in (REPOSITORY / folder).rglob("*.py"))
GIVEN = frozenset(dir(builtins)) | {"__file__"}


def undefined_names(path: pathlib.Path) -> set[str]:
    """Returns the names that a module or its functions read from the module, which does not define them."""
    module = symtable.symtable(path.read_text(encoding="utf-8"), str(path), "exec")
    defined = {symbol.get_name() for symbol in module.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    scopes, read = [module], set()
    while scopes:
        scope = scopes.pop()
        scopes.extend(scope.get_children())
        read |= {
            symbol.get_name()
            for symbol in scope.get_symbols()
            if symbol.is_referenced() and (symbol.is_global() or scope is module)
        }
    return read - defined - GIVEN


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_name_is_defined(path):
    assert undefined_names(path) == set()


def test_detects_a_missing_import(tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "import json\nfrom jaxtyping import Float\n\n\nclass A:\n    def load(self, x: Float[object, ' items']):\n"
        "        return [Run.open(json.dumps(y)) for y in x]\n"
    )
    assert undefined_names(file) == {"Run"}
