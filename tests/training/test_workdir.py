"""One training at a time in a directory."""

import pytest

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
