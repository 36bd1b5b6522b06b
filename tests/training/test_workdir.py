"""One training at a time in a directory."""

import sys

import pytest

from tokenrec_jax.data.files import hold_or_refuse
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError


def test_a_second_training_of_a_directory_is_refused_while_the_first_one_runs(tmp_path):
    first, second = Workdir(tmp_path), Workdir(tmp_path)
    with (
        first.held(),
        pytest.raises(ConfigError, match=r"another training works there; wait for it, or stop it"),
        second.held(),
    ):
        pytest.fail("both")
    with second.held():
        pass


def test_where_there_are_no_locks_the_training_goes_on(tmp_path, monkeypatch, caplog):
    def refuse(_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("tokenrec_jax.training.workdir.hold", refuse)
    with Workdir(tmp_path).held():
        assert "Operation not supported; start no second training there" in caplog.text


def test_what_must_have_a_lock_says_that_there_are_none(tmp_path, monkeypatch):
    # As on Windows.
    monkeypatch.setitem(sys.modules, "fcntl", None)
    file = tmp_path / "log"
    with file.open("w") as opened, pytest.raises(ConfigError, match=r"log: no lock \(.*; give a directory where files"):
        hold_or_refuse(opened.fileno(), where=str(file), busy="busy")
