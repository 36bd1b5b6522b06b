import json
import logging
import os

import pytest

from tokenrec_jax.serving.log import Add, AddItem, InteractionLog, LogError, Remove, Restore
from tokenrec_jax.types import ConfigError, DataError

EVENTS = [
    Add("u", "i", 5, "Ångström\n\u2028"), Remove("i"), Add("\ud800", 'a"b'), Restore("i"), AddItem("j"),
    AddItem("k", "Kay", ("red", "brand=\u2028"), "Soft.\n"),
]  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "log.jsonl"


def opened(path, run="a"):
    return InteractionLog.open(path, run=run)


def written(path, *, lines=3):
    """Writes some lines, one event each, and returns them as they are in the file, the first included."""
    log = opened(path)
    for number in range(lines):
        log.append([Add(f"u{number}", "i")])
    log.close()
    return path.read_bytes().splitlines(keepends=True)


def users(path):
    log = opened(path)
    try:
        return [event.user for batch in log.batches(size=2) for event in batch]
    finally:
        log.close()


def test_gives_back_what_it_was_given(path):
    log = opened(path)
    assert log.append(EVENTS[:1]) == 1
    assert log.append(EVENTS[1:]) == 2
    assert log.size == path.stat().st_size
    log.close()
    again = opened(path)
    assert again.sequence == 2
    assert list(again.batches(size=1)) == [EVENTS[:1], EVENTS[1:]]
    assert list(again.batches(size=100)) == [EVENTS]
    assert again.append([]) == 3
    again.close()
    assert [json.loads(line)["seq"] for line in path.read_text().splitlines()] == [0, 1, 2, 3]


def test_only_one_server_at_a_time(path):
    log = opened(path)
    with pytest.raises(ConfigError, match="another server writes to it"):
        opened(path)
    log.close()
    opened(path).close()


def test_belongs_to_one_run(path):
    written(path)
    with pytest.raises(ConfigError, match=r"jsonl:1: belongs to another run"):
        opened(path, run="b")


def test_a_torn_last_line_is_cut_off_wherever_it_was_torn(path, caplog):
    lines = written(path)
    whole = b"".join(lines)
    for length in (1, len(lines[-1]) // 2, len(lines[-1]) - 1):
        path.write_bytes(whole[: -len(lines[-1])] + lines[-1][:length])
        with caplog.at_level(logging.WARNING):
            assert users(path) == ["u0", "u1"]
        assert "cut short by a crash" in caplog.text
        assert path.read_bytes() == b"".join(lines[:-1])
    torn = path.with_name("log.jsonl.torn").read_bytes()
    assert torn == lines[-1][:1] + lines[-1][: len(lines[-1]) // 2] + lines[-1][:-1]


def test_a_last_line_of_which_blocks_were_lost_is_cut_off(path):
    lines = written(path)
    path.write_bytes(b"".join(lines[:-1]) + b"\0" * 20 + lines[-1][20:])
    assert users(path) == ["u0", "u1"]


def test_a_torn_first_line_is_an_empty_log(path):
    lines = written(path, lines=0)
    path.write_bytes(lines[0][:10])
    assert users(path) == []
    assert users(path) == []


@pytest.mark.parametrize("line", [1, 2, 3])
def test_damage_in_the_middle_is_an_error(path, line):
    lines = written(path)
    lines[line - 1] = lines[line - 1].replace(b'"seq"', b'"sEq"')
    path.write_bytes(b"".join(lines))
    with pytest.raises(DataError, match=rf"log\.jsonl:{line}: damaged"):
        opened(path)
    # Nothing was changed, and the lock is free again.
    assert path.read_bytes() == b"".join(lines)
    with pytest.raises(DataError):
        opened(path)


def test_a_missing_line_is_an_error(path):
    lines = written(path)
    path.write_bytes(b"".join([*lines[:2], lines[3]]))
    with pytest.raises(DataError, match=r"log\.jsonl:3: number 3 follows 1"):
        opened(path)


def test_a_full_disk_leaves_a_log_that_goes_on(path, monkeypatch):
    log = opened(path)
    log.append(EVENTS)
    real = os.write

    def half(file, data):
        if len(data) < 40:
            raise OSError(28, "No space left on device")
        return real(file, data[:40])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(LogError, match="No space left"):
            log.append([Add("lost", "i")])
    assert not log.broken
    assert log.append([Add("kept", "i")]) == 2
    log.close()
    log = opened(path)
    assert [event for batch in log.batches(size=9) for event in batch] == [*EVENTS, Add("kept", "i")]
    log.close()


def test_a_failed_fsync_ends_writing(path, monkeypatch):
    log = opened(path)

    def fail(_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(LogError, match="Input/output error on fsync"):
            log.append(EVENTS)
    with pytest.raises(LogError, match="restart the server"):
        log.append(EVENTS)
    assert log.broken
    log.close()


def test_says_where_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/log\.jsonl: .*; give a --state directory"):
        InteractionLog.open(tmp_path / "file" / "log.jsonl", run="a")
